"""Runs many seeds, adds up what happened in them, and says where too little did: such a run proves nothing."""

import gc
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache

import structlog

from tests.simulation.faults import EVENTS, SITES
from tests.simulation.redis_side.lua import Lua
from tests.simulation.world import Timing, Twin, World, sound

ENOUGH: Mapping[str, float] = {
    "requests": 40,
    "grants": 4,
    "completions": 2,
    "expiries": 0.4,
    "replayed": 1,
    "stale_tried": 1,
    "stale_refused": 0.5,
    "renewed": 1,
    "because: quota": 0.3,
    "because: not_unique": 0.05,
    "superseded": 0.08,
    "superseded_late": 0.01,
    "fires": 0.08,
    "ended: timed_out": 0.03,
    "ended: revoked": 0.05,
}
"""What a world must have seen on the average, or the seeds test nothing."""


@dataclass(slots=True)
class Summary:
    """What many worlds saw."""

    worlds: int = 0
    counts: Counter[str] = field(default_factory=Counter)
    struck: Counter[str] = field(default_factory=Counter)
    wrong: dict[int, list[str]] = field(default_factory=dict)
    """By seed, what was wrong there."""

    def add(self, other: "Summary") -> None:
        """Take in what other worlds saw."""
        self.worlds += other.worlds
        self.counts += other.counts
        self.struck += other.struck
        self.wrong |= other.wrong

    def missing(self) -> list[str]:
        """What happened too rarely, and faults that never struck. Asked of a few dozen worlds or more."""
        rare = [
            f"{name}: {self.counts[name]}" for name, least in ENOUGH.items() if self.counts[name] < least * self.worlds
        ]
        kinds = [*EVENTS, *(fault for faults in SITES.values() for fault in faults)]
        return rare + [f"{kind} never struck" for kind in kinds if not self.struck[kind]]


def run(
    seeds: Iterable[int],
    *,
    long: bool = False,
    twin: Twin = sound,
    until: Callable[[Sequence[str]], bool] = lambda _wrong: False,
) -> Summary:
    """One world for each seed, or only as many as it takes to find one in which what is wrong is as `until` says."""
    summary, lua, timing = Summary(), _lua(), _timing(long=long)
    with _undisturbed():
        for seed in seeds:
            found = _judged(World(seed, lua=lua, timing=timing, twin=twin), seed)
            gc.collect()  # while this world is in the processor's cache: for many at once it takes twice as long
            summary.add(found)
            if until(found.wrong.get(seed, ())):
                break
    return summary


@cache
def _lua() -> Lua:
    """With the scripts that it has compiled, for all worlds of this process."""
    return Lua()


@cache
def _timing(*, long: bool) -> Timing:
    return Timing.long() if long else Timing.short()


def _judged(world: World, seed: int) -> Summary:
    judge = world.run()
    return Summary(1, judge.counts, world.dice.struck, {seed: judge.wrong} if judge.wrong else {})


@contextmanager
def _undisturbed() -> Iterator[None]:
    """Without log lines, and without garbage collections in the midst of a world: they cost a third of the time.

    What there was before the first world is not looked at. What an earlier run has left in it, which nobody else would
    ever collect (some 15 kB a world), goes first.
    """
    before, enabled = structlog.get_config(), gc.isenabled()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(50), processors=[_drop])
    gc.disable()
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()
        structlog.configure(**before)
        if enabled:
            gc.enable()


def _drop(*_: object) -> Mapping[str, object]:
    raise structlog.DropEvent


def trace(seed: int, tell: Callable[[str], None], *, long: bool = False, twin: Twin = sound) -> list[str]:
    """Run one world and tell every step of it. What was wrong."""
    world = World(seed, lua=Lua(), timing=_timing(long=long), twin=twin, told=tell)

    def log(_logger: object, _method: str, event: Mapping[str, object]) -> Mapping[str, object]:
        fields = " ".join(f"{name}={value}" for name, value in event.items() if name != "event")
        world.tell(f"log     {event['event']} {fields}")
        raise structlog.DropEvent

    before = structlog.get_config()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(10), processors=[log])
    try:
        return world.run().wrong
    finally:
        structlog.configure(**before)
