"""A worker's own steps on a real Redis, each of them counted."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, cast

import pytest
import redis

from broker import lately
from broker.coordinator import Context
from broker.entropy import SystemEntropy
from broker.queues import QUEUES, Wire
from broker.settings import load
from broker.transitions import Rules
from datastore import Datastore
from tests.caller import Caller
from tests.guard.scenes import SCENES
from tests.guard.sockets import Traffic, counted_traffic
from tests.guard.store import CountingStore
from workers.shift import Shift

MakeShift = Callable[..., Shift]


@dataclass(frozen=True, slots=True)
class Cost:
    """What a worker spends on one batch, from the taking to the last reply."""

    trips: int
    """Round trips to Redis."""
    sent: int
    """Commands it sends to Redis."""
    run: int
    """Commands that Redis carries out: those that its scripts call are among them."""
    read: int = 0
    create: int = 0
    update: int = 0
    """Calls that write on a condition, one document or several."""
    written: int = 0
    """Documents that they write."""
    find: int = 0
    """Searches."""
    batch: int = 0
    """Groups of writes: what one fsync of SQLite covers."""


class Rig:
    """One worker, driven step by step, and a factory that talks to it past what is counted."""

    def __init__(self, store: CountingStore, worker: redis.Redis, outside: redis.Redis, traffic: Traffic,
                 make_shift: MakeShift) -> None:  # fmt: skip
        self._store = store.count()
        self._outside = outside
        self._traffic = traffic
        self._caller = Caller(outside)
        context = Context(store, Rules(), SystemEntropy(), lambda _ms: None)
        self._shift = make_shift(context, worker, "w1", QUEUES, load())

    def serve(self) -> None:
        """Settle all that was sent."""
        while (hand := self._shift.take()).entries:
            self._shift.settle(hand)

    @contextmanager
    def standing(self, op: str, jobs: Sequence[str], *, wire: Wire) -> Iterator[None]:
        """Within this block one batch of these requests stands in the queue; `work` settles it."""
        requests = SCENES[op](self._caller, self.serve, jobs)
        self._caller.send(*requests, wire=wire)
        yield
        replies = self._caller.replies(*requests)
        assert {reply["answer"] for reply in replies} <= {"ok", "granted", "renewed"}, replies

    def work(self) -> None:
        """Take one batch, settle it, and answer."""
        self._shift.settle(self._shift.take())

    def cost(self, op: str, size: int, *, wire: Wire) -> Cost:
        """What one batch of `size` of these requests costs, once scripts are loaded and connections are open."""
        with self.standing(op, [f"warm-{number}" for number in range(size)], wire=wire):
            self.work()
        with self.standing(op, [f"job-{number}" for number in range(size)], wire=wire):
            before = self._commands_run()
            self._store.count()
            self._traffic.forget()
            self.work()
            trips, sent = self._traffic.round_trips, self._traffic.commands.total()
            return Cost(trips, sent, self._commands_run() - before, **self._store.calls)

    def _commands_run(self) -> int:
        """What the server has carried out so far, for whomever; asking for it is left out."""
        stats = cast(dict[str, dict[str, Any]], self._outside.info("commandstats"))
        return sum(int(each["calls"]) for name, each in stats.items() if name != "cmdstat_info")


@contextmanager
def rig(patch: pytest.MonkeyPatch, redis_url: str, store: Datastore, *, make_shift: MakeShift = Shift) -> Iterator[Rig]:
    """A worker on `store`, counted. `make_shift`: how its steps are made, where a broken twin is to be seen."""
    patch.setattr(lately, "EVERY_MS", 3_600_000)  # or a slow machine adds what is told once a second
    with redis.Redis.from_url(redis_url) as outside:
        outside.ping()  # connected before anything is counted
        with counted_traffic(patch, redis_url) as traffic, redis.Redis.from_url(redis_url) as worker:
            counting = store if isinstance(store, CountingStore) else CountingStore.of(store)
            yield Rig(counting, worker, outside, traffic, make_shift)
