"""How often two workers reach for the same job: 64 outstanding claim-next requests, one queue."""

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from benchmarks.contestant import Stage
from benchmarks.ours.rows import Ours
from benchmarks.processes import BenchError
from benchmarks.special.counting_worker import FOLDER, counted

OUTSTANDING = 64


@dataclass(frozen=True, slots=True)
class CountedConflicts(Ours):
    """Our workers over a store that counts."""

    def start_worker(self, stage: Stage) -> None:
        """One more worker that counts."""
        argv = (sys.executable, "-m", "benchmarks.special.counting_worker")
        stage.processes.start("worker", argv, env={**self.environment(stage), FOLDER: str(stage.folder)})

    def watch(self, stage: Stage) -> Callable[[], Mapping[str, float]]:
        """The share of conditional writes that came too late."""
        shares = Ours.watch(self, stage)

        def told() -> Mapping[str, float]:
            written, late = counted(stage.folder)
            if not written:
                raise BenchError("the store counted no conditional write: the workers write past it")
            return {**shares(), "conflicts_percent": 100 * late / (written + late)}

        return told


CONFLICTS = CountedConflicts("sqlite-next", "sqlite", workers=2, mode="next")
