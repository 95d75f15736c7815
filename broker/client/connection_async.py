"""The client's edge for asyncio: one connection that reads replies, one that sends requests."""

import asyncio
from collections.abc import Callable, Sequence

from redis.asyncio import Redis
from redis.asyncio.connection import ConnectionPool
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import AuthenticationError, RedisError, ResponseError
from redis.exceptions import TimeoutError as RedisTimeoutError

from broker import queues
from broker.client.call import Call
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
from broker.client.stream import Stream
from broker.queues import Message, Wire

Posted = tuple[Message, Call, "asyncio.Future[None]"]
"""What is to be sent, the call it belongs to, and what wakes that call where it could not be."""


class AsyncSender:
    """Puts requests on their queues over one connection: those of one turn of the event loop with one write.

    Nobody waits for a request to be sent. Where it was not, or may not have been, its call is told why and woken.
    """

    def __init__(self, url: str, *, wire: Wire, password: str | None, sign: Callable[[str], str] = str) -> None:
        self._url, self._wire, self._password, self._sign = url, wire, password, sign
        self._pool: ConnectionPool = ConnectionPool.from_url(
            url, retry=Retry(NoBackoff(), 0), **options(password, SEND_TIMEOUT_S)
        )
        self._redis = Redis(connection_pool=self._pool)
        self._stream: Stream | None = None
        self._opening = asyncio.Lock()
        self._outbox: list[Posted] = []
        self._due = False
        self._sending: set[asyncio.Task[None]] = set()

    @property
    def server(self) -> tuple[str, str | None]:
        """URL and password, for a connection of another kind to the same server."""
        return self._url, self._password

    def another(self) -> "AsyncSender":
        """A sender with a connection of its own, to the same server."""
        return AsyncSender(self._url, wire=self._wire, password=self._password, sign=self._sign)

    def post(self, message: Message, call: Call, wake: "asyncio.Future[None]") -> None:
        """Send `message` at the end of this turn of the event loop. `wake` is completed only where that fails."""
        self._outbox.append((message, call, wake))
        if not self._due:
            self._due = True
            asyncio.get_running_loop().call_soon(self._flush)

    async def sent(self) -> None:
        """Wait until all that was posted is sent, or has failed."""
        if self._due:
            self._flush()
        if self._sending:
            await asyncio.wait(self._sending)

    def _flush(self) -> None:
        """Send what has gathered; in a task, which no caller's cancellation reaches."""
        self._due = False
        batch, self._outbox = self._outbox, []
        if not batch:  # somebody waited for it to be sent, and had it flushed before its turn
            return
        for _, call, _ in batch:
            call.on_its_way()
        task = asyncio.create_task(self._send(batch), name="broker-send")
        self._sending.add(task)
        task.add_done_callback(self._sending.discard)

    async def _send(self, batch: Sequence[Posted]) -> None:
        trouble: Exception
        try:
            await self._put([message for message, _, _ in batch])
        except (NotSent, NotAccepted) as error:
            trouble = error
            for _, call, _ in batch:
                call.never_left()
        except Exception as error:  # whatever it is, it belongs to those who wait
            trouble = error
        else:
            return
        for _, call, wake in batch:
            call.trouble = trouble
            if not wake.done():
                wake.set_result(None)

    async def _put(self, messages: Sequence[Message]) -> None:
        """Put `messages` on their queues.

        Raises:
          NotSent, NotAccepted: none of them was sent.
          MaybeSent: each of them may have been.
        """
        stream = self._stream
        if stream is None or stream.lost:
            stream = await self._opened()
        signed = [message.signed(self._sign) for message in messages]
        sent = stream.call(queues.commands(signed, self._wire))
        await asyncio.wait([sent], timeout=SEND_TIMEOUT_S)
        try:
            if not sent.done():
                stream.close()
                raise RedisTimeoutError(f"Redis did not answer within {SEND_TIMEOUT_S} s")
            check_accepted(sent.result(), len(messages))
        except RedisError as error:
            raise MaybeSent(str(error)) from error

    async def _opened(self) -> Stream:
        """The connection, opened by whoever comes first."""
        async with self._opening:
            if self._stream is None or self._stream.lost:
                try:
                    self._stream = await Stream.open(self._pool)
                except AuthenticationError as error:
                    raise NotAccepted(str(error)) from error
                except (RedisError, OSError) as error:
                    raise NotSent(str(error)) from error
            return self._stream

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
        await self.sent()
        if self._stream is not None:
            self._stream.close()
        await self._redis.aclose()
        await self._pool.disconnect()


class AsyncListener:
    """The one connection that waits for replies."""

    def __init__(self, url: str, key: str, *, password: str | None) -> None:
        self._pool: ConnectionPool = ConnectionPool.from_url(
            url, retry=Retry(NoBackoff(), 0), **options(password, DEAD_AFTER_S)
        )
        self._stream: Stream | None = None
        self._key = key

    async def receive(self) -> list[bytes]:
        """Wait for replies and return all there are; an empty list now and then.

        Raises:
          RedisError, OSError: the connection is lost; the next call makes a new one.
        """
        if self._stream is None:
            self._stream = await Stream.open(self._pool)
        commands = [("BLPOP", self._key, BLOCK_S), ("LPOP", self._key, DRAIN_MAX)]
        arrived = self._stream.call(commands)
        try:
            await asyncio.wait([arrived], timeout=DEAD_AFTER_S)
            if not arrived.done():
                raise RedisTimeoutError(f"the reply channel was silent for {DEAD_AFTER_S} s")
            first, rest = arrived.result()
            for reply in (first, rest):
                if isinstance(reply, ResponseError):
                    raise reply
        except BaseException:  # also where the task is cancelled: an answer half read is no use to the next call
            await self.close()
            raise
        return ([] if first is None else [first[1]]) + (rest or [])

    async def close(self) -> None:
        """Drop the connection."""
        stream, self._stream = self._stream, None
        if stream is not None:
            stream.close()
