"""A worker's own steps on a real Redis, each of them counted."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, cast

import pytest
import redis

from broker import lately
from broker.clock import host_now_ms
from broker.coordinator import Context
from broker.entropy import SystemEntropy
from broker.index import INDEXED
from broker.queues import QUEUES, Wire
from broker.settings import load
from broker.transitions import Rules
from datastore import Datastore
from tests.caller import Caller
from tests.guard.scenes import SCENES
from tests.guard.sockets import Traffic, counted_traffic
from tests.guard.store import CountingStore
from workers.owed_runs import LOOKED
from workers.shift import Shift
from workers.sweep import Sweep

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
        settings = load()
        self._shift = make_shift(context, worker, "w1", QUEUES, settings)
        self._sweep = Sweep(context, worker, settings)
        self._dead_after_ms = settings.ttl_ms + settings.skew_ms + 1

    def serve(self) -> None:
        """Settle all that was sent."""
        while (hand := self._shift.take()).entries:
            self._shift.settle(hand)

    def sweep(self) -> None:
        """Sweep once, at a time when every lease is dead."""
        self._sweep.pass_over(host_now_ms() + self._dead_after_ms)

    @contextmanager
    def standing(self, op: str, jobs: Sequence[str], *, wire: Wire) -> Iterator[Callable[[], None]]:
        """Within this block one batch of these requests stands in the queue. It gives what settles it: a worker takes
        it and answers; or a sweep, where nobody asks.
        """
        requests = SCENES[op](self._caller, self.serve, jobs)
        self._caller.send(*requests, wire=wire)
        yield self._work if requests else self.sweep
        replies = self._caller.replies(*requests)
        assert {reply["answer"] for reply in replies} <= {"ok", "granted", "renewed"}, replies
        if not requests:
            self._taken_over(jobs)

    def _work(self) -> None:
        self._shift.settle(self._shift.take())

    def _taken_over(self, jobs: Sequence[str]) -> None:
        """Each can be had again, and is then out of the way of the next sweep."""
        cancels = [self._caller.make("cancel", job_id=job) for job in jobs]
        self._caller.send(*cancels)
        self.serve()
        states = {reply["body"]["state"] for reply in self._caller.replies(*cancels)}
        assert states <= {"cancelled"}, "a lease was left"

    def cost(self, op: str, size: int, *, wire: Wire) -> Cost:
        """What one batch of `size` of these requests costs, once scripts are loaded and connections are open."""
        with self.standing(op, [f"warm-{number}" for number in range(size)], wire=wire) as work:
            work()
        with self.standing(op, [f"job-{number}" for number in range(size)], wire=wire) as work:
            before = self._commands_run()
            self._store.count()
            self._traffic.forget()
            work()
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
        run_id = cast(dict[str, Any], outside.info("server"))["run_id"]  # connected before anything is counted
        outside.mset({INDEXED: 0, LOOKED: run_id})  # sweeps came before, which have found all in order
        with counted_traffic(patch, redis_url) as traffic, redis.Redis.from_url(redis_url) as worker:
            counting = store if isinstance(store, CountingStore) else CountingStore.of(store)
            yield Rig(counting, worker, outside, traffic, make_shift)
