"""Waits on every queue at once without losing a request: each blocked BLMOVE moves it into the in-flight list.

Behind it, in the same write, stands the call that takes it and others: what arrives is in hand with one answer.
"""

import selectors
from collections.abc import Sequence
from typing import Any, NamedTuple, cast

from redis import Redis
from redis.exceptions import NoScriptError, RedisError
from redis.exceptions import TimeoutError as NoAnswer

from broker.clock import monotonic_ms
from broker.scripts import Argument
from workers.inflight import WOKEN, arrivals_key
from workers.lean_redis import packed
from workers.taking import TAKE, Hand, Taker, sources

BLOCK_S = 5
"""How long the server blocks one BLMOVE."""
SILENT_MS = 8_000
"""A BLMOVE that is not answered for this long stands on a dead connection."""


class _Wait(NamedTuple):
    """A blocked wait and the call behind it, which fills one slot. Written down once: it is sent again and again."""

    slot: int
    keys: list[str]
    arguments: list[Argument]
    packed: list[bytes]


class _Waiter:
    """One connection that waits for one list."""

    def __init__(self, connection: Any, taker: Taker, waits: Sequence[_Wait]) -> None:
        # Any: redis-py leaves the methods of a connection untyped.
        self.connection = connection
        self._taker = taker
        self._waits = waits
        self.armed = False
        self.armed_ms = 0
        self.client_id = 0

    def open(self) -> None:
        self.connection.connect()
        self.connection.send_command("CLIENT", "ID")
        self.client_id = int(cast(int, self.connection.read_response()))

    def arm(self) -> None:
        self.connection.send_packed_command(self._waits[0].packed, check_health=False)
        self.armed = True
        self.armed_ms = monotonic_ms()

    def collect(self, redis: Redis) -> Hand:
        """What was taken."""
        self.armed = False
        self.connection.read_response(disable_decoding=True)  # what was moved comes again, with the rest
        wait, *others = self._waits
        try:
            reply = self.connection.read_response(disable_decoding=True)
        except NoScriptError:
            reply = TAKE.run(redis, wait.keys, wait.arguments)
        self._waits = [*others, wait]
        return self._taker.hand(reply, wait.slot, asked_ms=self.armed_ms)

    @property
    def socket(self) -> Any:
        # redis-py offers no other way to wait on several connections; can_read() waits on one.
        return self.connection._sock


class Waiters:
    """All the lists of a worker's queues, rq's and the intake, waited on together.

    What is taken while nobody waits stays in its slot and is collected by the next `wait`.
    Redis errors pass through; afterwards `close`, and open a new one: the in-flight lists keep what was taken.
    """

    def __init__(self, redis: Redis, worker: str, queues: Sequence[str], *, at_most: int) -> None:
        self._redis = redis
        self._selector = selectors.DefaultSelector()
        self._waiters: list[_Waiter] = []
        self._idle: list[_Waiter] = []
        """Those that do not wait at present."""
        taker = Taker(redis, worker, queues)
        try:
            for (wire, source), slots in zip(sources(queues), WOKEN, strict=False):
                block = ("BLMOVE", source, arrivals_key(worker, wire), "LEFT", "RIGHT", BLOCK_S)
                waits = []
                for slot in slots:
                    keys, arguments = taker.call(slot, at_most=at_most, others=at_most, moved=wire)
                    take = ("EVALSHA", TAKE.sha, len(keys), *keys, *arguments)
                    waits.append(_Wait(slot, keys, arguments, [packed(block) + packed(take)]))
                waiter = _Waiter(redis.connection_pool.get_connection(), taker, waits)
                self._waiters.append(waiter)
                waiter.open()
                self._selector.register(waiter.socket, selectors.EVENT_READ, waiter)
                self._idle.append(waiter)
        except RedisError:
            self.close()
            raise

    def arm(self) -> None:
        """Have whatever comes from now on moved and taken, though it is collected later."""
        for waiter in self._idle:
            waiter.arm()
        self._idle = []

    def wait(self, timeout_s: float) -> list[Hand]:
        """What arrived, by priority; up to a batch for each list. Empty after `timeout_s`."""
        if timeout_s > 0:
            self.arm()
        ready = {key.data for key, _ in self._selector.select(timeout_s)}
        silent_ms = monotonic_ms() - SILENT_MS
        if any(waiter.armed and waiter.armed_ms < silent_ms and waiter not in ready for waiter in self._waiters):
            raise NoAnswer(f"a blocked wait was not answered for {SILENT_MS} ms")
        return self._collected([waiter for waiter in self._waiters if waiter in ready and waiter.armed])

    def stop(self) -> list[Hand]:
        """End every wait, so that nothing more is taken; what was taken meanwhile."""
        armed = [waiter for waiter in self._waiters if waiter.armed]
        for waiter in armed:
            self._redis.client_unblock(waiter.client_id)
        return self._collected(armed)

    def _collected(self, waiters: Sequence[_Waiter]) -> list[Hand]:
        self._idle += waiters
        return [waiter.collect(self._redis) for waiter in waiters]

    def close(self) -> None:
        """Give the connections up. Harmless twice."""
        self._selector.close()
        for waiter in self._waiters:
            waiter.connection.disconnect()
            self._redis.connection_pool.release(waiter.connection)
        self._waiters = []
