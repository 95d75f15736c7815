"""A request that was sent twice, for want of an answer: refused once and then carried out, it was not refused."""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from broker.client import AsyncClient, Client, Reply, RequestRefused
from broker.client import call as call_module
from broker.queues import intake_key
from tests.in_process import InProcess
from tests.processes import wait_for

pytestmark = pytest.mark.redis

JOBS = intake_key("jobs")
Cancel = Callable[[str], Reply | None]


def by_threads(url: str) -> Reply | None:
    with Client.connect(url, factory_id="f", wire="intake", attempt_ms=100) as client:
        try:
            return client.cancel("job")
        except RequestRefused as refused:
            return refused.reply


def by_asyncio(url: str) -> Reply | None:
    async def cancel() -> Reply | None:
        async with AsyncClient.connect(url, factory_id="f", wire="intake", attempt_ms=100) as client:
            try:
                return await client.cancel("job")
            except RequestRefused as refused:
                return refused.reply

    return asyncio.run(cancel())


def told(broker: InProcess, url: str, cancel: Cancel) -> str:
    """What a client is told that cancels a job, where its second copy is judged after somebody has submitted that."""
    with ThreadPoolExecutor(1) as pool:
        ended = pool.submit(cancel, url)
        wait_for(lambda: broker.redis.llen(JOBS) >= 2, "it was sent twice")
        first, *others = broker.redis.lrange(JOBS, 0, -1)
        broker.redis.delete(JOBS)
        broker.redis.rpush(JOBS, first)
        broker.serve()
        broker.submit("job")
        broker.redis.rpush(JOBS, *others)

        def served() -> bool:
            broker.serve()
            return ended.done()

        wait_for(served, "it was answered")
        reply = ended.result()
        assert reply is not None
        return reply.answer.value


@pytest.mark.parametrize("cancel", [by_threads, by_asyncio])
def test_a_call_is_not_refused_of_which_another_copy_is_carried_out(
    broker: InProcess, redis_url: str, cancel: Cancel
) -> None:
    assert told(broker, redis_url, cancel) in ("ok", "replayed")
    assert state(broker) == "cancelled"


@pytest.mark.parametrize("cancel", [by_threads, by_asyncio])
def test_were_the_first_refusal_believed_a_job_would_be_cancelled_that_was_not_found(
    broker: InProcess, redis_url: str, monkeypatch: pytest.MonkeyPatch, cancel: Cancel
) -> None:
    """The twin of the test above."""
    monkeypatch.setattr(call_module, "_PASSING", frozenset())
    assert told(broker, redis_url, cancel) == "not_found"
    broker.serve()
    assert state(broker) == "cancelled"


def state(broker: InProcess) -> str:
    [found] = broker.store.find({"kind": "job"}).documents
    return str(found.body["state"])
