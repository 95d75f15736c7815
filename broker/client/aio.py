"""The client for asyncio: the same operations under the same names, to be awaited."""

import asyncio
import os
from collections.abc import AsyncIterator, Callable, Coroutine, Generator, Mapping, Sequence
from types import TracebackType
from typing import Any, Self

from broker.client.async_lease import AsyncLease
from broker.client.call import ATTEMPT_MS, Address
from broker.client.connection import url_told
from broker.client.connection_async import AsyncListener, AsyncSender
from broker.client.errors import ClientClosed
from broker.client.exchange_async import AsyncExchange
from broker.client.guard import Wiring
from broker.client.keeper_async import AsyncKeeper
from broker.client.leasing import Calling, Leasing
from broker.client.recording import recorder
from broker.client.reply import Reply
from broker.client.steps import Step, drive_async
from broker.client.submissions import Submission
from broker.client.sync import TIMEOUT_MS
from broker.client.tail import NOW, Tail, Wanted
from broker.client.trust import Trust
from broker.client.watching import watch_async
from broker.entropy import Entropy, SystemEntropy
from broker.events import Event
from broker.messages import Envelope
from broker.queues import Wire
from broker.redis_password import Password


class AsyncLine(Calling[Coroutine[Any, Any, Reply]]):
    """The operations over one sender. Leases are renewed over a line of their own."""

    _exchange: AsyncExchange
    _sender: AsyncSender

    def __init__(self, exchange: AsyncExchange, sender: AsyncSender, *, timeout_ms: int) -> None:
        self._exchange = exchange
        self._sender = sender
        self._timeout_ms = timeout_ms

    async def _ask(
        self, kind: type[Envelope], body: Mapping[str, Any], *, request_id: str | None, timeout_ms: int | None
    ) -> Reply:
        call = self._call(kind, body, request_id=request_id, timeout_ms=timeout_ms)
        await self._exchange.carry(call, self._sender)
        return call.answer()

    async def close(self) -> None:
        """Give back the connection that sends."""
        await self._sender.close()

    def _now_ms(self) -> int:
        return self._exchange.steady_ms()


class AsyncClient(AsyncLine, Leasing[Coroutine[Any, Any, Reply], AsyncLease]):
    """A factory's connection to the broker, for one event loop, with any number of requests outstanding.

    One connection reads the replies, one sends. A cancelled await forgets its request; a grant that comes for it
    all the same is released. After a fork the client refuses: the child opens its own.
    """

    def __init__(self, exchange: AsyncExchange, sender: AsyncSender, *, timeout_ms: int) -> None:
        super().__init__(exchange, sender, timeout_ms=timeout_ms)
        self._keeper = AsyncKeeper(
            lambda: AsyncLine(exchange, sender.another(), timeout_ms=timeout_ms),
            notices=exchange.notices,
            entropy=exchange.entropy,
            steady_ms=self._now_ms,
        )

    @classmethod
    def connect(
        cls,
        redis_url: str,
        *,
        factory_id: str,
        incarnation: str | None = None,
        wire: Wire = "rq",
        timeout_ms: int = TIMEOUT_MS,
        attempt_ms: int = ATTEMPT_MS,
        password: Password | None = None,
        key: str | None = None,
        entropy: Entropy | None = None,
        history: str | os.PathLike[str] | None = None,
    ) -> Self:
        """A client to enter with `async with`, or to await and `close`. It connects then.

        The arguments are those of `Client.connect`.

        Raises:
          InvalidRequest: not a redis://, rediss:// or unix:// URL (`InvalidUrl`), an id that the protocol does not
            allow, not a key of this factory, or a history that can't be written.
          BrokerUnavailable: (on entering) Redis can't be reached, or refuses the password or to show replies.
          ClientClosed: (on entering) it was closed, or opened in another event loop. To enter it twice is harmless.
        """
        address = Address.checked(factory_id, incarnation)
        trust = Trust.of(key, address)
        with url_told():
            sender = AsyncSender(redis_url, wire=wire, password=password, sign=trust.sign)
            sender.check_url()
        listener = AsyncListener(redis_url, trust.channel, password=password)
        exchange = AsyncExchange(
            address,
            listener,
            sender,
            entropy=entropy or SystemEntropy(),
            attempt_ms=attempt_ms,
            read=trust.read,
            history=recorder(history, address),
        )
        return cls(exchange, sender, timeout_ms=timeout_ms)

    def __await__(self) -> Generator[Any, None, Self]:
        return self.__aenter__().__await__()

    async def __aenter__(self) -> Self:
        try:
            await self._exchange.open()
        except ClientClosed:
            raise
        except BaseException:
            await self._exchange.close()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    @property
    def factory_id(self) -> str:
        """Who this client asks for."""
        return self._exchange.address.factory_id

    @property
    def incarnation(self) -> str:
        """Which start of the factory; give it to the client that is to repeat this one's requests."""
        return self._exchange.address.incarnation

    async def settle(self, within_ms: int | None = None) -> bool:
        """As `Client.settle`, for claims that were given up (cancelled)."""
        return await self._exchange.settle(within_ms)

    async def close(self, *, settle: bool = True) -> None:
        """As `Client.close`. Where it is cancelled, everything is given back all the same."""
        try:
            await self._exchange.close(settle=settle)
        finally:
            await self._keeper.close()

    async def submit_many(
        self, bodies: Sequence[Submission], *, request_ids: Sequence[str] | None = None, timeout_ms: int | None = None
    ) -> list[Reply]:
        """Store many jobs, a few hundred in one round trip; the replies in the same order.

        Each is a mapping with the arguments of `submit`, `{"payload": …, "queue": …}`, or a `SubmitBody`.
        One that got no answer, or was not sent as Redis went away or the client was closed, has `outcome_unknown` in
        its place: repeat it with the reply's request id. What is raised, is raised before any of them was stored.
        """
        return await drive_async(self._submitting(bodies, request_ids, timeout_ms))

    def events(
        self,
        *,
        since: str | None = None,
        follow: bool = False,
        job_id: str | None = None,
        factory_id: str | None = None,
    ) -> AsyncIterator[Event]:
        """What happened to jobs, oldest first: after the cursor `since`, from now on (`"now"`), or all that is kept.

        With `follow` it goes on for ever, across a Redis that is away for less than a minute. An event's `cursor`
        resumes behind it; an event `missed` says that the stream no longer reaches back so far. A hint: what counts
        is in `runs`. `factory_id`: events of this factory, as holder or as the one who asked.

        Raises:
          InvalidRequest: `since` is not a cursor.
          BrokerUnavailable: Redis can't be reached, or this user may not read the stream.
          ClientClosed: the client is closed. A follower that waits hears of it within seconds.
        """
        url, password = self._sender.server
        if since not in (None, NOW):
            Tail(since)  # a cursor that is none is told at once, not at the first event
        return watch_async(
            url,
            password=password,
            entropy=self._exchange.entropy,
            since=since,
            follow=follow,
            wanted=Wanted(job_id, factory_id),
            pause=asyncio.sleep,
            check_open=self._exchange.check_open,
        )

    def _guard(
        self,
        claim: Step | Reply,
        on_lost: Callable[[str], None] | None,
        on_cancel: Callable[[], None] | None,
    ) -> AsyncLease:
        return AsyncLease(Wiring(self, self._keeper, claim, on_lost, on_cancel, self._exchange.entropy, self._now_ms))
