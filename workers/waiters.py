"""Waits on every queue at once without losing a request: each blocked BLMOVE moves it into the in-flight list."""

import selectors
from collections.abc import Sequence
from typing import Any, cast

from redis import Redis
from redis.exceptions import RedisError
from redis.exceptions import TimeoutError as NoAnswer

from broker.clock import monotonic_ms
from workers.taking import Entry, Wire, inflight_key, sources

BLOCK_S = 5
"""How long the server blocks one BLMOVE."""
SILENT_MS = 8_000
"""A BLMOVE that is not answered for this long stands on a dead connection."""


class _Waiter:
    """One connection that waits for one list."""

    def __init__(self, connection: Any, wire: Wire, source: str, target: str) -> None:
        # Any: redis-py leaves the methods of a connection untyped.
        self.connection = connection
        self.wire: Wire = wire
        self._command = ("BLMOVE", source, target, "LEFT", "RIGHT", BLOCK_S)
        self.armed = False
        self.armed_ms = 0
        self.client_id = 0

    def open(self) -> None:
        self.connection.connect()
        self.connection.send_command("CLIENT", "ID")
        self.client_id = int(cast(int, self.connection.read_response()))

    def arm(self) -> None:
        if not self.armed:
            self.connection.send_command(*self._command)
            self.armed = True
            self.armed_ms = monotonic_ms()

    def collect(self) -> Entry | None:
        """The request that was moved, or None where the wait ended without one."""
        self.armed = False
        value = self.connection.read_response(disable_decoding=True)
        if value is None:
            return None
        text = bytes(cast(bytes, value))
        return Entry(wire=self.wire, key=text, data=b"" if self.wire == "rq" else text)

    @property
    def socket(self) -> Any:
        # redis-py offers no other way to wait on several connections; can_read() waits on one.
        return self.connection._sock


class Waiters:
    """All the lists of a worker's queues, rq's and the intake, waited on together.

    What is moved while nobody waits stays in the in-flight list and is collected by the next `wait`.
    Redis errors pass through; afterwards `close`, and open a new one: the in-flight list keeps what was moved.
    """

    def __init__(self, redis: Redis, worker: str, queues: Sequence[str]) -> None:
        self._redis = redis
        self._selector = selectors.DefaultSelector()
        self._waiters: list[_Waiter] = []
        try:
            for wire, source in sources(queues):
                connection = redis.connection_pool.get_connection()
                waiter = _Waiter(connection, wire, source, inflight_key(worker, wire))
                self._waiters.append(waiter)
                waiter.open()
                self._selector.register(waiter.socket, selectors.EVENT_READ, waiter)
        except RedisError:
            self.close()
            raise

    def wait(self, timeout_s: float) -> list[Entry]:
        """Requests that arrived, by priority; up to one for each list. Empty after `timeout_s`."""
        if timeout_s > 0:
            for waiter in self._waiters:
                waiter.arm()
        ready = {key.data for key, _ in self._selector.select(timeout_s)}
        silent_ms = monotonic_ms() - SILENT_MS
        if any(waiter.armed and waiter.armed_ms < silent_ms and waiter not in ready for waiter in self._waiters):
            raise NoAnswer(f"a blocked wait was not answered for {SILENT_MS} ms")
        entries = [waiter.collect() for waiter in self._waiters if waiter in ready and waiter.armed]
        return [entry for entry in entries if entry is not None]

    def stop(self) -> list[Entry]:
        """End every wait, so that nothing more is moved; what was moved meanwhile."""
        armed = [waiter for waiter in self._waiters if waiter.armed]
        for waiter in armed:
            self._redis.client_unblock(waiter.client_id)
        entries = [waiter.collect() for waiter in armed]
        return [entry for entry in entries if entry is not None]

    def close(self) -> None:
        """Give the connections up. Harmless twice."""
        self._selector.close()
        for waiter in self._waiters:
            waiter.connection.disconnect()
            self._redis.connection_pool.release(waiter.connection)
        self._waiters = []
