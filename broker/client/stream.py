"""Many commands on one connection for asyncio, answered in order: one write and one future for as many as there are.

redis-py opens the connection (URL, TLS, login) and leaves it; its own way of reading costs more than a whole request.
"""

import asyncio
from collections import deque
from collections.abc import Iterable, Sequence
from typing import Any, cast

import hiredis
from redis.asyncio.connection import ConnectionPool
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import InvalidResponse, ResponseError


class Stream(asyncio.Protocol):
    """A connection on which calls don't wait for each other."""

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport = transport
        self._reader = hiredis.Reader(protocolError=InvalidResponse, replyError=ResponseError)
        self._calls: deque[tuple[int, asyncio.Future[list[Any]]]] = deque()
        self._replies: list[Any] = []
        self._opened: asyncio.StreamWriter | None = None
        """Kept, since it closes what it has opened when it is forgotten."""
        self._closed = False
        self.lost = False

    @classmethod
    async def open(cls, pool: ConnectionPool) -> "Stream":
        """Connect as `pool` says.

        Raises:
          RedisError: no connection, or the password is refused.
        """
        connection: Any = pool.make_connection()  # type: ignore[no-untyped-call]  # redis-py leaves it untyped
        await connection.connect()
        # redis-py offers no other way to what it has opened.
        writer: asyncio.StreamWriter = connection._writer
        connection._writer = connection._reader = None
        transport = cast(asyncio.Transport, writer.transport)
        stream = cls(transport)
        transport.set_protocol(stream)
        stream._opened = writer
        return stream

    def call(self, commands: Iterable[Sequence[Any]]) -> asyncio.Future[list[Any]]:
        """Send `commands` at once; the future gets their replies, an error reply as a ResponseError among them.

        It fails with a RedisError where the connection is lost; then any of them may have been carried out.
        """
        packed = [hiredis.pack_command(tuple(command)) for command in commands]
        future: asyncio.Future[list[Any]] = asyncio.get_running_loop().create_future()
        if self.lost:
            future.set_exception(RedisConnectionError("the connection is lost"))
            return future
        self._calls.append((len(packed), future))
        self._transport.write(b"".join(packed))
        return future

    def close(self) -> None:
        """Drop the connection; calls under way are cancelled."""
        self._closed = True
        self._transport.abort()

    def data_received(self, data: bytes) -> None:
        self._reader.feed(data)
        try:
            while (reply := self._reader.gets()) is not False:
                if not isinstance(reply, hiredis.PushNotification):
                    self._take(reply)
        except InvalidResponse:
            self._transport.abort()

    def connection_lost(self, error: Exception | None) -> None:
        self.lost = True
        while self._calls:
            _, future = self._calls.popleft()
            if self._closed:
                future.cancel()
            elif not future.done():
                future.set_exception(RedisConnectionError(f"the connection broke: {error or 'closed by Redis'}"))

    def _take(self, reply: Any) -> None:
        if not self._calls:
            return
        self._replies.append(reply)
        wanted, future = self._calls[0]
        if len(self._replies) == wanted:
            self._calls.popleft()
            replies, self._replies = self._replies, []
            if not future.done():
                future.set_result(replies)
