"""The broker's processes: production's worker steps and sweep, driven as their loops in production drive them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import structlog
from redis.exceptions import OutOfMemoryError, RedisError

from broker.coordinator import Context
from broker.queues import QUEUES, Wire
from broker.settings import Settings
from datastore import DatastoreError
from tests.simulation.lines import BLOCK_MS, BrokerLine, RedisHost
from tests.simulation.process import Process
from tests.simulation.redis_side.client import SimulatedRedis
from workers import full_redis
from workers.inflight import WOKEN, arrivals_key
from workers.left_behind import turn
from workers.shift import Shift
from workers.sweep import Sweep
from workers.taking import TAKE, WORKERS, Hand, Taker, sources

log = structlog.get_logger(__name__)

TICK_MS = 2_500
BEAT_MS = 2_000
IDLE_MAX_MS = 3_500
_TAKE = TAKE.text.encode()
"""Encoded once: it is sent some hundred times in a world."""


@dataclass(frozen=True, slots=True)
class Desk:
    """What every process of the broker works with."""

    host: RedisHost
    settings: Settings
    context: Callable[[Process], Context]
    """The store and the rules, over a connection of the process's own."""


class Waits:
    """The blocked waits of one session. The connections that its worker gives up Redis may serve for a while."""

    def __init__(self, taker: Taker, session: str) -> None:
        self.taker = taker
        self.session = session
        self.slots = dict(zip((source for _, source in sources()), WOKEN, strict=True))
        self.armed: set[str] = set()
        self.lost = False
        self.until_ms = 0.0
        """How long Redis serves them, once they are lost: until it hears of that."""


class Worker:
    """A worker: wait, take, settle, and now and then look after others (workers/claim_worker.py, without sockets)."""

    def __init__(self, process: Process, desk: Desk) -> None:
        self._process = process
        self._host = desk.host
        self._name = process.name
        self._redis = SimulatedRedis(BrokerLine(desk.host, process).carry)
        self._shift = Shift(
            desk.context(process), self._redis, self._name, QUEUES, desk.settings, steady_ms=process.clock.steady_ms
        )
        self._waits = self._new_waits()
        self._batch_max = desk.settings.batch_max
        self._sources = sources()
        self._answered: list[tuple[Any, int, int]] = []
        """What the calls behind the waits have brought: the reply, the slot, and when the call was sent."""
        self._waiting = False
        self._full = False

    def run(self) -> None:
        """Until it is killed. After each failure of Redis it comes back to what it had in hand."""
        self._beat()
        while True:
            try:
                self._serve()
            except RedisError as error:
                log.debug("redis_lost", worker=self._name, error=str(error))
                self._full = full_redis.met(error)
                self._answered = []
                self._lose_waits()
                self._process.wait(self._host.dice.random.uniform(50, 1_500))

    def _new_waits(self) -> Waits:
        session = self._shift.session
        taker = Taker(self._redis, session, QUEUES, steady_ms=self._process.clock.steady_ms)
        return Waits(taker, session)

    def _lose_waits(self) -> None:
        """Close their connections; of that, too, Redis may not hear."""
        self._waits.lost = True
        if self._host.dice.roll("waits_lost"):
            self._waits.until_ms = self._host.timeline.now_ms + self._host.dice.random.uniform(1, BLOCK_MS)

    def _serve(self) -> None:
        dropped = None
        if self._full:
            dropped = full_redis.make_room(self._redis, QUEUES, steady_ms=self._process.clock.steady_ms)
        left = self._shift.leftovers()
        self._waits = self._new_waits()
        self._shift.settle(left)
        while dropped == 0 and self._shift.relieve():
            pass
        tick_at_ms = 0
        busy = True
        while True:
            hands = [] if busy else self._wait()
            if busy or hands:
                busy = self._shift.serve(hands, meanwhile=self._arm_all)
            if self._process.clock.steady_ms() >= tick_at_ms:
                tick_at_ms = self._process.clock.steady_ms() + TICK_MS
                now_ms = turn(self._redis, self._name)
                busy |= now_ms is not None and self._shift.look_after(now_ms)

    def _wait(self) -> Sequence[Hand]:
        """As one blocked BLMOVE for each list: the server moves a request as it comes, whoever still listens.

        Behind it stands the call that takes it.
        """
        self._arm_all()
        if self._host.server.full and not self._answered:
            raise OutOfMemoryError("simulated: a blocked wait is refused")
        if not self._answered:
            self._waiting = True
            self._process.wait(IDLE_MAX_MS)
            self._waiting = False
        answered, self._answered = self._answered, []
        for reply, _, _ in answered:
            if isinstance(reply, RedisError):
                raise reply
        return [self._waits.taker.hand(reply, slot, asked_ms=asked_ms) for reply, slot, asked_ms in answered]

    def _arm_all(self) -> None:
        if self._host.down or self._host.server.full:
            return
        for wire, source in self._sources:
            if source not in self._waits.armed:
                self._arm(wire, source)

    def _arm(self, wire: Wire, source: str) -> None:
        waits = self._waits
        waits.armed.add(source)
        asked_ms = self._process.clock.steady_ms()
        life = self._host.life

        def served() -> None:
            if life != self._host.life or not self._process.alive:
                return  # of a connection that is gone
            if waits.lost and self._host.timeline.now_ms > waits.until_ms:
                return  # ... and that Redis has heard of
            waits.armed.discard(source)
            self._host.execute(("LMOVE", source, arrivals_key(waits.session, wire), "LEFT", "RIGHT"))
            slot = waits.slots[source][0]
            keys, arguments = waits.taker.call(slot, at_most=self._batch_max, others=self._batch_max, moved=wire)
            reply = self._host.execute(("EVAL", _TAKE, len(keys), *keys, *arguments))
            waits.slots[source] = waits.slots[source][::-1]
            if waits.lost:
                return  # whose answer nobody hears
            self._answered.append((reply, slot, asked_ms))
            if self._waiting:
                self._waiting = False
                self._process.wake()

        if self._host.server.keys.peek(source.encode()):
            served()  # what is there already nobody has to wait for
        else:
            self._host.server.watch(source.encode(), served)

    def _beat(self) -> None:
        """Production's heartbeat is a thread of its own."""
        if not self._process.alive:
            return
        if not self._process.paused and not self._host.down:
            self._host.execute(("ZADD", WORKERS, self._host.server.keys.now_ms(), self._shift.session))
        self._host.timeline.after(BEAT_MS, self._beat)


class Sweeper:
    """A sweep process: a pass under the lock, a pause, and again, whatever happens (workers/sweep.py)."""

    def __init__(self, process: Process, desk: Desk) -> None:
        self._process = process
        self._pause_ms = desk.settings.sweep_every_ms
        self._random = desk.host.dice.random
        redis = SimulatedRedis(BrokerLine(desk.host, process).carry, process.name)
        self._sweep = Sweep(desk.context(process), redis, desk.settings, steady_ms=process.clock.steady_ms)

    def run(self) -> None:
        """Until it is killed."""
        while True:
            try:
                self._sweep.run(once=True)
            except (RedisError, DatastoreError) as error:
                log.debug("sweep_failed", error=str(error))
            self._process.wait(self._pause_ms * self._random.uniform(0.9, 1.1))
