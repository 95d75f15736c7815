"""Where a worker's CPU time goes: `python -m benchmarks.profile [memory-rq] [--outstanding 256]`.

The worker of one of our rows is looked at every few milliseconds of its CPU time, which slows it down by little.
Time spent in C is told of the Python function that runs next, mostly the one that called it.
"""

import argparse
import sys
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from operator import attrgetter
from pathlib import Path

from benchmarks.bars import MANY
from benchmarks.contestant import Command, Stage
from benchmarks.ours.rows import MEMORY_INTAKE, MEMORY_RQ, SQLITE_1, Ours
from benchmarks.processes import scratch, wait_for
from benchmarks.special.profiled_worker import FILE
from benchmarks.stacks import Stack, by_function, by_step, read
from benchmarks.visit import Rates, visit

ROWS = (MEMORY_RQ, MEMORY_INTAKE, SQLITE_1)
PUBLISHED = (MEMORY_INTAKE, SQLITE_1)
"""What a whole run tells of."""
WINDOW_S = 10.0
LINES = 45


@dataclass(frozen=True, slots=True)
class Profiled(Ours):
    """One of our rows whose worker is looked at in the window."""

    stacks: Path = Path("worker.stacks")

    def start_worker(self, stage: Stage) -> None:
        """The worker, with a file for its stacks."""
        argv = (sys.executable, "-m", "benchmarks.special.profiled_worker")
        stage.processes.start("worker", argv, env={**self.environment(stage), FILE: str(self.stacks)})

    def driver(self, stage: Stage, outstanding: int) -> Command:
        """Our own, told whom to wake as the window begins."""
        command = Ours.driver(self, stage, outstanding)
        worker = stage.processes.of_role("worker")[0].pid
        return replace(command, argv=(*command.argv, "--profile", str(worker)))

    def told(self, stage: Stage) -> Mapping[str, float]:
        """Nothing, but the worker has ended afterwards, and left its file."""
        worker = stage.processes.of_role("worker")[0]
        worker.terminate()
        wait_for(lambda: worker.poll() is not None, "the worker ends")
        return {}

    def winners(self, stage: Stage) -> int | None:  # noqa: ARG002 - its memory is gone
        """Not looked at: the worker has ended."""
        return None


def profiled(row: Ours, *, outstanding: int, window_s: float) -> tuple[float, Counter[Stack]]:
    """Requests a second in one window, and the stacks that were seen in it."""
    with scratch() as folder:
        seen = Path(folder) / "worker.stacks"
        looked_at = Profiled(row.name, row.store, row.wire, stacks=seen)
        [measure] = visit(looked_at, [outstanding], round=0, warm_s=0.3, window_s=window_s, rates=Rates())
        return measure.per_s, read(seen)


def measure() -> dict[str, list[float]]:
    """Percent of a worker's CPU time by step, for the rows that are published."""
    found = {row.name: by_step(profiled(row, outstanding=MANY, window_s=WINDOW_S)[1]) for row in PUBLISHED}
    return {f"{row} worker, {step}, %": [share] for row, steps in found.items() for step, share in steps.items()}


def main() -> None:
    """Profile one window and print it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("row", nargs="?", choices=[row.name for row in ROWS], default=MEMORY_RQ.name)
    parser.add_argument("--outstanding", type=int, default=MANY)
    parser.add_argument("--window", type=float, default=WINDOW_S, metavar="S")
    parser.add_argument("--sort", choices=("own", "whole"), default="own", help="functions by their own time")
    options = parser.parse_args()
    row = next(row for row in ROWS if row.name == options.row)
    per_s, seen = profiled(row, outstanding=options.outstanding, window_s=options.window)
    print(f"{row.name}: {per_s:,.0f} a second, looked at {seen.total():,} times")
    for step, share in by_step(seen).items():
        print(f"{share:6.1f} %          {step}")
    print("   own %  whole %")
    for each in sorted(by_function(seen), key=attrgetter(options.sort), reverse=True)[:LINES]:
        print(f"{each.own:8.1f} {each.whole:8.1f}  {each.call}")


if __name__ == "__main__":
    main()
