"""A broker in this process on a real Redis, its clock and every one of its steps in the test's hand."""

from collections.abc import Sequence
from itertools import cycle
from typing import Any

import redis

from broker.batch import Settled, settle_batch
from broker.clock import ManualClock
from broker.coordinator import Context
from broker.entropy import Entropy, SystemEntropy
from broker.messages import Envelope
from broker.queues import QUEUES
from broker.settings import load
from broker.transitions import Rules
from datastore import Datastore
from tests.caller import Caller, Reply
from workers import left_behind
from workers.admission import admitted
from workers.entries import Entry
from workers.finishing import Refused, finish
from workers.inflight import SLOTS
from workers.sweep import Sweep
from workers.swept import Swept
from workers.taking import WORKERS, Hand, Taker

TTL_MS = 60_000
SKEW_MS = 2_000


class InProcess:
    """What a worker and a sweep do, one step at a time. Nothing happens by itself, and no time passes."""

    def __init__(self, store: Datastore, connection: redis.Redis, *, entropy: Entropy | None = None) -> None:
        self.store = store
        self.redis = connection
        self.clock = ManualClock()
        self.context = Context(store, Rules(), entropy or SystemEntropy(), lambda _ms: None)
        self.caller = Caller(connection)
        self._refused: list[Refused] = []
        self._slots = cycle(range(1, SLOTS))
        self._sweep = Sweep(self.context, connection, load(), steady_ms=lambda: 0)

    def take(self, worker: str = "w1") -> Hand:
        """Into a slot of the worker's."""
        return Taker(self.redis, worker, QUEUES).ask(next(self._slots), at_most=64, others=64)()

    def settle(self, entries: Sequence[Entry], worker: str = "w1") -> list[tuple[Entry, Settled]]:
        """Into the store; nothing is answered yet."""
        batch, refused = admitted(self.context, self.redis, entries, now_ms=self.clock.now_ms())
        self._refused += refused
        taken = [request for _, request in batch]
        settled = settle_batch(self.context, self.redis, taken, clock=self.clock, worker=worker)
        return list(zip((entry for entry, _ in batch), settled, strict=True))

    def finish(self, settled: Sequence[tuple[Entry, Settled]], worker: str = "w1") -> None:
        """Replies, hints, dead letters, and out of the in-flight list."""
        finish(self.context, self.redis, worker, settled, self._refused, now_ms=self.clock.now_ms())
        self._refused = []

    def serve(self, worker: str = "w1") -> None:
        """Until every queue is empty."""
        while (hand := self.take(worker)).entries:
            self.finish(self.settle(hand.entries, worker), worker)

    def kill(self, worker: str = "w1") -> None:
        """The worker is never heard of again."""
        self.redis.zadd(WORKERS, {worker: 0})

    def take_over(self, worker: str = "w2") -> None:
        """Settle what dead workers have left, as every worker does now and then."""
        while (hand := left_behind.take_over(self.redis, worker, dead_after_ms=60_000, at_most=64)).entries:
            self.finish(self.settle(hand.entries, worker), worker)

    def sweep(self) -> Swept:
        """One sweep, now."""
        return self._sweep.pass_over(self.clock.now_ms())

    def ask(self, *requests: Envelope, worker: str = "w1") -> list[Reply]:
        """Send, serve, and read the replies."""
        self.caller.send(*requests)
        self.serve(worker)
        return self.caller.replies(*requests, deadline_ms=1_000)

    def submit(self, *jobs: str, **fields: Any) -> None:
        """Create jobs; each is taken."""
        replies = self.ask(*(self.caller.make("submit", job_id=job, **fields) for job in jobs))
        assert {reply["answer"] for reply in replies} == {"ok"}, replies
