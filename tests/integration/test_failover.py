"""A Redis that takes nothing for a while: it fails over, or has just been started and reads what it had stored."""

import asyncio
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from redis.exceptions import ResponseError

from broker.client import AsyncClient, BrokerUnavailable, Client, Reply
from broker.client.connection import NotAccepted, NotSent, check_accepted
from tests.conftest import StartValkey
from tests.fleet import Fleet
from tests.processes import wait_for

Ask = Callable[[str, int], Reply]


@pytest.fixture
def fleet(start_valkey: StartValkey, tmp_path: Path) -> Iterator[Fleet]:
    fleet = Fleet(start_valkey().url, tmp_path)
    fleet.start_worker()
    yield fleet
    fleet.close()


def in_threads(url: str, timeout_ms: int) -> Reply:
    with Client.connect(url, factory_id="f") as client:
        return client.submit(job_id="j", timeout_ms=timeout_ms)


def in_a_loop(url: str, timeout_ms: int) -> Reply:
    async def main() -> Reply:
        async with AsyncClient.connect(url, factory_id="f") as client:
            return await client.submit(job_id="j", timeout_ms=timeout_ms)

    return asyncio.run(main())


def follow(fleet: Fleet, *server: str) -> None:
    """Make Redis the replica of `server`, or a master again."""
    fleet.redis.execute_command("REPLICAOF", *server)  # type: ignore[no-untyped-call]  # redis-py leaves it untyped


@pytest.mark.redis
@pytest.mark.parametrize("ask", [in_threads, in_a_loop])
def test_what_a_replica_refuses_is_sent_again_until_it_is_a_master(fleet: Fleet, ask: Ask) -> None:
    follow(fleet, "127.0.0.1", "1")
    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(ask, fleet.redis_url, 60_000)
        wait_for(lambda: "errorstat_READONLY" in fleet.redis.info("errorstats"), "it was refused")
        follow(fleet, "NO", "ONE")
        assert asked.result().good


@pytest.mark.redis
@pytest.mark.parametrize("ask", [in_threads, in_a_loop])
def test_where_it_stays_a_replica_nothing_was_sent_and_no_right_is_wanting(fleet: Fleet, ask: Ask) -> None:
    follow(fleet, "127.0.0.1", "1")
    with pytest.raises(BrokerUnavailable, match=r"READONLY .*nothing was sent") as told:
        ask(fleet.redis_url, 2_000)
    assert not told.value.refused


@pytest.mark.parametrize(
    ("said", "means"),
    [
        ("LOADING Redis is loading the dataset in memory", NotSent),
        ("NOREPLICAS Not enough good replicas to write.", NotSent),
        ("NOPERM this user has no permissions", NotAccepted),
    ],
)
def test_only_what_says_nothing_of_the_user_is_tried_again(said: str, means: type[Exception]) -> None:
    with pytest.raises(means):
        check_accepted([ResponseError(said)], 1)
