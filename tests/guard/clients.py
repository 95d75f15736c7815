"""The product's clients with a worker behind them; what they spend themselves is counted."""

import asyncio
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from threading import Thread
from typing import TypeAlias

import pytest
import redis

from broker.client import AsyncClient, Client
from broker.client.connection import BLOCK_S
from broker.clock import monotonic_ms
from broker.coordinator import Context
from broker.entropy import SystemEntropy
from broker.messages import SubmitBody
from broker.queues import QUEUES, Wire, intake_key, rq_queue_key
from broker.settings import load
from broker.transitions import Rules
from datastore import connect
from tests.guard.sockets import Traffic, counted_traffic
from tests.processes import wait_for
from workers.shift import Shift

TRIES_MAX = 10
PATIENT_MS = 60_000
"""No request is sent twice because the machine is busy."""


@dataclass(frozen=True, slots=True)
class Share:
    """What a client spends on requests that it sends at once."""

    trips: int
    """Round trips to Redis: of the connection that sends, and of the one that waits for replies."""
    sent: int
    """Commands it sends."""


class Backstage:
    """A worker past what is counted: it answers once all of a burst has come."""

    def __init__(self, redis_url: str, wire: Wire) -> None:
        self.redis_url = redis_url
        self.wire = wire
        self._redis = redis.Redis.from_url(redis_url)
        self._redis.ping()
        context = Context(connect("memory://"), Rules(), SystemEntropy(), lambda _ms: None)
        self._shift = Shift(context, self._redis, "w1", QUEUES, load())

    @contextmanager
    def answering(self, queue: str, size: int) -> Iterator[None]:
        """Within this block, one burst of `size` requests is answered."""
        key = rq_queue_key(queue) if self.wire == "rq" else intake_key(queue)
        thread = Thread(target=self._answer, args=(key, size))
        thread.start()
        try:
            yield
        finally:
            thread.join()

    def close(self) -> None:
        """Give the connection back."""
        self._redis.close()

    def _answer(self, key: str, size: int) -> None:
        wait_for(lambda: self._redis.llen(key) == size, f"{size} requests stand in {key}")
        self._shift.settle(self._shift.take())


Measure: TypeAlias = Callable[[pytest.MonkeyPatch, Backstage], Share]


def one_claim(patch: pytest.MonkeyPatch, behind: Backstage) -> Share:
    """`Client`: a claim of one job."""

    def burst(client: Client, jobs: Sequence[str], traffic: Traffic) -> None:
        with behind.answering("jobs", 1):
            assert client.submit(job_id=jobs[0]).good
        _armed(traffic)
        traffic.forget()
        with behind.answering("claims", 1):
            assert client.claim(jobs[0]).granted

    return _of_threads(patch, behind, 1, burst)


def many_submissions(patch: pytest.MonkeyPatch, behind: Backstage) -> Share:
    """`Client`: 64 jobs with one call."""

    def burst(client: Client, jobs: Sequence[str], traffic: Traffic) -> None:
        traffic.forget()
        with behind.answering("jobs", len(jobs)):
            assert all(reply.good for reply in client.submit_many([SubmitBody(job_id=job) for job in jobs]))

    return _of_threads(patch, behind, 64, burst)


def one_awaited_claim(patch: pytest.MonkeyPatch, behind: Backstage) -> Share:
    """`AsyncClient`: a claim of one job."""
    return asyncio.run(_awaited(patch, behind, 1))


def many_awaited_claims(patch: pytest.MonkeyPatch, behind: Backstage) -> Share:
    """`AsyncClient`: 64 claims, outstanding together."""
    return asyncio.run(_awaited(patch, behind, 64))


def _of_threads(
    patch: pytest.MonkeyPatch, behind: Backstage, size: int, burst: Callable[[Client, Sequence[str], Traffic], None]
) -> Share:
    with counted_traffic(patch, behind.redis_url) as traffic, Client.connect(
        behind.redis_url, factory_id="f", wire=behind.wire, timeout_ms=PATIENT_MS, attempt_ms=PATIENT_MS
    ) as client:  # fmt: skip
        for attempt in range(1, TRIES_MAX):
            _armed(traffic)
            since_ms = monotonic_ms()
            burst(client, [f"job-{attempt}-{number}" for number in range(size)], traffic)
            _armed(traffic)
            if attempt > 1 and _undisturbed(since_ms):
                return Share(traffic.round_trips, traffic.commands.total())
    raise AssertionError(f"the machine stood still for {BLOCK_S} s, {TRIES_MAX} times in a row")


async def _awaited(patch: pytest.MonkeyPatch, behind: Backstage, size: int) -> Share:
    with counted_traffic(patch, behind.redis_url) as traffic:
        async with AsyncClient.connect(
            behind.redis_url, factory_id="f", wire=behind.wire, timeout_ms=PATIENT_MS, attempt_ms=PATIENT_MS
        ) as client:
            for attempt in range(1, TRIES_MAX):
                jobs = [f"job-{attempt}-{number}" for number in range(size)]
                since_ms = monotonic_ms()
                with behind.answering("jobs", size):
                    await asyncio.gather(*(client.submit(job_id=job) for job in jobs))
                traffic.forget()
                with behind.answering("claims", size):
                    assert all(reply.granted for reply in await asyncio.gather(*map(client.claim, jobs)))
                if attempt > 1 and _undisturbed(since_ms):
                    return Share(traffic.round_trips, traffic.commands.total())
    raise AssertionError(f"the machine stood still for {BLOCK_S} s, {TRIES_MAX} times in a row")


def _undisturbed(since_ms: int) -> bool:
    """A wait for replies that ends without one, after `BLOCK_S`, is a round trip too: then it is counted again."""
    return monotonic_ms() - since_ms < BLOCK_S * 1_000 / 2


def _armed(traffic: Traffic) -> None:
    """Somebody waits for replies again once those that came are handed over."""
    wait_for(lambda: traffic.commands["blpop"] > 0, "the client waits for replies")
