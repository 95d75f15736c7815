"""Many commands on one connection for asyncio, answered in order, without a task or a future for any of them.

redis-py opens the connection (URL, TLS, login) and leaves it; its own way of reading costs more than a whole request.
"""

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Any, TypeAlias, cast

import hiredis
from redis.asyncio.connection import ConnectionPool
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import InvalidResponse, RedisError, ResponseError
from redis.exceptions import TimeoutError as RedisTimeoutError

from broker.client.channel import connecting

Done: TypeAlias = Callable[[list[Any] | RedisError], None]
"""Told the replies to a call, an error reply as a ResponseError among them; or why the connection was lost."""


class Stream(asyncio.Protocol):
    """A connection on which calls don't wait for each other. One without an answer for `patience_s` ends it."""

    def __init__(self, transport: asyncio.Transport, *, patience_s: float) -> None:
        self._transport = transport
        self._patience_s = patience_s
        self._loop = asyncio.get_running_loop()
        self._reader = hiredis.Reader(protocolError=InvalidResponse, replyError=ResponseError)
        self._calls: deque[tuple[int, float, Done]] = deque()
        """Of each call that waits: how many replies, since when, and who is told."""
        self._replies: list[Any] = []
        self._watch: asyncio.TimerHandle | None = None
        self._opened: asyncio.StreamWriter | None = None
        """Kept, since it closes what it has opened when it is forgotten."""
        self.lost = False

    @classmethod
    async def open(cls, pool: ConnectionPool, *, patience_s: float) -> "Stream":
        """Connect as `pool` says.

        Raises:
          RedisError, OSError: no connection, or the password is refused.
        """
        connection: Any = pool.make_connection()  # type: ignore[no-untyped-call]  # redis-py leaves it untyped
        with connecting():
            await connection.connect()
        # redis-py offers no other way to what it has opened.
        writer: asyncio.StreamWriter = connection._writer
        connection._writer = connection._reader = None
        transport = cast(asyncio.Transport, writer.transport)
        stream = cls(transport, patience_s=patience_s)
        transport.set_protocol(stream)
        stream._opened = writer
        return stream

    def call(self, packed: bytes, replies: int, done: Done) -> None:
        """Send commands that get so many `replies`; `done` is called once, unless the connection is closed before.

        Where it is called with a RedisError, any of the commands may have been carried out.
        """
        if self.lost:
            self._loop.call_soon(done, RedisConnectionError("the connection is lost"))
            return
        self._calls.append((replies, self._loop.time(), done))
        self._transport.write(packed)
        if self._watch is None:
            self._watch = self._loop.call_later(self._patience_s, self._look)

    @property
    def busy(self) -> bool:
        """Whether a call waits for its replies."""
        return bool(self._calls)

    def close(self) -> None:
        """Drop the connection; calls under way are told nothing more."""
        self._calls.clear()
        self._end(RedisConnectionError("the connection was closed"))

    def data_received(self, data: bytes) -> None:
        self._reader.feed(data)
        gets, replies, calls = self._reader.gets, self._replies, self._calls
        try:
            while (reply := gets()) is not False:
                if isinstance(reply, hiredis.PushNotification) or not calls:
                    continue
                replies.append(reply)
                if len(replies) == calls[0][0]:
                    done = calls.popleft()[2]
                    told, self._replies = replies, []
                    replies = self._replies
                    done(told)
        except InvalidResponse as error:
            self._end(error)

    def connection_lost(self, error: Exception | None) -> None:
        self._end(RedisConnectionError(f"the connection broke: {error or 'closed by Redis'}"))

    def _look(self) -> None:
        """Whether the oldest call has waited too long: one timer for all of them, set anew only where it rings."""
        self._watch = None
        if not self._calls:
            return
        left_s = self._calls[0][1] + self._patience_s - self._loop.time()
        if left_s > 0:
            self._watch = self._loop.call_later(left_s, self._look)
        else:
            self._end(RedisTimeoutError(f"Redis did not answer within {self._patience_s} s"))

    def _end(self, error: RedisError) -> None:
        if self.lost:
            return
        self.lost = True
        self._transport.abort()
        if self._watch is not None:
            self._watch.cancel()
            self._watch = None
        calls, self._calls = self._calls, deque()
        for _, _, done in calls:
            done(error)
