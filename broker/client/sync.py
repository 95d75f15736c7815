"""The client for threads: every operation of the protocol as a blocking call."""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import TracebackType
from typing import Any, Self

from broker.client.call import ATTEMPT_MS, Address
from broker.client.connection import Sender, url_told
from broker.client.exchange import Exchange
from broker.client.guard import Wiring
from broker.client.keeper import Keeper
from broker.client.lease import Lease
from broker.client.leasing import Calling, Leasing
from broker.client.listener import Listener
from broker.client.recording import recorder
from broker.client.reply import Reply
from broker.client.steps import Step, drive
from broker.client.submissions import Submission
from broker.client.tail import NOW, Tail, Wanted
from broker.client.trust import Trust
from broker.client.watching import watch
from broker.clock import monotonic_ms, sleep_ms
from broker.entropy import Entropy, SystemEntropy
from broker.events import Event
from broker.messages import Envelope
from broker.queues import Wire
from broker.redis_password import Password

TIMEOUT_MS = 10_000
"""A sixth of the default ttl (design §9)."""


class Line(Calling[Reply]):
    """The operations over one sender. Leases are renewed over a line of their own."""

    _exchange: Exchange
    _sender: Sender

    def __init__(self, exchange: Exchange, sender: Sender, *, timeout_ms: int) -> None:
        self._exchange = exchange
        self._sender = sender
        self._timeout_ms = timeout_ms

    def _ask(
        self, kind: type[Envelope], body: Mapping[str, Any], *, request_id: str | None, timeout_ms: int | None
    ) -> Reply:
        call = self._call(kind, body, request_id=request_id, timeout_ms=timeout_ms)
        self._exchange.carry_out([call], self._sender)
        return call.answer()

    def close(self) -> None:
        """Give back the connection that sends."""
        self._sender.close()

    def _now_ms(self) -> int:
        return monotonic_ms()


class Client(Line, Leasing[Reply, Lease]):
    """A factory's connection to the broker. Safe under threads, with any number of requests outstanding.

    One connection reads the replies, up to eight send. After a fork it refuses: the child opens its own.
    """

    def __init__(self, exchange: Exchange, sender: Sender, *, timeout_ms: int) -> None:
        super().__init__(exchange, sender, timeout_ms=timeout_ms)
        self._keeper = Keeper(
            lambda: Line(exchange, sender.another(), timeout_ms=timeout_ms),
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
        """A client that is connected and reads its replies. Use it as a context manager, or `close` it.

        `incarnation` names this start of the factory (None: a random one); requests are repeated under the same one.
        `timeout_ms` bounds an operation, `attempt_ms` one attempt of it. `password` is used where the URL has none; a
        function is called for it as each connection is opened, so that it may change.
        `history`: a file, or a folder of files, to record every call in (None: what BROKER_HISTORY names, if anything).
        `key`, the line of a key file (`broker key new`): requests are signed, and only signed replies are believed.

        Raises:
          InvalidRequest: not a redis://, rediss:// or unix:// URL (`InvalidUrl`), an id that the protocol does not
            allow, not a key of this factory, or a history that can't be written.
          BrokerUnavailable: Redis can't be reached, or refuses the password or to show replies.
        """
        address = Address.checked(factory_id, incarnation)
        trust = Trust.of(key, address)
        with url_told():
            sender = Sender(redis_url, wire=wire, password=password, sign=trust.sign)
            sender.check_url()
        listener = Listener(redis_url, trust.channel, password=password)
        exchange = Exchange(
            address,
            listener,
            sender,
            entropy=entropy or SystemEntropy(),
            attempt_ms=attempt_ms,
            read=trust.read,
            history=recorder(history, address),
        )
        client = cls(exchange, sender, timeout_ms=timeout_ms)
        try:
            exchange.open()
        except BaseException:
            exchange.close()
            raise
        return client

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def factory_id(self) -> str:
        """Who this client asks for."""
        return self._exchange.address.factory_id

    @property
    def incarnation(self) -> str:
        """Which start of the factory; give it to the client that is to repeat this one's requests."""
        return self._exchange.address.incarnation

    def settle(self, within_ms: int | None = None) -> bool:
        """Wait for the answers to claims that were given up (interrupted), and give back what they got.

        `close` does that, as long as they may be granted. False: they were not answered `within_ms`.
        """
        return self._exchange.settle(within_ms)

    def close(self, *, settle: bool = True) -> None:
        """Settle, and give back the connections. Whoever still waits gets ClientClosed; closing twice is harmless.

        Without `settle` a claim that was given up may yet be granted, and its lease stand for its ttl.
        """
        try:
            self._exchange.close(settle=settle)
        finally:
            self._keeper.close()

    def submit_many(
        self, bodies: Sequence[Submission], *, request_ids: Sequence[str] | None = None, timeout_ms: int | None = None
    ) -> list[Reply]:
        """Store many jobs, a few hundred in one round trip; the replies in the same order.

        Each is a mapping with the arguments of `submit`, `{"payload": …, "queue": …}`, or a `SubmitBody`.
        One that got no answer, or was not sent as Redis went away or the client was closed, has `outcome_unknown` in
        its place: repeat it with the reply's request id. What is raised, is raised before any of them was stored.
        """
        return drive(self._submitting(bodies, request_ids, timeout_ms))

    def events(
        self,
        *,
        since: str | None = None,
        follow: bool = False,
        job_id: str | None = None,
        factory_id: str | None = None,
    ) -> Iterator[Event]:
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
        return watch(
            url,
            password=password,
            entropy=self._exchange.entropy,
            since=since,
            follow=follow,
            wanted=Wanted(job_id, factory_id),
            pause=lambda seconds: sleep_ms(seconds * 1000),
            check_open=self._exchange.check_open,
        )

    def _guard(
        self,
        claim: Step | Reply,
        on_lost: Callable[[str], None] | None,
        on_cancel: Callable[[], None] | None,
    ) -> Lease:
        return Lease(Wiring(self, self._keeper, claim, on_lost, on_cancel, self._exchange.entropy, self._now_ms))
