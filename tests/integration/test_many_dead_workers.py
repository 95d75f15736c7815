"""Of many dead workers, whoever wrote their names, one look is at some: all have their turns, and no list is left."""

from collections.abc import Callable, Mapping, Sequence
from math import ceil, inf
from typing import Any

import pytest
import redis

from broker.clock import RedisClock
from broker.messages import Envelope
from broker.scripts import Script
from datastore.memory import MemoryDatastore
from tests.in_process import InProcess
from workers import left_behind
from workers.entries import INTAKE_BYTES_MAX
from workers.inflight import arrivals_key
from workers.left_behind import FORGET_MS, LOOK_MAX, LOOKED
from workers.taking import WORKERS

pytestmark = pytest.mark.redis

DEAD_AFTER_MS = 60_000
MADE_UP = 3 * LOOK_MAX + 1
SCORES: Mapping[str, Callable[[float], float]] = {
    "a moment after death": lambda dead_ms: dead_ms,
    "long ago": lambda dead_ms: dead_ms - FORGET_MS,
    "never": lambda _: -inf,
}


@pytest.fixture
def broker(redis_client: redis.Redis) -> InProcess:
    return InProcess(MemoryDatastore(), redis_client)


def make_up(client: redis.Redis, score: float, count: int = MADE_UP) -> None:
    """Names of workers that never were."""
    client.zadd(WORKERS, {f"made-up-{number}": score for number in range(count)})


def dead_ms(client: redis.Redis) -> int:
    """When a worker was heard of last that is dead by now, for a second."""
    return RedisClock(client).now_ms() - DEAD_AFTER_MS - 1_000


def look(broker: InProcess, at_most: int = 64) -> int:
    """One look at what dead workers left; how much it brought, which is settled."""
    hand = left_behind.take_over(broker.redis, "w", dead_after_ms=DEAD_AFTER_MS, at_most=at_most)
    broker.finish(broker.settle(hand.entries, "w"), "w")
    return len(hand.entries)


def look_a_round(broker: InProcess) -> None:
    """As many looks in vain as all who are dead need, one more since some may come or go, and whatever brings."""
    vain = ceil(broker.redis.zcard(WORKERS) / LOOK_MAX) + 1
    while vain:
        vain -= not look(broker)


def left_by(broker: InProcess, worker: str, score: float) -> Sequence[Envelope]:
    """What this one had in hand when it was heard of last."""
    requests = [broker.caller.make("submit", job_id=f"{worker}-{number}") for number in range(3)]
    broker.caller.send(*requests)
    broker.take(worker)
    broker.redis.zadd(WORKERS, {worker: score})
    return requests


def answered(broker: InProcess, requests: Sequence[Envelope]) -> bool:
    return all(broker.caller.has_reply(request) for request in requests)


def all_left(broker: InProcess, made_up: float) -> list[Envelope]:
    """By three workers that died before, among and after those with a name that is made up."""
    make_up(broker.redis, made_up)
    at_ms = dead_ms(broker.redis)
    before = left_by(broker, "a", at_ms - FORGET_MS - 1)
    return [*before, *left_by(broker, "made-up-5-and-real", made_up), *left_by(broker, "z", at_ms)]


@pytest.mark.parametrize("died", SCORES)
def test_whatever_any_of_them_left_is_taken_over_in_one_round(broker: InProcess, died: str) -> None:
    requests = all_left(broker, SCORES[died](dead_ms(broker.redis)))
    look_a_round(broker)
    assert answered(broker, requests)
    assert broker.redis.keys("broker:inflight:*") == []


def test_where_each_look_is_at_the_oldest_the_others_have_no_turn(
    broker: InProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The broken twin."""
    text = left_behind._TAKE_OVER.text.replace("'LIMIT', from, LOOK_MAX", "'LIMIT', 0, LOOK_MAX")
    monkeypatch.setattr(left_behind, "_TAKE_OVER", Script(text))
    requests = all_left(broker, dead_ms(broker.redis))
    for _ in range(3):
        look_a_round(broker)
    assert not answered(broker, requests)


def test_what_a_stopped_worker_is_handed_afterwards_is_taken_over_in_the_next_round(broker: InProcess) -> None:
    make_up(broker.redis, dead_ms(broker.redis))
    broker.redis.zadd(WORKERS, {"made-up-5-and-real": dead_ms(broker.redis) - FORGET_MS + 120_000})
    for number in range(3):
        look_a_round(broker)
        request = broker.caller.make("submit", job_id=f"job-{number}")
        broker.caller.send(request, wire="intake")
        broker.redis.lmove("broker:in:jobs", arrivals_key("made-up-5-and-real", "intake"), "LEFT", "RIGHT")
        look_a_round(broker)
        assert answered(broker, [request])


def commands(client: redis.Redis, act: Callable[[], object]) -> Mapping[str, int]:
    """How often each command is carried out by it, in scripts too."""
    client.config_resetstat()
    act()
    told: Mapping[str, Any] = client.info("commandstats")
    return {name.removeprefix("cmdstat_"): stat["calls"] for name, stat in told.items()}


@pytest.mark.parametrize("score", [-inf, 1.0, 4e12, inf])
def test_a_look_is_at_no_more_than_some_of_them(broker: InProcess, score: float) -> None:
    make_up(broker.redis, score, 10 * LOOK_MAX)
    for _ in range(2):
        carried_out = commands(broker.redis, lambda: look(broker))
        assert sum(carried_out.values()) < 8 * LOOK_MAX


@pytest.mark.parametrize("score", [-inf, 1.0])
def test_whoever_left_nothing_and_is_dead_for_an_hour_is_forgotten_in_one_round(
    broker: InProcess, score: float
) -> None:
    make_up(broker.redis, score)
    look_a_round(broker)
    assert broker.redis.zrange(WORKERS, 0, -1) == [b"w"]


def test_those_behind_whoever_was_forgotten_are_next(broker: InProcess) -> None:
    at_ms = dead_ms(broker.redis)
    make_up(broker.redis, at_ms, 3 * LOOK_MAX)
    make_up(broker.redis, 1.0, LOOK_MAX)  # the first of them, so that many are left
    requests = left_by(broker, "a", at_ms - 1)
    assert [look(broker), look(broker)] == [0, len(requests)]


@pytest.mark.parametrize("score", [4e12, inf])
def test_whoever_was_heard_of_in_the_future_is_dead_in_time(broker: InProcess, score: float) -> None:
    make_up(broker.redis, score)
    look_a_round(broker)
    assert broker.redis.zcount(WORKERS, RedisClock(broker.redis).now_ms() + 1, inf) == 0


@pytest.mark.parametrize("garbage", [b"x", b"", b"-1", b"nan", b"inf", b"-1e308", b"1.5", b"0x10", b"\xff", None])
def test_garbage_for_whose_turn_it_is_keeps_nobody_from_it(broker: InProcess, garbage: bytes | None) -> None:
    requests = all_left(broker, dead_ms(broker.redis))
    if garbage is None:
        broker.redis.rpush(LOOKED, "x")
    else:
        broker.redis.set(LOOKED, garbage)
    look_a_round(broker)
    assert answered(broker, requests)


def test_nobody_is_forgotten_before_a_look_that_had_enough_to_bury(broker: InProcess) -> None:
    broker.redis.rpush(arrivals_key("a", "intake"), *["x" * (INTAKE_BYTES_MAX + 1)] * 4)
    broker.redis.zadd(WORKERS, {"a": 1.0})
    requests = left_by(broker, "b", 2.0)
    for _ in range(3):
        look(broker, at_most=4)
    assert answered(broker, requests)
