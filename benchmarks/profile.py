"""Where the time of a worker and of its client goes: `python -m benchmarks.profile [memory-rq] [--outstanding 256]`.

Worker and client of one of our rows are looked at every few milliseconds, of their CPU time and by the clock, which
slows them down by little. Time spent in C is told of the Python function that runs next, mostly the one that called it.
"""

import argparse
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from operator import attrgetter
from typing import Any, get_args

from benchmarks.bars import MANY, ONE, SOME
from benchmarks.contestant import Command, Contestant, Stage
from benchmarks.looks import Kind
from benchmarks.ours.rows import MEMORY_INTAKE, MEMORY_RQ, SQLITE_1, SQLITE_2
from benchmarks.profiles import name
from benchmarks.redis_looks import RedisLook, look, shares
from benchmarks.rounds import Special
from benchmarks.special import renewals
from benchmarks.stacks import CLIENT_STEPS, STEPS, Stack, Steps, by_function, by_step
from benchmarks.stock.rows import RQ_CLIENT
from benchmarks.visit import Rates, visit

ROLES: Mapping[str, Steps] = {"worker": STEPS, "driver": CLIENT_STEPS}
PUBLISHED: Sequence[tuple[Contestant, int]] = (
    (MEMORY_RQ, ONE),
    (MEMORY_RQ, SOME),
    (MEMORY_RQ, MANY),
    (MEMORY_INTAKE, MANY),
    (SQLITE_1, ONE),
    (SQLITE_1, MANY),
    (SQLITE_2, MANY),
    (RQ_CLIENT, MANY),
    (renewals.SINGLE, MANY),
    (renewals.BATCHED, SOME),
    (renewals.CROWDED, SOME),
)
"""What a whole run tells of: every row of ours that a bar is about."""
WINDOW_S = 4.0
LINES = 45


@dataclass(frozen=True, slots=True)
class LookedAt:
    """A row whose workers and client are looked at in the window."""

    row: Contestant
    seen: dict[tuple[str, Kind], Counter[Stack]] = field(default_factory=dict)
    redis: list[RedisLook] = field(default_factory=list)
    """As the window began, and as it had ended."""

    @property
    def name(self) -> str:
        """The row's."""
        return self.row.name

    @property
    def pooled(self) -> bool:
        """As the row has it."""
        return self.row.pooled

    def serve(self, stage: Stage) -> None:
        """As the row does."""

        def look_at_redis() -> None:
            with stage.server.connect() as connection:
                self.redis.append(look(connection))

        stage.processes.looked_at = ROLES
        stage.processes.on_turn.append(look_at_redis)
        self.row.serve(stage)

    def driver(self, stage: Stage, outstanding: int) -> Command:
        """The row's."""
        return self.row.driver(stage, outstanding)

    def watch(self, stage: Stage) -> Callable[[], Mapping[str, Any]]:
        """As the row does; what was seen is kept."""
        told = self.row.watch(stage)

        def keep() -> Mapping[str, Any]:
            for role in ROLES:
                for kind in get_args(Kind):
                    self.seen[role, kind] = stage.processes.seen(role, kind)
            return told()

        return keep

    def winners(self, stage: Stage) -> int | None:
        """As the row has them."""
        return self.row.winners(stage)


def profiled(row: Contestant, *, outstanding: int, window_s: float) -> tuple[float, LookedAt]:
    """Requests a second in one window, and what was seen in it; one that ends early is as good."""
    looked_at = LookedAt(row)
    [measure] = visit(looked_at, [outstanding], round=0, warm_s=0.3, window_s=window_s, rates=Rates())
    return measure.per_s, looked_at


def specials() -> dict[str, Special]:
    """What is published, each by itself: one that fails takes no other along."""
    return {f"profile of {row.name} at {level}": partial(_measure, row, level) for row, level in PUBLISHED}


def _measure(row: Contestant, outstanding: int) -> dict[str, list[float]]:
    _, looked_at = profiled(row, outstanding=outstanding, window_s=WINDOW_S)
    steps = {(role, kind): by_step(seen, ROLES[role]) for (role, kind), seen in looked_at.seen.items()} | {
        ("redis", "cpu"): shares(looked_at.redis)
    }
    return {
        name(row.name, outstanding, role, kind, step): [share]
        for (role, kind), found in steps.items()
        for step, share in found.items()
    }


def main() -> None:
    """Profile one window and print it."""
    rows = {row.name: row for row, _ in PUBLISHED}
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("row", nargs="?", choices=rows, default=MEMORY_RQ.name)
    parser.add_argument("--outstanding", type=int, default=MANY)
    parser.add_argument("--window", type=float, default=10.0, metavar="S")
    parser.add_argument("--of", choices=ROLES, default="worker")
    parser.add_argument("--by", choices=get_args(Kind), default="cpu", help="CPU time, or the clock: waits, too")
    parser.add_argument("--sort", choices=("own", "whole"), default="own", help="functions by their own time")
    options = parser.parse_args()
    per_s, looked_at = profiled(rows[options.row], outstanding=options.outstanding, window_s=options.window)
    seen = looked_at.seen[options.of, options.by]
    print(f"{options.row}: {per_s:,.0f} a second; {options.of}, by {options.by}")
    for step, share in by_step(seen, ROLES[options.of]).items():
        print(f"{share:6.1f} %          {step}")
    print("   own %  whole %")
    for each in sorted(by_function(seen), key=attrgetter(options.sort), reverse=True)[:LINES]:
        print(f"{each.own:8.1f} {each.whole:8.1f}  {each.call}")


if __name__ == "__main__":
    main()
