"""Who stands aside comes back as soon as nothing is in the way, however many they are; and no more than may be had."""

from collections.abc import Sequence
from typing import Any

import pytest

from broker.limits import limit_key
from broker.lock_waits import RETURN_MAX, UNIT_RETURNS, waits_key
from broker.slots import Mode
from tests.in_process import InProcess
from tests.starts import ask, hold, start

MANY = 60
LONG_MS = 3_600_000

LOCKS = {"readers": ["data@shared"], "folders": ["data/{}"], "files": ["data/a/{}@shared"]}
"""What many jobs need at once, where one holds all of `data`."""


def waiting(broker: InProcess, count: int) -> Sequence[Any]:
    """Claims of another factory that wait for any job."""
    caller = start(broker, "s1", "mac-2")
    claims = [caller.make("claim", wait_ms=60_000, ttl_ms=LONG_MS) for _ in range(count)]
    caller.send(*claims)
    broker.serve()
    assert not any(map(caller.has_reply, claims))
    return claims


def granted(broker: InProcess) -> int:
    """How many of many jobs are leased by now."""
    leased = broker.store.find({"kind": "job", "state": "leased"}, limit=1_000).documents
    return sum(not document.id.startswith("first") for document in leased)


def held_first(broker: InProcess, **fields: Any) -> dict[str, Any]:
    """The lease of a job that is in the way of others."""
    broker.submit("first", priority=9, **fields)
    return hold(broker, start(broker, "s1"))


def aside(broker: InProcess, key: str, mode: Mode = Mode.EXCLUSIVE) -> int:
    return broker.redis.zcard(waits_key(key, mode))


def put_aside(broker: InProcess, jobs: Sequence[str]) -> None:
    """Have claims meet what is in the way of these."""
    for _ in jobs:
        assert ask(broker, start(broker, "s1", "mac-3"), "claim")["answer"] == "none_available"


@pytest.mark.parametrize("who", LOCKS)
def test_all_who_may_share_a_lock_are_had_once_its_one_holder_has_ended(broker: InProcess, who: str) -> None:
    lease = held_first(broker, locks=["data"])
    for number in range(MANY):
        broker.submit(f"job-{number}", locks=[lock.format(number) for lock in LOCKS[who]])
    waiting(broker, MANY)
    ask(broker, start(broker, "s1"), "complete", **lease)
    broker.serve()
    assert granted(broker) == MANY


def test_where_a_worker_died_that_was_to_bring_them_back_a_sweep_does_for_all_who_share_a_lock(
    broker: InProcess,
) -> None:
    lease = held_first(broker, locks=["data"])
    broker.submit(*(f"job-{number}" for number in range(MANY)), locks=["data@shared"])
    waiting(broker, MANY)
    start(broker, "s1").send(start(broker, "s1").make("complete", **lease))
    broker.settle(broker.take("w1").entries, "w1")  # its hints are never moved
    broker.sweep()
    broker.serve()
    assert granted(broker) == MANY


def test_where_the_first_of_those_who_share_a_lock_suit_nobody_a_sweep_brings_those_behind_them_back(
    broker: InProcess,
) -> None:
    lease = held_first(broker, locks=["data"])
    broker.submit(*(f"choosy-{number}" for number in range(MANY)), locks=["data@shared"], requires=["gpu"])
    broker.submit("plain", locks=["data@shared"])
    for _ in range(MANY):
        assert ask(broker, start(broker, "s1"), "claim", offers=["gpu"])["answer"] == "none_available"
    waiting(broker, 1)
    ask(broker, start(broker, "s1"), "complete", **lease)
    broker.sweep()
    broker.serve()
    assert granted(broker) == 1


def test_claims_that_come_one_by_one_find_all_who_may_share_a_lock(broker: InProcess) -> None:
    lease = held_first(broker, locks=["data"])
    jobs = [f"job-{number}" for number in range(3 * RETURN_MAX)]
    broker.submit(*jobs, locks=["data@shared"])
    put_aside(broker, jobs)
    ask(broker, start(broker, "s1"), "complete", **lease)
    assert {hold(broker, start(broker, "s1"))["job_id"] for _ in jobs} == set(jobs)


def test_all_whom_a_raised_limit_admits_are_had(broker: InProcess) -> None:
    operator = start(broker, "s1")
    ask(broker, operator, "set_limit", limit="key:gpu", capacity=0)
    broker.submit(*(f"job-{number}" for number in range(300)), concurrency=["gpu"])
    waiting(broker, 300)
    ask(broker, operator, "set_limit", limit="key:gpu", capacity=290)
    broker.serve()
    assert granted(broker) == 290


def test_of_those_who_want_a_lock_alone_few_come_back_for_each_end(broker: InProcess) -> None:
    lease = held_first(broker, locks=["data"])
    jobs = [f"job-{number}" for number in range(MANY)]
    broker.submit(*jobs, locks=["data"])
    put_aside(broker, jobs)
    ask(broker, start(broker, "s1"), "complete", **lease)
    hold(broker, start(broker, "s1"))
    assert aside(broker, "data") == MANY - RETURN_MAX


def test_who_shares_a_lock_brings_nobody_back_who_wants_it_alone(broker: InProcess) -> None:
    held_first(broker, locks=["data@shared"])
    broker.submit("a", "b", "both", locks=["data"])
    broker.submit("c", locks=["data@shared", "data/c"])
    put_aside(broker, ["a", "b", "both", "c"])
    broker.submit("reader", locks=["data@shared"])
    assert hold(broker, start(broker, "s1"))["job_id"] == "reader"
    assert aside(broker, "data") == 4


def test_one_who_takes_the_last_unit_brings_nobody_back(broker: InProcess) -> None:
    ask(broker, start(broker, "s1"), "set_limit", limit="key:gpu", capacity=1)
    lease = held_first(broker, concurrency=["gpu"])
    jobs = [f"job-{number}" for number in range(MANY)]
    broker.submit(*jobs, concurrency=["gpu"])
    put_aside(broker, jobs)
    ask(broker, start(broker, "s1"), "complete", **lease)
    hold(broker, start(broker, "s1"))
    assert aside(broker, limit_key("key:gpu")) == MANY - 1 - UNIT_RETURNS


def test_one_who_starts_under_a_rate_brings_nobody_back_before_the_time(broker: InProcess) -> None:
    rate = {"count": 1, "per_ms": 60_000}
    ask(broker, start(broker, "s1"), "set_limit", limit="key:gpu", capacity=100, rate=rate)
    held_first(broker, concurrency=["gpu"])
    broker.submit("a", "b", "c", concurrency=["gpu"])
    put_aside(broker, ["a", "b", "c"])
    broker.clock.advance(60_000)
    assert hold(broker, start(broker, "s1"), job_id="a")["job_id"] == "a"
    assert aside(broker, limit_key("key:gpu")) == 3
