"""Waits on every queue at once without losing a request: each blocked BLMOVE moves it into the in-flight list.

Behind it, in the same write, stands the call that takes it and others: what arrives is in hand with one answer.
"""

import select
from collections.abc import Container, Sequence
from typing import Any, NamedTuple, cast

from redis import Redis
from redis.exceptions import NoScriptError, RedisError
from redis.exceptions import TimeoutError as NoAnswer

from broker.clock import monotonic_ms
from broker.scripts import Argument
from workers.inflight import WOKEN, arrivals_key
from workers.lean_redis import broken, next_replies, packed
from workers.taking import TAKE, Hand, Taker, sources

BLOCK_S = 5
"""How long the server blocks one BLMOVE."""
SILENT_MS = 8_000
"""A BLMOVE that is not answered for this long stands on a dead connection."""
LOOKS = 8
"""Looks for such a one in that time: each costs a lone request more than to see what has arrived."""


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
        self.file = -1
        """Of its socket."""

    def open(self) -> None:
        self.connection.connect()
        # redis-py offers no other way to wait on several connections; can_read() waits on one.
        self.file = self.connection._sock.fileno()
        self.connection.send_command("CLIENT", "ID")
        self.client_id = int(cast(int, self.connection.read_response()))

    def arm(self) -> None:
        self.connection.send_packed_command(self._waits[0].packed, check_health=False)
        self.armed = True
        self.armed_ms = monotonic_ms()

    def collect(self, redis: Redis) -> Hand:
        """What was taken."""
        self.armed = False
        try:
            moved, reply = next_replies(self.connection, 2)
        except OSError as error:
            raise broken(error) from error
        if isinstance(moved, Exception):  # else it comes again, with the rest
            raise moved
        wait, *others = self._waits
        if isinstance(reply, NoScriptError):
            reply = TAKE.run(redis, wait.keys, wait.arguments)
        elif isinstance(reply, Exception):
            raise reply
        self._waits = [*others, wait]
        return self._taker.hand(reply, wait.slot, asked_ms=self.armed_ms)


class Waiters:
    """All the lists of a worker's queues, rq's and the intake, waited on together.

    What is taken while nobody waits stays in its slot and is collected by the next `wait`.
    Redis errors pass through; afterwards `close`, and open a new one: the in-flight lists keep what was taken.
    """

    def __init__(self, redis: Redis, worker: str, queues: Sequence[str], *, at_most: int) -> None:
        self._redis = redis
        self._poll = select.poll()
        self._waiters: list[_Waiter] = []
        self._idle: list[_Waiter] = []
        """Those that do not wait at present."""
        self._look_ms = 0
        """When to look for silent ones next."""
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
                self._poll.register(waiter.file, select.POLLIN)
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
        ready = {file for file, _ in self._poll.poll(timeout_s * 1_000)}
        now_ms = monotonic_ms()
        if now_ms >= self._look_ms:
            self._look_ms = now_ms + SILENT_MS // LOOKS
            self._look_for_silent(ready, now_ms - SILENT_MS)
        return self._collected([waiter for waiter in self._waiters if waiter.file in ready and waiter.armed])

    def stop(self) -> list[Hand]:
        """End every wait, so that nothing more is taken; what was taken meanwhile."""
        armed = [waiter for waiter in self._waiters if waiter.armed]
        for waiter in armed:
            self._redis.client_unblock(waiter.client_id)
        return self._collected(armed)

    def _look_for_silent(self, ready: Container[int], silent_ms: int) -> None:
        if any(waiter.armed and waiter.armed_ms < silent_ms and waiter.file not in ready for waiter in self._waiters):
            raise NoAnswer(f"a blocked wait was not answered for {SILENT_MS} ms")

    def _collected(self, waiters: Sequence[_Waiter]) -> list[Hand]:
        self._idle += waiters
        return [waiter.collect(self._redis) for waiter in waiters]

    def close(self) -> None:
        """Give the connections up. Harmless twice."""
        for waiter in self._waiters:
            waiter.connection.disconnect()
            self._redis.connection_pool.release(waiter.connection)
        self._waiters = []
