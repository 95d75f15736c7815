"""One worker of two is killed in the middle of the window; the round goes on, and every claim wins all the same."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from benchmarks.contestant import Command, Stage
from benchmarks.ours.rows import Ours


@dataclass(frozen=True, slots=True)
class Killed(Ours):
    """Two workers on SQLite; the driver kills the first."""

    def driver(self, stage: Stage, outstanding: int) -> Command:
        """Our own, told whom to kill."""
        command = Ours.driver(self, stage, outstanding)
        victim = stage.processes.of_role("worker")[0].pid
        return replace(command, argv=(*command.argv, "--kill", str(victim)))

    def watch(self, stage: Stage) -> Callable[[], Mapping[str, float]]:  # noqa: ARG002 - one of the two will be gone
        """Nothing of shares."""
        return dict


KILLED = Killed("sqlite-2-killed", "sqlite", workers=2)
