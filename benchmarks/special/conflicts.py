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
    """Our workers, counting."""

    def start_worker(self, stage: Stage) -> None:
        """One more worker that counts."""
        argv = (sys.executable, "-m", "benchmarks.special.counting_worker")
        stage.processes.start("worker", argv, env={**self.environment(stage), FOLDER: str(stage.folder)})

    def watch(self, stage: Stage) -> Callable[[], Mapping[str, float]]:
        """The share of tries, of a window, that another worker had forestalled."""
        shares = Ours.watch(self, stage)
        before = counted(stage.folder)

        def told() -> Mapping[str, float]:
            counts = counted(stage.folder).since(before)
            if not (counts.tried and counts.written):
                raise BenchError(f"the workers have granted, and counted no try or no conditional write: {counts}")
            return {**shares(), "conflicts_percent": counts.conflicts_percent}

        return told


CONFLICTS = CountedConflicts("sqlite-next", "sqlite", workers=2, mode="next")
