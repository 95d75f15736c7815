"""Broker time that was set back by an hour: what was to stand for seconds stands no hour in anybody's way."""

from typing import Any

import pytest
import redis

from broker import index
from broker.claim_next import claim_id, mark_key
from broker.entropy import SystemEntropy
from broker.messages import Claim
from broker.presence import READ_WITHIN_MS, take_back_unread
from broker.settings import load
from tests.caller import Caller
from tests.concurrency.race import read
from tests.in_process import SKEW_MS, TTL_MS, InProcess
from workers import left_behind, sweep
from workers.left_behind import TURN, take_over, turn
from workers.sweep import LOCK, Sweep
from workers.taking import WORKERS

pytestmark = pytest.mark.redis

HOUR_MS = 3_600_000
LONG = pytest.mark.parametrize("ends_ms", [HOUR_MS, None], ids=["an hour", "for ever"])


def server_ms(client: redis.Redis) -> int:
    seconds, micros = client.time()
    return int(seconds) * 1_000 + int(micros) // 1_000


@LONG
def test_whose_turn_it_was_before_is_nobodys(redis_client: redis.Redis, ends_ms: int | None) -> None:
    redis_client.set(TURN, "w1", px=ends_ms)
    assert turn(redis_client, "w2") is not None
    assert turn(redis_client, "w3") is None, "a turn of now stands"
    assert 0 < redis_client.pttl(TURN) <= left_behind.TURN_MS


@LONG
def test_the_lock_of_a_sweep_that_was_killed_is_free_by_the_next_but_one(
    broker: InProcess, ends_ms: int | None
) -> None:
    broker.redis.set(LOCK, "somebody", px=ends_ms)
    for _ in range(2):
        Sweep(broker.context, broker.redis, load()).run(once=True)
    assert broker.redis.exists(index.INDEXED), "it has swept"


def test_the_lock_of_a_sweep_that_is_at_work_stays(broker: InProcess) -> None:
    broker.redis.set(LOCK, "somebody", px=sweep.LOCK_TTL_S * 1_000)
    for _ in range(2):
        Sweep(broker.context, broker.redis, load()).run(once=True)
    assert broker.redis.get(LOCK) == b"somebody"


@LONG
def test_a_claim_that_a_dead_worker_had_in_hand_before_is_settled(broker: InProcess, ends_ms: int | None) -> None:
    broker.submit("job")
    claim = broker.caller.make("claim")
    assert type(claim) is Claim
    broker.redis.set(mark_key(claim_id(claim)), "dead", px=ends_ms)
    assert broker.ask(claim)[0]["answer"] == "granted"


def test_a_worker_that_was_heard_of_in_the_future_and_died_is_taken_over_from_in_time(broker: InProcess) -> None:
    broker.submit("job")
    claim = broker.caller.make("claim", job_id="job")
    broker.caller.send(claim)
    broker.take("w1")
    broker.redis.zadd(WORKERS, {"w1": server_ms(broker.redis) + HOUR_MS})
    take_over(broker.redis, "w2", dead_after_ms=60_000, at_most=64)
    heard_ms = broker.redis.zscore(WORKERS, "w1")
    assert heard_ms is not None
    assert heard_ms <= server_ms(broker.redis), "it is dead once it was not heard of for as long as any other"


def test_a_job_whose_holder_died_before_is_ready_once_its_lease_would_have_been_over(broker: InProcess) -> None:
    broker.submit("dead", "alive")
    dead, alive = (broker.ask(broker.caller.make("claim", job_id=job))[0]["body"] for job in ("dead", "alive"))
    fence = {name: alive[name] for name in ("job_id", "epoch", "token")}
    broker.clock.advance(-HOUR_MS)
    broker.sweep()
    for _ in range(4):
        assert broker.ask(broker.caller.make("renew", **fence))[0]["answer"] == "renewed"
        broker.clock.advance(TTL_MS // 2)
    broker.clock.advance(SKEW_MS)
    broker.sweep()
    again = [broker.ask(broker.caller.make("claim", job_id=job))[0] for job in ("dead", "alive")]
    assert [(reply["answer"], reply["body"]["epoch"]) for reply in again] == [("granted", 2), ("conflict", 1)]
    assert dead["epoch"] == 1


def test_a_job_that_was_to_be_tried_again_or_was_kept_for_a_factory_that_died_is_anybodys_in_time(
    broker: InProcess,
) -> None:
    broker.submit("failed", "handed-over")
    failed, handed_over = (hold(broker, job) for job in ("failed", "handed-over"))
    broker.ask(broker.caller.make("fail", **failed), broker.caller.make("hand_over", **handed_over, to="dead"))
    broker.clock.advance(-HOUR_MS)
    broker.sweep()
    broker.clock.advance(TTL_MS + 1)
    broker.sweep()
    claims = [broker.ask(broker.caller.make("claim"))[0] for _ in range(2)]
    assert {claim["body"].get("job_id") for claim in claims} == {"failed", "handed-over"}


def test_a_run_and_a_cancel_that_nobody_acknowledges_end_in_time(broker: InProcess) -> None:
    broker.submit("long", run_timeout_ms=2 * TTL_MS, max_failures=1)
    broker.submit("cancelled")
    holders = [hold(broker, job) for job in ("long", "cancelled")]
    broker.ask(broker.caller.make("cancel", job_id="cancelled"))
    broker.clock.advance(-HOUR_MS)
    broker.sweep()
    for _ in range(5):
        broker.clock.advance(TTL_MS // 2)
        broker.ask(*(broker.caller.make("renew", **fence) for fence in holders))
        broker.sweep()
    assert [read(broker.store, job).state for job in ("long", "cancelled")] == ["failed", "cancelled"]


def test_a_lease_that_is_written_on_before_the_next_sweep_stands_no_longer_for_that(broker: InProcess) -> None:
    broker.submit("held", "renewed", "renewed-with-others")
    jobs = ("held", "renewed", "renewed-with-others")
    _, renewed, together = (hold(broker, job) for job in jobs)
    broker.clock.advance(-HOUR_MS)
    make = broker.caller.make
    broker.ask(make("hold", job_id="held"), make("renew", **renewed), make("renew_many", leases=[together]))
    broker.sweep()
    broker.clock.advance(TTL_MS - 1)
    broker.sweep()
    assert [read(broker.store, job).state for job in jobs[1:]] == ["leased"] * 2, "their holders count on a ttl"
    broker.clock.advance(SKEW_MS + 2)
    broker.sweep()
    assert [read(broker.store, job).state for job in jobs] == ["ready"] * 3


def test_a_schedule_fires_by_the_time_that_it_is_now_and_makes_no_job_twice(broker: InProcess) -> None:
    broker.ask(broker.caller.make("put_schedule", name="tick", cron="* * * * *", job={"payload": 7}))
    for minutes in (2, -60, 1, 1, 58):
        broker.clock.advance(minutes * 60_000)
        broker.sweep()
    made = {document.id: document.rev for document in broker.store.find({"kind": "job"}).documents}
    assert made == {f"tick.20231114T{time}00Z": 1 for time in (2116, 2117, 2214, 2215)}


def test_a_grant_that_nobody_has_read_by_then_is_taken_back_in_time(broker: InProcess) -> None:
    broker.caller.send(broker.caller.make("claim", wait_ms=60_000))
    broker.serve()
    other = Caller(broker.redis, "other")
    submission = other.make("submit", job_id="job")
    other.send(submission)
    broker.serve()
    assert other.replies(submission, deadline_ms=1_000)[0]["answer"] == "ok"
    assert read(broker.store, "job").state == "leased"
    broker.clock.advance(-HOUR_MS)
    assert take_back_unread(broker.redis, SystemEntropy(), now_ms=broker.clock.now_ms()) == 0
    broker.clock.advance(READ_WITHIN_MS)
    assert take_back_unread(broker.redis, SystemEntropy(), now_ms=broker.clock.now_ms()) == 1
    broker.serve()
    assert read(broker.store, "job").state == "ready"


def hold(broker: InProcess, job_id: str) -> dict[str, Any]:
    [granted] = broker.ask(broker.caller.make("claim", job_id=job_id))
    return {name: granted["body"][name] for name in ("job_id", "epoch", "token")}
