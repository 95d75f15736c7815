"""redis-py at the client's edge, for asyncio: one connection that reads replies, one that sends requests."""

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

from redis.asyncio import Redis
from redis.asyncio.connection import ConnectionPool
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import AuthenticationError, RedisError, ResponseError

from broker import queues
from broker.client.connection import (
    BLOCK_S,
    DEAD_AFTER_S,
    DRAIN_MAX,
    SEND_TIMEOUT_S,
    MaybeSent,
    NotAccepted,
    NotSent,
    check_accepted,
    options,
)
from broker.messages import Envelope
from broker.queues import Wire


class AsyncSender:
    """Puts requests on their queues over one connection; those that come while it is busy go together.

    The connection belongs to a task of its own, which no caller's cancellation reaches: redis-py waits with
    `asyncio.wait_for`, which in Python 3.11 can swallow one.
    """

    def __init__(self, url: str, *, wire: Wire, password: str | None, sign: Callable[[str], str] = str) -> None:
        self._url, self._wire, self._password, self._sign = url, wire, password, sign
        self._pool: ConnectionPool = ConnectionPool.from_url(
            url, retry=Retry(NoBackoff(), 0), **options(password, SEND_TIMEOUT_S)
        )
        self._redis = Redis(connection_pool=self._pool)
        self._outbox: list[tuple[Sequence[Envelope], asyncio.Future[None]]] = []
        self._flushing: asyncio.Task[None] | None = None

    @property
    def server(self) -> tuple[str, str | None]:
        """URL and password, for a connection of another kind to the same server."""
        return self._url, self._password

    def another(self) -> "AsyncSender":
        """A sender with a connection of its own, to the same server."""
        return AsyncSender(self._url, wire=self._wire, password=self._password, sign=self._sign)

    async def send(self, requests: Sequence[Envelope]) -> None:
        """Put all of `requests` on their queues, in one round trip. A caller that is cancelled may have sent them.

        Raises:
          NotSent, NotAccepted: none of them was sent.
          MaybeSent: each of them may have been.
        """
        sent: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._outbox.append((requests, sent))
        if self._flushing is None:
            self._flushing = asyncio.create_task(self._flush(), name="broker-send")
        await sent

    async def _flush(self) -> None:
        """Send what has gathered, until nothing has."""
        try:
            while self._outbox:
                batch, self._outbox = self._outbox, []
                failure: Exception | None = None
                try:
                    await self._put([request for requests, _ in batch for request in requests])
                except Exception as error:  # whatever it is, it belongs to those who wait
                    failure = error
                for _, sent in batch:
                    if sent.done():
                        continue  # its caller was cancelled
                    if failure is None:
                        sent.set_result(None)
                    else:
                        sent.set_exception(failure)
        finally:
            self._flushing = None

    async def _put(self, requests: Sequence[Envelope]) -> None:
        try:
            connection = await self._pool.get_connection()  # type: ignore[no-untyped-call]  # redis-py's own
        except AuthenticationError as error:
            raise NotAccepted(str(error)) from error
        except RedisError as error:
            raise NotSent(str(error)) from error
        async with self._redis.pipeline(transaction=False) as pipe:
            pipe.connection = connection  # given back to the pool as the block ends
            for request in requests:
                queues.enqueue(pipe, request, wire=self._wire, sign=self._sign)
            try:
                check_accepted(await pipe.execute(raise_on_error=False), len(requests))
            except RedisError as error:
                raise MaybeSent(str(error)) from error

    async def server_ms(self) -> int | None:
        """Broker time, Unix milliseconds; None where this user may not ask.

        Raises:
          NotSent, NotAccepted: Redis can't be reached, or refuses the password.
        """
        try:
            seconds, micros = await self._redis.time()
        except AuthenticationError as error:
            raise NotAccepted(str(error)) from error
        except ResponseError:
            return None
        except RedisError as error:
            raise NotSent(str(error)) from error
        return int(seconds) * 1000 + int(micros) // 1000

    async def close(self) -> None:
        """Give back the connection, once what was asked for is sent."""
        if self._flushing is not None:
            await asyncio.wait([self._flushing])
        await self._redis.aclose()
        await self._pool.disconnect()


class AsyncListener:
    """The one connection that waits for replies."""

    def __init__(self, url: str, key: str, *, password: str | None) -> None:
        self._pool: ConnectionPool = ConnectionPool.from_url(
            url, retry=Retry(NoBackoff(), 0), **options(password, DEAD_AFTER_S)
        )
        self._connection: Any = None  # redis-py leaves the methods of a connection untyped
        self._key = key

    async def receive(self) -> list[bytes]:
        """Wait for replies and return all there are; an empty list now and then.

        Raises:
          RedisError, OSError: the connection is lost; the next call makes a new one.
        """
        try:
            if self._connection is None:
                self._connection = self._pool.make_connection()  # type: ignore[no-untyped-call]  # redis-py's own
                await self._connection.connect()
            commands = [("BLPOP", self._key, BLOCK_S), ("LPOP", self._key, DRAIN_MAX)]
            await self._connection.send_packed_command(self._connection.pack_commands(commands))
            first = await self._connection.read_response(disable_decoding=True)
            rest = await self._connection.read_response(disable_decoding=True)
        except BaseException:  # also where the task is cancelled: an answer half read is no use to the next call
            await self.close()
            raise
        return ([] if first is None else [bytes(first[1])]) + [bytes(text) for text in rest or ()]

    async def close(self) -> None:
        """Drop the connection."""
        connection, self._connection = self._connection, None
        if connection is not None:
            await connection.disconnect(nowait=True)
