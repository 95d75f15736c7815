"""Where a worker's time goes: `python -m benchmarks.profile [memory-rq] [--outstanding 256] [--sort tottime]`.

It profiles the worker of one of our rows during one window. A profile slows down what it measures: read its shares.
"""

import argparse
import pstats
import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace

from benchmarks.bars import MANY
from benchmarks.contestant import Command, Stage
from benchmarks.ours.rows import MEMORY_INTAKE, MEMORY_RQ, SQLITE_1, Ours
from benchmarks.processes import wait_for
from benchmarks.special.profiled_worker import FILE
from benchmarks.visit import Rates, visit

ROWS = (MEMORY_RQ, MEMORY_INTAKE, SQLITE_1)
STATS = "worker.prof"
LINES = 45


@dataclass(frozen=True, slots=True)
class Profiled(Ours):
    """One of our rows whose worker profiles itself in the window."""

    sort: str = "tottime"

    def start_worker(self, stage: Stage) -> None:
        """The worker, with a file for its profile."""
        argv = (sys.executable, "-m", "benchmarks.special.profiled_worker")
        env = {**self.environment(stage), FILE: str(stage.folder / STATS)}
        stage.processes.start("worker", argv, env=env)

    def driver(self, stage: Stage, outstanding: int) -> Command:
        """Our own, told whom to wake as the window begins."""
        command = Ours.driver(self, stage, outstanding)
        worker = stage.processes.of_role("worker")[0].pid
        return replace(command, argv=(*command.argv, "--profile", str(worker)))

    def told(self, stage: Stage) -> Mapping[str, float]:
        """Print what the worker spent its time on."""
        worker = stage.processes.of_role("worker")[0]
        worker.terminate()
        wait_for(lambda: worker.poll() is not None, "the worker ends")
        pstats.Stats(str(stage.folder / STATS)).sort_stats(self.sort).print_stats(LINES)
        return {}

    def winners(self, stage: Stage) -> int | None:  # noqa: ARG002 - its memory is gone
        """Not looked at: the worker has ended."""
        return None


def main() -> None:
    """Profile one window and print it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("row", nargs="?", choices=[row.name for row in ROWS], default=MEMORY_RQ.name)
    parser.add_argument("--outstanding", type=int, default=MANY)
    parser.add_argument("--window", type=float, default=3.0)
    parser.add_argument("--sort", choices=("tottime", "cumtime"), default="tottime")
    options = parser.parse_args()
    row = next(row for row in ROWS if row.name == options.row)
    profiled = Profiled(row.name, row.store, row.wire, sort=options.sort)
    [measure] = visit(profiled, [options.outstanding], round=0, warm_s=0.3, window_s=options.window, rates=Rates())
    print(f"{row.name}: {measure.per_s:,.0f} a second while it was profiled")


if __name__ == "__main__":
    main()
