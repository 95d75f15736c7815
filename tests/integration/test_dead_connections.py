"""A connection that nobody tells is dead costs a worker seconds, not minutes."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis
from redis.exceptions import TimeoutError as NoAnswer

from broker.backoff import BACKOFF_MIN_S
from broker.queues import QUEUES
from broker.settings import load
from tests.caller import Caller
from tests.chaos.proxy import Proxy
from tests.fleet import Fleet
from tests.processes import wait_for
from workers import waiters as waiting
from workers.claim_worker import ClaimWorker
from workers.runtime import SOCKET_TIMEOUT_S, connect_redis, open_runtime
from workers.waiters import Waiters


@pytest.fixture
def proxy(redis_url: str) -> Iterator[Proxy]:
    with Proxy(Path(redis_url.removeprefix("unix://"))) as running:
        yield running


def test_a_worker_keeps_the_time_out_of_its_connections(redis_url: str) -> None:
    # rq sets that of a worker's connections to 415 s: so long a half-open one hung the whole worker.
    runtime = open_runtime(load(redis_url=redis_url, datastore_url="memory://"))
    worker = ClaimWorker.for_runtime(runtime, name="w1")
    assert worker.connection.connection_pool.connection_kwargs["socket_timeout"] == SOCKET_TIMEOUT_S
    runtime.close()


def test_a_worker_that_rq_starts_has_that_time_out_too(redis_url: str) -> None:
    with redis.Redis.from_url(redis_url) as connection:
        ClaimWorker(list(QUEUES), connection=connection)
        assert connection.connection_pool.connection_kwargs["socket_timeout"] == SOCKET_TIMEOUT_S


def test_a_wait_on_half_open_connections_ends(proxy: Proxy, monkeypatch: pytest.MonkeyPatch) -> None:
    connection = connect_redis(load(redis_url=proxy.url))
    waiters = Waiters(connection, "w1", QUEUES, at_most=64)
    try:
        assert waiters.wait(0.01) == []
        proxy.half_open()
        monkeypatch.setattr(waiting, "SILENT_MS", 100)

        def ended() -> bool:
            try:
                waiters.wait(0.01)
            except NoAnswer:
                return True
            return False

        wait_for(ended, "the wait is given up")
    finally:
        waiters.close()
        connection.close()


def test_a_worker_that_has_lost_redis_often_comes_back_as_quickly_as_the_first_time(fleet: Fleet) -> None:
    # The pauses doubled with each loss in the life of a worker: after seven of them, weeks apart, up to 5 s each.
    worker = fleet.start_worker()
    caller = Caller(fleet.redis)
    for number in range(12):
        fleet.redis.client_kill_filter(_type="normal", skipme=True)
        # Two: the first may have been in hand as the connection went, and be answered before the worker takes again.
        for which in "ab":
            assert caller.ask("submit", job_id=f"job-{number}{which}")["answer"] == "ok"
    worker.terminate()
    output, _ = worker.communicate(timeout=20)
    losses = [json.loads(line) for line in output.splitlines() if "redis_lost" in line]
    assert len(losses) >= 4, "hardly one of its connections was in use"
    assert max(loss["retry_in_s"] for loss in losses) <= 3 * BACKOFF_MIN_S, losses
