"""The client's edge for asyncio: one connection that reads replies, one that sends requests."""

import asyncio
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Never, TypeAlias

from redis.asyncio import Redis
from redis.asyncio.connection import ConnectionPool
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import NoPermissionError, RedisError, ResponseError

from broker import queues
from broker.client.call import Call
from broker.client.channel import connecting
from broker.client.connection import (
    DEAD_AFTER_S,
    SEND_TIMEOUT_S,
    MaybeSent,
    NotAccepted,
    NotHeard,
    NotSent,
    check_accepted,
    options,
    packed_look,
    packed_wait,
    replies_of,
    told_ms,
    unsent,
)
from broker.client.stream import Stream
from broker.queues import Message, Sign, Wire
from broker.redis_password import Password, let_in
from broker.redis_urls import checked, require_known_options

Posted: TypeAlias = tuple[Message, Call]
"""What is to be sent, and the call it belongs to."""


class Batch:
    """What goes with one write."""

    __slots__ = ("posted",)

    def __init__(self, posted: Sequence[Posted]) -> None:
        self.posted = posted

    def signed(self, sign: Sign | None) -> list[Message]:
        """The requests, as they travel."""
        return [message if sign is None else message.signed(sign) for message, _ in self.posted]

    def failed(self, trouble: Exception) -> None:
        """Tell each call why, and wake it. What certainly was not sent does not count as an attempt."""
        never_left = isinstance(trouble, NotSent | NotAccepted)
        for _, call in self.posted:
            if never_left:
                call.never_left(str(trouble))
            call.trouble = trouble
            call.woken()


class AsyncSender:
    """Puts requests on their queues over one connection: those of one turn of the event loop with one write.

    Nobody waits for a request to be sent. Where it was not, or may not have been, its call is told why and woken.
    """

    def __init__(self, url: str, *, wire: Wire, password: Password | None, sign: Sign | None = None) -> None:
        self._url, self._wire, self._password, self._sign = url, wire, password, sign
        self._pool: ConnectionPool = ConnectionPool.from_url(
            checked(url), retry=Retry(NoBackoff(), 0), **options(SEND_TIMEOUT_S)
        )
        let_in(self._pool, password)
        self._stream: Stream | None = None
        self._opening = asyncio.Lock()
        self._outbox: list[Posted] = []
        self._due = False
        self._under_way: set[Batch] = set()
        """What is neither confirmed nor given up."""
        self._one_less: asyncio.Future[None] | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def server(self) -> tuple[str, Password | None]:
        """URL and password, for a connection of another kind to the same server."""
        return self._url, self._password

    def check_url(self) -> None:
        """Do nothing where a connection can be made of its URL; none is opened.

        Raises:
          ValueError: the URL has an option that no connection knows.
        """
        require_known_options(self._pool)

    def another(self) -> "AsyncSender":
        """A sender with a connection of its own, to the same server."""
        return AsyncSender(self._url, wire=self._wire, password=self._password, sign=self._sign)

    def post(self, message: Message, call: Call) -> None:
        """Send `message` at the end of this turn of the event loop. `call` is woken only where that fails."""
        self._outbox.append((message, call))
        if not self._due:
            self.flush_soon()

    def flush_soon(self) -> None:
        """Send at the end of this turn what is posted until then."""
        if not self._due:
            self._due = True
            asyncio.get_running_loop().call_soon(self._flush)

    async def sent(self) -> None:
        """Wait until all that was posted is sent, or has failed."""
        self._flush()
        awaited = set(self._under_way)
        while not awaited.isdisjoint(self._under_way):
            if self._one_less is None or self._one_less.done():
                self._one_less = asyncio.get_running_loop().create_future()
            await asyncio.wait([self._one_less])

    def _flush(self) -> None:
        self._due = False
        if not self._outbox:  # somebody waited for it to be sent, and had it flushed before its turn
            return
        batch = Batch(self._outbox)
        self._outbox = []
        for _, call in batch.posted:
            call.on_its_way()
        self._under_way.add(batch)
        self._send(batch)

    def _send(self, batch: "Batch") -> None:
        """Send it at once where there is a connection; else in a task, which no caller's cancellation reaches."""
        stream = self._stream
        if stream is not None and not stream.lost:
            self._write(stream, batch)
            return
        task = asyncio.create_task(self._open_and_write(batch), name="broker-send")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _write(self, stream: Stream, batch: "Batch") -> None:
        try:
            packed, replies = queues.packed(batch.signed(self._sign), self._wire)
        except Exception as error:  # whatever it is, it belongs to those who wait
            self._ended(batch, error)
            return
        stream.call(packed, replies, partial(self._confirmed, batch))

    def _confirmed(self, batch: "Batch", told: list[Any] | RedisError) -> None:
        trouble: Exception | None = None
        if isinstance(told, RedisError):
            trouble = MaybeSent(str(told))
        else:
            try:
                check_accepted(told, len(batch.posted))
            except (NotAccepted, MaybeSent) as error:
                trouble = error
            except NotSent as error:
                trouble = error
                if self._stream is not None and not self._stream.busy:
                    self._stream.close()  # where Redis has failed over, a new one may lead to another server
        self._ended(batch, trouble)

    def _ended(self, batch: "Batch", trouble: Exception | None) -> None:
        """It is sent, or `trouble` is why it was not, or may not have been."""
        self._under_way.discard(batch)
        if self._one_less is not None and not self._one_less.done():
            self._one_less.set_result(None)
        if trouble is not None:
            batch.failed(trouble)

    async def _open_and_write(self, batch: "Batch") -> None:
        try:
            stream = await self._opened()
        except BaseException as error:  # also where the task is cancelled: those who wait are to know
            self._ended(batch, error if isinstance(error, Exception) else NotSent("the event loop ended"))
            if not isinstance(error, Exception):
                raise
        else:
            self._write(stream, batch)

    async def _opened(self) -> Stream:
        """The connection, opened by whoever comes first.

        Raises:
          NotSent, NotAccepted: there is none.
        """
        async with self._opening:
            if self._stream is None or self._stream.lost:
                try:
                    self._stream = await Stream.open(self._pool, patience_s=SEND_TIMEOUT_S)
                except (RedisError, OSError) as error:
                    raise unsent(error) from error
            return self._stream

    async def server_ms(self, channel: str) -> int | None:
        """As `Sender.server_ms`.

        Raises:
          NotSent, NotAccepted: Redis can't be reached, or refuses the password.
          NotHeard: this user may not read what comes on `channel`, a reply channel that is still empty.
        """
        try:
            with connecting():
                async with Redis(connection_pool=self._pool).pipeline(transaction=False) as questions:
                    questions.time()
                    questions.lpop(channel, 1)
                    now, replies = await questions.execute(raise_on_error=False)
        except (RedisError, OSError) as error:
            raise unsent(error) from error
        if isinstance(replies, NoPermissionError):
            raise NotHeard(f"NOPERM {replies}")
        return None if isinstance(now, ResponseError) else told_ms(now)

    async def close(self) -> None:
        """Give back the connection, once what was asked for is sent."""
        try:
            await self.sent()
        finally:
            if self._stream is not None:
                self._stream.close()
        await self._pool.disconnect()


class AsyncListener:
    """The one connection that waits for replies."""

    def __init__(self, url: str, key: str, *, password: Password | None) -> None:
        self._pool: ConnectionPool = ConnectionPool.from_url(
            url, retry=Retry(NoBackoff(), 0), **options(SEND_TIMEOUT_S)
        )
        let_in(self._pool, password)
        self._ask, self._look = packed_wait(key), packed_look(key)
        self._first = self._ask
        """What the next connection asks first."""

    async def listen(self, deliver: Callable[[list[bytes]], None]) -> Never:
        """Hand over replies as they come, all there are at a time, until the connection is lost.

        Raises:
          RedisError, OSError: it is; the next call makes a new one.
        """
        first, self._first = self._first, self._look  # who comes here again has lost a connection
        stream = await Stream.open(self._pool, patience_s=DEAD_AFTER_S)
        loop = asyncio.get_running_loop()
        lost: asyncio.Future[Never] = loop.create_future()

        def ask(question: bytes) -> None:
            stream.call(question, 2, arrived)

        def arrived(told: list[Any] | RedisError) -> None:
            try:
                deliver(replies_of(told))
            except Exception as error:
                if not lost.done():
                    lost.set_exception(error)
                return
            loop.call_soon(ask, self._ask)  # behind those who have just been woken: while they go on, more may gather

        try:
            ask(first)
            await lost
            raise AssertionError("a connection is lost with an error")
        finally:
            stream.close()

    async def close(self) -> None:
        """Give back what it holds. To be called once nobody listens."""
        await self._pool.disconnect()
