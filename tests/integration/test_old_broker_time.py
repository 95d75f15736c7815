"""Broker time that lay unread while its worker was stopped is not judged by (I7), however its requests came in."""

from collections.abc import Callable, Iterator, Mapping

import pytest
import redis

from broker.clock import Steady
from broker.queues import QUEUES
from tests.caller import Caller
from workers import left_behind, shedding
from workers.inflight import ASKED, arrivals_key
from workers.taking import STALE_MS, WORKERS, Hand, Taker

LATER_S = 2_000_000_000
"""What the server says where it is asked for the time once more."""
STOPPED_MS = 60_000


class Later(redis.Redis):
    """A server whose clock went on while this worker was stopped."""

    def time(self) -> tuple[int, int]:  # type: ignore[override]  # as redis-py gives it back
        return LATER_S, 0


def steady(stopped_ms: int) -> Steady:
    """A host's clock; the process is stopped for so long between its question and the reading of the answer."""
    readings: Iterator[int] = iter([0])
    return lambda: next(readings, stopped_ms)


def _asked(server: redis.Redis, steady_ms: Steady) -> Hand:
    return Taker(server, "w1", QUEUES, steady_ms=steady_ms).ask(ASKED[0], at_most=64, others=64)()


def _taken_over(server: redis.Redis, steady_ms: Steady) -> Hand:
    server.lmove("broker:in:claims", arrivals_key("dead", "intake"))
    server.zadd(WORKERS, {"dead": 1})
    return left_behind.take_over(server, "w1", dead_after_ms=1, at_most=64, steady_ms=steady_ms)


def _left_over(server: redis.Redis, steady_ms: Steady) -> Hand:
    server.lmove("broker:in:claims", arrivals_key("w1", "intake"))
    return left_behind.own_leftovers(server, "w1~1", before=["w1"], steady_ms=steady_ms)


def _surplus(server: redis.Redis, steady_ms: Steady) -> Hand:
    return shedding.take_surplus(server, "w1", QUEUES, queue_max=0, steady_ms=steady_ms)


WAYS: Mapping[str, Callable[[redis.Redis, Steady], Hand]] = {
    "asked for": _asked,
    "taken over": _taken_over,
    "left over": _left_over,
    "turned away": _surplus,
}


@pytest.fixture
def server(redis_client: redis.Redis) -> Later:
    """With one claim in the intake."""
    caller = Caller(redis_client)
    redis_client.rpush("broker:in:claims", caller.make("claim", job_id="a").model_dump_json())
    return Later(connection_pool=redis_client.connection_pool)


@pytest.mark.parametrize("way", WAYS)
def test_a_worker_that_was_stopped_before_it_read_the_time_asks_for_it_again(server: Later, way: str) -> None:
    hand = WAYS[way](server, steady(STOPPED_MS))
    assert [len(hand.entries), hand.clock.now_ms()] == [1, LATER_S * 1000]


@pytest.mark.parametrize("way", WAYS)
def test_time_that_came_at_once_is_taken_as_it_is(server: Later, way: str) -> None:
    hand = WAYS[way](server, steady(STALE_MS))
    assert len(hand.entries) == 1
    assert hand.clock.now_ms() < LATER_S * 1000
