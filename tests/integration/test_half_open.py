"""Both clients on connections that nobody tells are dead: each notices soon, whatever it waits for, and goes on."""

import asyncio
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol, TypeVar

import pytest

from broker.client import AsyncClient, Client, Reply, connection, connection_async, listener, watching
from broker.client.connection import MaybeSent, Sender
from broker.clock import monotonic_ms
from broker.events import Event
from broker.queues import Message
from tests.chaos.proxy import Proxy
from tests.fleet import Fleet
from tests.processes import wait_for

pytestmark = pytest.mark.redis

_T = TypeVar("_T")
NOTICED_MS = 15_000
"""Far less than a minute, for which a thread that read for others used to sleep on a dead connection."""
LONG_MS = 50_000
ANSWERED_S = 20
TTL_MS = 8_000
SENDERS = 4


class Asked(Protocol):
    """Either client, seen from outside of its threads and its event loop."""

    def ask(self, operation: str, *arguments: Any, **named: Any) -> "Future[Reply]": ...
    def hold(self, job_id: str, until: threading.Event) -> "Future[None]": ...
    def follow(self) -> "Future[Event]": ...


class Threads:
    """A client of threads; each question has one, which a test that fails leaves behind."""

    def __init__(self, client: Client) -> None:
        self._client = client

    def ask(self, operation: str, *arguments: Any, **named: Any) -> "Future[Reply]":
        return in_a_thread(lambda: getattr(self._client, operation)(*arguments, **named))

    def hold(self, job_id: str, until: threading.Event) -> "Future[None]":
        def work() -> None:
            with self._client.lease(job_id) as lease:
                until.wait()
                lease.check()

        return in_a_thread(work)

    def follow(self) -> "Future[Event]":
        return in_a_thread(lambda: next(self._client.events(since="now", follow=True)))


def in_a_thread(work: Callable[[], _T]) -> "Future[_T]":
    """What `work` returns or raises."""
    outcome: Future[_T] = Future()

    def run() -> None:
        try:
            outcome.set_result(work())
        except BaseException as error:
            outcome.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    return outcome


class OnALoop:
    """A client of asyncio; its event loop has a thread."""

    def __init__(self, client: AsyncClient, loop: asyncio.AbstractEventLoop) -> None:
        self._client, self._loop = client, loop

    def ask(self, operation: str, *arguments: Any, **named: Any) -> "Future[Reply]":
        return asyncio.run_coroutine_threadsafe(getattr(self._client, operation)(*arguments, **named), self._loop)

    def hold(self, job_id: str, until: threading.Event) -> "Future[None]":
        async def work() -> None:
            async with self._client.lease(job_id) as lease:
                await asyncio.to_thread(until.wait)
                lease.check()

        return asyncio.run_coroutine_threadsafe(work(), self._loop)

    def follow(self) -> "Future[Event]":
        async def first() -> Event:
            return await anext(self._client.events(since="now", follow=True))

        return asyncio.run_coroutine_threadsafe(first(), self._loop)


@contextmanager
def of_threads(url: str) -> Iterator[Asked]:
    with Client.connect(url, factory_id="f") as client:
        yield Threads(client)


@contextmanager
def of_asyncio(url: str) -> Iterator[Asked]:
    async def connected() -> AsyncClient:
        return await AsyncClient.connect(url, factory_id="f")

    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    try:
        client = asyncio.run_coroutine_threadsafe(connected(), loop).result()
        yield OnALoop(client, loop)
        asyncio.run_coroutine_threadsafe(client.close(), loop).result()
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same proportions in a fraction of the time."""
    monkeypatch.setattr(connection, "BLOCK_S", 0.25)
    monkeypatch.setattr(watching, "BLOCK_MS", 250)
    for module in (listener, connection_async, watching):
        monkeypatch.setattr(module, "DEAD_AFTER_S", 1.0)
    for edge in (connection, connection_async, listener):
        monkeypatch.setattr(edge, "SEND_TIMEOUT_S", 2.0)  # a busy machine may stall for one


@pytest.fixture
def slow_to_despair(impatient: None, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: ARG001  # it comes after that
    """A reply channel may be silent for longer than this test lasts."""
    for module in (listener, connection_async):
        monkeypatch.setattr(module, "DEAD_AFTER_S", 60.0)


@pytest.fixture
def proxy(redis_url: str) -> Iterator[Proxy]:
    with Proxy(Path(redis_url.removeprefix("unix://"))) as running:
        yield running


@pytest.fixture(params=[of_threads, of_asyncio])
def asked(request: pytest.FixtureRequest, fleet: Fleet, proxy: Proxy) -> Iterator[Asked]:
    """A client that reaches Redis through the proxy; a worker that does not is there to answer."""
    fleet.start_worker()
    with request.param(proxy.url) as client:
        assert client.ask("submit", job_id="j", ttl_ms=TTL_MS).result(ANSWERED_S).good
        yield client


@pytest.fixture
def direct(fleet: Fleet) -> Iterator[Client]:
    """Another client, which does not pass the proxy."""
    with Client.connect(fleet.redis_url, factory_id="other") as client:
        yield client


def cut_off(proxy: Proxy, *, times: int = 1) -> None:
    """Leave the connections half-open, and wait until a client has opened so many others of its own accord."""
    before = proxy.opened
    proxy.half_open()
    wait_for(lambda: proxy.opened >= before + times, "the silence is noticed", deadline_ms=NOTICED_MS)


def test_a_client_that_nobody_asks_anything_notices(asked: Asked, proxy: Proxy) -> None:
    cut_off(proxy)
    assert asked.ask("job", "j").result(ANSWERED_S).good


def test_a_claim_that_may_wait_for_long_notices_and_gets_the_job_that_comes(
    asked: Asked, proxy: Proxy, fleet: Fleet, direct: Client
) -> None:
    claim = asked.ask("claim", queue="q", wait_ms=LONG_MS)
    wait_for(lambda: fleet.redis.exists("broker:waiting"), "it is parked")
    cut_off(proxy)
    assert direct.submit(job_id="late", queue="q").good
    assert claim.result(ANSWERED_S).body["job_id"] == "late"


def test_a_lease_is_kept(asked: Asked, proxy: Proxy, direct: Client) -> None:
    over = threading.Event()
    held = asked.hold("j", over)
    try:
        wait_for(lambda: direct.job("j").body["job"]["state"] == "leased", "it is held")
        proxy.half_open()
        ends_ms = monotonic_ms() + TTL_MS
        wait_for(lambda: held.done() or monotonic_ms() > ends_ms, "its ttl is over, counted from then")
    finally:
        over.set()
    held.result(ANSWERED_S)


def test_a_connection_that_is_half_open_from_the_start_is_noticed_too(asked: Asked, proxy: Proxy) -> None:
    proxy.mute = True
    cut_off(proxy, times=3)
    proxy.mute = False
    assert asked.ask("job", "j").result(ANSWERED_S).good


@pytest.mark.usefixtures("slow_to_despair")
def test_it_is_noticed_as_soon_as_a_new_one_that_sends(asked: Asked, proxy: Proxy) -> None:
    before = proxy.opened
    proxy.mute = True
    proxy.drop()
    wait_for(lambda: proxy.opened >= before + 3, "it tries again and again", deadline_ms=NOTICED_MS)
    proxy.mute = False
    assert asked.ask("job", "j").result(ANSWERED_S).good


@pytest.mark.parametrize(
    "answer",
    [b":5\r\n:6\r\n", b"+OK\r\n+OK\r\n", b"*1\r\n$1\r\na\r\n*0\r\n", b"%1\r\n+a\r\n+b\r\n_\r\n", b"_\r\n*1\r\n:7\r\n"],
    ids=["numbers", "texts", "too short", "a map", "not of replies"],
)
def test_what_answers_no_wait_for_replies_costs_the_connection_and_nothing_else(
    asked: Asked, proxy: Proxy, answer: bytes
) -> None:
    before = proxy.opened
    proxy.say(answer)
    wait_for(lambda: proxy.opened > before, "another connection is opened", deadline_ms=NOTICED_MS)
    proxy.say(b"")
    assert asked.ask("job", "j").result(ANSWERED_S).good


def test_who_follows_the_events_notices(asked: Asked, proxy: Proxy, fleet: Fleet, direct: Client) -> None:
    events = asked.follow()
    following = "XREAD of a follower"
    wait_for(lambda: any(each["cmd"] == "xread" for each in fleet.redis.client_list()), following)
    cut_off(proxy, times=2)  # the one that reads replies, and the one of the events
    assert direct.submit(job_id="seen").good
    assert events.result(ANSWERED_S).job_id == "seen"


def test_one_dead_connection_of_those_that_send_tells_of_the_others(proxy: Proxy) -> None:
    sender = Sender(proxy.url, wire="intake", password=None)
    message = Message("jobs", "unused", 1, "{}")
    together = threading.Barrier(SENDERS)

    def at_once() -> None:
        together.wait()

    sending = [in_a_thread(lambda: sender.send([message], at_once)) for _ in range(SENDERS)]
    for each in sending:
        each.result(ANSWERED_S)
    assert proxy.opened == SENDERS
    proxy.half_open()
    with pytest.raises(MaybeSent):
        sender.send([message])
    sender.send([message])
    sender.close()
