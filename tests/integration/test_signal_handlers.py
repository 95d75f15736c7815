"""Handlers of signals that ask the broker something, wherever the thread they interrupt is in asking itself."""

import random
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

import pytest

from broker.answers import Word
from broker.client import Client, Reply
from tests.fleet import Fleet

pytestmark = pytest.mark.redis


@contextmanager
def handling(work: Callable[[], None]) -> Iterator[None]:
    """Do `work` in the handler of SIGALRM."""

    def handler(_signal: int, _frame: FrameType | None) -> None:
        work()

    before = signal.signal(signal.SIGALRM, handler)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


@pytest.fixture
def client(fleet: Fleet) -> Iterator[Client]:
    fleet.start_worker()
    with Client.connect(fleet.redis_url, factory_id="f", wire="intake") as client:
        yield client


def test_a_lease_may_be_released_while_the_thread_waits_for_the_next_job(fleet: Fleet, client: Client) -> None:
    client.submit(job_id="j")
    released: list[Reply] = []

    def stop() -> None:
        released.append(lease.release("told to stop"))
        with Client.connect(fleet.redis_url, factory_id="another") as another:
            another.submit(job_id="late", queue="later")

    with client.lease("j") as lease, handling(stop):
        signal.setitimer(signal.ITIMER_REAL, 0.2)
        claimed = client.claim(queue="later", wait_ms=60_000)
    assert [reply.answer for reply in released] == [Word.OK]
    assert claimed.body["job_id"] == "late"
    heard_after_ms = claimed.server_now_ms - released[0].server_now_ms
    assert heard_after_ms < 30_000, "not only as its wait was over"


def test_every_question_of_a_handler_and_of_those_it_interrupts_is_answered_at_once(client: Client) -> None:
    chance, asked = random.Random(7), 0  # repeatable is the point

    def ask() -> None:
        nonlocal asked
        assert client.job("none", timeout_ms=2_500).answer is Word.NOT_FOUND
        asked += 1
        signal.setitimer(signal.ITIMER_REAL, chance.uniform(0.0001, 0.004))

    with handling(ask):
        signal.setitimer(signal.ITIMER_REAL, 0.001)
        while asked < 300:
            assert client.job("none", timeout_ms=2_500).answer is Word.NOT_FOUND
