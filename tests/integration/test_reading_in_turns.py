"""One of the threads that wait reads for all: no reply is lost as they change, or where one is interrupted."""

import json
import signal
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from random import Random
from types import FrameType

import pytest
import redis

from broker.answers import Answer, Word, wire
from broker.client import BrokerTimeout, Client, ClientClosed, connection, exchange
from broker.client.call import Address
from broker.client.channel import Channel
from broker.client.connection import Sender
from broker.client.exchange import Exchange
from broker.client.listener import Listener
from broker.client.turns import Turns, Waiter
from broker.entropy import SystemEntropy
from broker.queues import intake_key
from broker.replies import encode, reply_key
from tests.processes import wait_for

pytestmark = pytest.mark.redis

PATIENT_MS = 30_000
THREADS = 12
CALLS = 40
INTERRUPTS = 150


@pytest.fixture(autouse=True)
def nobody_stands_in(monkeypatch: pytest.MonkeyPatch) -> None:
    """The thread that reads while nobody waits would come to the aid of a broken hand-over: it comes once, at first."""
    monkeypatch.setattr(exchange, "IDLE_S", 3_600)


@pytest.fixture
def answering(redis_url: str) -> Iterator[str]:
    """A server that answers every question about a job, one after the other: there is none."""
    over = threading.Event()

    def answer() -> None:
        with redis.Redis.from_url(redis_url) as connection:
            while not over.is_set():
                if (popped := connection.blpop(intake_key("jobs"), 0.2)) is None:
                    continue
                request = json.loads(popped[1])
                told = wire(Answer(Word.NOT_FOUND, body=request["body"]), request_id=request["request_id"], now_ms=1)
                connection.rpush(reply_key(request["factory_id"], request["instance"]), encode(told))

    thread = threading.Thread(target=answer)
    thread.start()
    yield redis_url
    over.set()
    thread.join()


class Timer:
    """Interrupts this thread at some moment of a call."""

    def __init__(self) -> None:
        self.may = False
        self._random = Random(3)

    def set(self) -> None:
        """Once, somewhere in the next call or after it."""
        signal.setitimer(signal.ITIMER_REAL, self._random.uniform(0.00005, 0.002))
        self.may = True

    def stop(self) -> None:
        """Not any more."""
        self.may = False
        signal.setitimer(signal.ITIMER_REAL, 0)

    def ring(self, _signal: int, _frame: FrameType | None) -> None:
        """The handler of the signal."""
        if self.may:
            self.may = False
            raise Interrupted


class Interrupted(BaseException):
    """What the handler raises, wherever the thread is."""


class UndisturbedSender(Sender):
    """Connects without an interrupt: packing a number, hiredis crashes where a handler raises."""

    timer: Timer | None = None

    def _open(self) -> Channel:
        if self.timer is None or threading.current_thread() is not threading.main_thread():
            return super()._open()
        may, self.timer.may = self.timer.may, False
        try:
            return super()._open()
        finally:
            self.timer.may = may


def client_of(
    url: str,
    *,
    turns: Turns | None = None,
    listener: type[Listener] = Listener,
    timeout_ms: int = PATIENT_MS,
    timer: Timer | None = None,
) -> Client:
    """A client that asks once, so that a reply that is lost is missed."""
    address = Address.checked("f", None)
    sender = UndisturbedSender(url, wire="intake", password=None)
    sender.timer = timer
    made = Exchange(
        address,
        listener(url, reply_key(address.factory_id, address.instance), password=None),
        sender,
        entropy=SystemEntropy(),
        attempt_ms=timeout_ms,
    )
    made._turns = turns or Turns()
    client = Client(made, sender, timeout_ms=timeout_ms)
    made.open()
    return client


def ask(client: Client, job: str) -> str:
    """The job that the answer is about."""
    return str(client.job(job).body["job_id"])


class NobodyNext(Turns):
    """A reader leaves, and appoints nobody."""

    def end(self, waiter: Waiter) -> None:
        with self._lock:
            self._waiting.pop(waiter, None)
            if self._reader is waiter:
                self._reader = None


class Interrupting(Listener):
    """Interrupts the main thread, once, as it has read a reply that another thread waits for."""

    struck = False

    def receive(self, wait_ms: int) -> list[bytes]:
        texts = super().receive(wait_ms)
        mine = threading.current_thread() is threading.main_thread()
        if mine and not self.struck and any(b"main-" not in text for text in texts):
            self.struck = True
            raise Interrupted
        return texts


class Forgetful(Interrupting):
    """Takes replies for handed over as soon as they are read."""

    def receive(self, wait_ms: int) -> list[bytes]:
        try:
            return super().receive(wait_ms)
        except Interrupted:
            self.handed_over()
            raise


def everybody_asks(client: Client, *, at_once: bool = False) -> None:
    """Each thread asks again and again; `at_once`: all together, and again when the last one has its reply."""
    together = threading.Barrier(THREADS)

    def in_a_row(thread: int) -> None:
        try:
            for number in range(CALLS):
                if at_once:
                    together.wait()
                assert ask(client, f"j{thread}-{number}") == f"j{thread}-{number}"
        except BaseException:
            together.abort()
            raise

    with ThreadPoolExecutor(THREADS) as pool:
        asked = [pool.submit(in_a_row, thread) for thread in range(THREADS)]
        failures = [failure for each in asked if (failure := each.exception()) is not None]
    for failure in failures:
        if not isinstance(failure, threading.BrokenBarrierError):
            raise failure


def test_many_threads_each_get_their_own_replies_whoever_reads_them(answering: str) -> None:
    with client_of(answering) as client:
        everybody_asks(client)
        everybody_asks(client, at_once=True)


def test_a_reader_that_appoints_nobody_is_caught(answering: str) -> None:
    with client_of(answering, turns=NobodyNext(), timeout_ms=500) as client, pytest.raises(BrokerTimeout):
        everybody_asks(client, at_once=True)


def interrupted_while_others_wait(client: Client, timer: Timer, calls: int) -> int:
    """How many of so many calls of this thread were interrupted, while three others asked.

    A reply that was lost is raised.
    """
    over = threading.Event()
    found = 0

    def go_on(thread: int) -> None:
        number = 0
        while not over.is_set():
            number += 1
            assert ask(client, f"j{thread}-{number}") == f"j{thread}-{number}"

    before = signal.signal(signal.SIGALRM, timer.ring)
    try:
        with ThreadPoolExecutor(3) as pool:
            others = [pool.submit(go_on, thread) for thread in range(3)]
            for number in range(calls):
                try:
                    timer.set()
                    assert ask(client, f"main-{number}") == f"main-{number}"
                    timer.stop()
                except Interrupted:
                    found += 1
                if any(other.done() for other in others):
                    break
            over.set()
            for other in others:
                other.result()
    finally:
        timer.stop()
        over.set()
        signal.signal(signal.SIGALRM, before)
    return found


def test_an_interrupt_of_the_thread_that_reads_loses_nobodys_reply(answering: str) -> None:
    timer = Timer()
    with client_of(answering, timer=timer) as client:
        found = interrupted_while_others_wait(client, timer, INTERRUPTS)
        assert found > INTERRUPTS / 5, "hardly a call was interrupted: nothing was tried"
        assert ask(client, "after") == "after"


def until_interrupted(client: Client, listener: Interrupting) -> None:
    """Ask, while three others do, until this thread is interrupted with a reply of theirs in its hands; then once more.

    A reply that was lost is raised.
    """
    over = threading.Event()

    def go_on(thread: int) -> None:
        number = 0
        while not over.is_set():
            number += 1
            ask(client, f"j{thread}-{number}")

    with ThreadPoolExecutor(3) as pool:
        others = [pool.submit(go_on, thread) for thread in range(3)]
        try:
            while not listener.struck:
                with suppress(Interrupted):
                    ask(client, "main-1")
            ask(client, "main-2")
        finally:
            over.set()
        for other in others:
            other.result()


def test_an_interrupt_between_reading_a_reply_and_handing_it_over_does_not_lose_it(answering: str) -> None:
    with client_of(answering, listener=Interrupting) as client:
        listener = client._exchange._listener
        assert isinstance(listener, Interrupting)
        until_interrupted(client, listener)


def test_a_listener_that_forgets_what_it_has_read_is_caught(answering: str) -> None:
    with client_of(answering, listener=Forgetful, timeout_ms=2_000) as client:
        listener = client._exchange._listener
        assert isinstance(listener, Forgetful)
        with pytest.raises(BrokerTimeout):
            until_interrupted(client, listener)


def test_a_client_may_be_closed_by_the_handler_of_a_signal_while_it_reads(redis_url: str) -> None:
    client = client_of(redis_url)

    def handler(_signal: int, _frame: FrameType | None) -> None:
        client.close()

    before = signal.signal(signal.SIGALRM, handler)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.05)
        with pytest.raises(ClientClosed):
            client.job("nobody-answers")
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def test_a_client_that_heard_nothing_for_long_asks_again(answering: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "BLOCK_S", 1)
    with client_of(answering) as client, redis.Redis.from_url(answering) as watching:
        watching.config_resetstat()
        wait_for(lambda: watching.info("commandstats").get("cmdstat_lpop", {}).get("calls", 0) >= 2, "it asks again")
        assert ask(client, "j") == "j"
