"""Limits, rates, pauses and holds as factories meet them: what they are told, what waits, and what comes back."""

from collections.abc import Mapping
from typing import Any

import pytest
import redis
from msgspec import structs

from broker.aftermath import on_time
from broker.limits import limit_key
from broker.lock_waits import WAITS_TTL_MS, waits_key
from broker.quotas import holders_of
from broker.slots import slot_id
from datastore import Expected, Ok, Unavailable
from datastore.interface import ReadResult
from tests.in_process import SKEW_MS, TTL_MS, InProcess
from tests.twins.forwarding import Forwarding

WAIT_MS = 60_000


@pytest.fixture
def broker(anywhere: InProcess) -> InProcess:
    """Every test here is for each of the stores."""
    return anywhere


def ask(broker: InProcess, op: str, **body: Any) -> Mapping[str, Any]:
    """One answer."""
    return broker.ask(broker.caller.make(op, **body))[0]


def claim(broker: InProcess, job: str | None = None, **body: Any) -> Mapping[str, Any]:
    return ask(broker, "claim", **({} if job is None else {"job_id": job}), **body)


def granted(replies: list[Mapping[str, Any]]) -> list[str]:
    return [reply["body"]["job_id"] for reply in replies if reply["answer"] == "granted"]


def end(broker: InProcess, grant: Mapping[str, Any], op: str = "complete", **body: Any) -> None:
    lease = {name: grant["body"][name] for name in ("job_id", "epoch", "token")}
    assert ask(broker, op, **lease, **body)["answer"] == "ok"


def parked(broker: InProcess, **body: Any) -> Any:
    """A claim that waits."""
    request = broker.caller.make("claim", wait_ms=WAIT_MS, **body)
    broker.caller.send(request)
    broker.serve()
    assert not broker.caller.has_reply(request)
    return request


def used(broker: InProcess, limit: str) -> list[str]:
    return sorted(holder.job_id for holder in holders_of(broker.store, limit))


# Limits: so many at once.


def test_a_queue_at_its_limit_says_who_uses_it_and_a_unit_comes_back_with_its_lease(broker: InProcess) -> None:
    ask(broker, "set_limit", limit="queue:builds", capacity=2)
    broker.submit("a", "b", "c", queue="builds")
    first, second = claim(broker, "a"), claim(broker, queue="builds")
    for refused in (claim(broker, "c"), claim(broker, queue="builds")):
        assert (refused["answer"], refused["reason"], refused["retry"]) == ("not_claimable", "quota", "later")
        [met] = refused["body"]["obstacles"]
        assert (met["limit"], met["capacity"], met["used"]) == ("queue:builds", 2, 2)
        assert [(each["job_id"], each["epoch"], each["factory_id"]) for each in met["holders"]] == [
            ("a", 1, "factory"), ("b", 1, "factory"),
        ]  # fmt: skip
    end(broker, first)
    assert claim(broker, queue="builds")["body"]["job_id"] == "c"
    end(broker, second, "release")
    assert used(broker, "queue:builds") == ["c"]


@pytest.mark.parametrize("how", ["complete", "fail", "release", "revoke", "cancel", "expiry"])
def test_a_unit_ends_with_its_lease_however_that_ends(broker: InProcess, how: str) -> None:
    ask(broker, "set_limit", limit="key:gpu", capacity=1)
    broker.submit("a", "b", concurrency=["gpu"])
    grant = claim(broker, "a")
    assert claim(broker, "b")["reason"] == "quota"
    if how == "revoke":
        ask(broker, "revoke", job_id="a")
    elif how == "cancel":
        ask(broker, "cancel", job_id="a")
        end(broker, grant, "release")
    elif how == "expiry":
        broker.clock.advance(TTL_MS + SKEW_MS + 1)
        broker.sweep()
    else:
        end(broker, grant, how)
    assert used(broker, "key:gpu") == []
    assert claim(broker, "b")["answer"] == "granted"


def test_keys_count_over_all_queues_and_other_jobs_are_not_held_up(broker: InProcess) -> None:
    ask(broker, "set_limit", limit="key:gpu", capacity=2)
    for number in range(20):
        broker.clock.advance(1)
        broker.submit(f"gpu-{number}", concurrency=["gpu", "free"], priority=9)
    broker.submit("other-queue", queue="other", concurrency=["gpu"])
    broker.submit("plain")
    got = broker.ask(*(broker.caller.make("claim") for _ in range(10)))
    assert sorted(granted(got)) == ["gpu-0", "gpu-1", "plain"]
    assert claim(broker, "other-queue")["reason"] == "quota"
    by_job = {reply["body"]["job_id"]: reply for reply in got if reply["answer"] == "granted"}
    end(broker, by_job["gpu-0"])
    assert granted([claim(broker), claim(broker)]) == ["gpu-2"]


def test_a_factory_at_its_limit_is_told_at_once_and_the_job_goes_to_another(broker: InProcess) -> None:
    ask(broker, "set_limit", limit="factory:factory", capacity=1)
    broker.submit("a", "b", "c")
    replies = broker.ask(*(broker.caller.make("claim", wait_ms=WAIT_MS) for _ in range(3)))
    assert granted(replies) == ["a"]
    assert [reply["reason"] for reply in replies[1:]] == ["quota", "quota"]
    other = broker.caller.make("claim").model_copy(update={"factory_id": "other", "instance": "o"})
    another = InProcess(broker.store, broker.redis)
    another.caller.factory, another.caller.channel = "other", "broker:reply:other:o"
    assert granted([another.ask(other)[0]]) == ["b"]


@pytest.mark.parametrize("limit", ["queue:builds", "factory:factory", "key:gpu"])
def test_a_claim_of_many_gets_as_many_as_the_limit_admits(broker: InProcess, limit: str) -> None:
    ask(broker, "set_limit", limit=limit, capacity=2)
    broker.submit(*(f"job-{number}" for number in range(6)), queue="builds", concurrency=["gpu"])
    several = claim(broker, queue="builds", count=5)
    assert [grant["job_id"] for grant in several["body"]["grants"]] == ["job-0", "job-1"]
    assert claim(broker, queue="builds", count=5)["answer"] in ("not_claimable", "none_available")
    ask(broker, "remove_limit", limit=limit)
    assert [grant["job_id"] for grant in claim(broker, queue="builds", count=9)["body"]["grants"]] == [
        "job-2", "job-3", "job-4", "job-5",
    ]  # fmt: skip


def test_a_takeover_moves_the_unit_from_the_old_factory_to_the_new(broker: InProcess) -> None:
    ask(broker, "set_limit", limit="factory:factory", capacity=1)
    ask(broker, "set_limit", limit="factory:other", capacity=1)
    broker.submit("a")
    claim(broker, "a")
    broker.clock.advance(TTL_MS + SKEW_MS + 1)
    thief = broker.caller.make("claim", job_id="a").model_copy(update={"factory_id": "other", "instance": "o"})
    broker.caller.send(thief)
    broker.serve()
    assert (used(broker, "factory:factory"), used(broker, "factory:other")) == ([], ["a"])


def test_jobs_that_run_when_a_limit_is_set_count_and_finish(broker: InProcess) -> None:
    broker.submit(*(f"job-{number}" for number in range(6)), queue="builds")
    grants = [claim(broker, f"job-{number}") for number in range(4)]
    assert ask(broker, "set_limit", limit="queue:builds", capacity=2)["body"]["used"] == 4
    for number, grant in enumerate(grants):
        expected = "quota" if number < 3 else None
        assert claim(broker, "job-4")["reason"] == expected if expected else True
        end(broker, grant)
    assert granted([claim(broker, "job-4"), claim(broker, "job-5")]) == ["job-4", "job-5"]


def test_lowering_a_limit_lets_running_jobs_finish_and_raising_it_lets_waiting_claims_through(
    broker: InProcess,
) -> None:
    ask(broker, "set_limit", limit="queue:builds", capacity=3)
    broker.submit(*(f"job-{number}" for number in range(6)), queue="builds")
    grants = [claim(broker, queue="builds") for _ in range(3)]
    ask(broker, "set_limit", limit="queue:builds", capacity=1)
    end(broker, grants[0])
    waiting = parked(broker, queue="builds")
    end(broker, grants[1])
    broker.serve()
    assert not broker.caller.has_reply(waiting)
    ask(broker, "set_limit", limit="queue:builds", capacity=2)
    broker.serve()
    assert granted(broker.caller.replies(waiting)) == ["job-3"]


def test_removing_a_limit_brings_back_what_stood_aside(broker: InProcess) -> None:
    ask(broker, "set_limit", limit="key:gpu", capacity=0)
    broker.submit("a", "b", concurrency=["gpu"])
    waiting = parked(broker)
    assert ask(broker, "remove_limit", limit="key:gpu")["answer"] == "ok"
    broker.serve()
    assert granted(broker.caller.replies(waiting)) == ["a"]
    assert ask(broker, "remove_limit", limit="key:gpu")["answer"] == "not_found"


def test_what_stands_aside_for_a_lock_that_nobody_gives_up_again_is_forgotten_in_the_end(broker: InProcess) -> None:
    broker.submit("holds", "waits", locks=["lock"])
    assert claim(broker, "holds")["answer"] == "granted"
    assert claim(broker)["answer"] == "none_available"
    assert ask(broker, "cancel", job_id="waits")["answer"] == "ok"
    line = waits_key("lock")
    assert broker.redis.zcard(line) == 1
    assert 0 < broker.redis.pttl(line) <= WAITS_TTL_MS


def test_a_waiting_claim_gets_the_job_when_a_unit_is_given_back(broker: InProcess) -> None:
    ask(broker, "set_limit", limit="queue:builds", capacity=1)
    ask(broker, "set_limit", limit="key:gpu", capacity=1)
    broker.submit("a", "b", queue="builds")
    broker.submit("g", "h", concurrency=["gpu"])
    first, gpu = claim(broker, queue="builds"), claim(broker)
    waits = [parked(broker, queue="builds"), parked(broker)]
    end(broker, first)
    end(broker, gpu)
    broker.serve()
    assert granted(broker.caller.replies(*waits)) == ["b", "h"]


def test_a_unit_whose_lease_ended_in_a_crash_is_free_after_a_sweep(broker: InProcess) -> None:
    ask(broker, "set_limit", limit="queue:builds", capacity=1)
    broker.submit("a", "b", queue="builds")
    grant = claim(broker, "a")
    name = slot_id(limit_key("queue:builds"))
    before = broker.store.read(name, name)
    end(broker, grant)
    after = broker.store.read(name, name)
    assert isinstance(before, Ok)
    assert isinstance(after, Ok)
    entries = before.document.body["holders"]
    broker.store.update_if_match(name, name, Expected(etag=after.document.etag), {"holders": entries})
    assert used(broker, "queue:builds") == ["a"]
    broker.sweep()
    assert used(broker, "queue:builds") == []


def test_limits_of_no_capacity_and_no_rate_are_refused(broker: InProcess) -> None:
    assert ask(broker, "set_limit", limit="queue:q")["answer"] == "invalid"


# Rates: so many in any window.


def test_a_rate_admits_its_count_and_tells_when_the_next_may_start(broker: InProcess) -> None:
    ask(broker, "set_limit", limit="queue:builds", rate={"count": 2, "per_ms": 10_000})
    broker.submit(*(f"job-{number}" for number in range(5)), queue="builds")
    start_ms = broker.clock.now_ms()
    end(broker, claim(broker, queue="builds"))
    broker.clock.advance(4_000)
    assert granted([claim(broker, queue="builds")]) == ["job-1"]
    for refused in (claim(broker, "job-2"), claim(broker, queue="builds")):
        [met] = refused["body"]["obstacles"]
        assert (refused["reason"], met["limit"], met["until_ms"]) == ("quota", "queue:builds", start_ms + 10_000)
        assert refused["retry_after_ms"] == 6_000
    broker.clock.advance(5_999)
    assert claim(broker, "job-2")["reason"] == "quota"
    broker.clock.advance(1)
    assert claim(broker, "job-2")["answer"] == "granted"
    assert claim(broker, "job-3")["reason"] == "quota"


def test_a_claim_that_loses_its_job_is_not_counted_by_the_rate(broker: InProcess) -> None:
    ask(broker, "set_limit", limit="queue:default", rate={"count": 2, "per_ms": 10_000})
    broker.submit("a", "b", locks=["common-plat"])
    broker.submit("c")
    assert claim(broker, "a")["answer"] == "granted"
    assert [claim(broker, "a")["answer"], claim(broker, "b")["reason"]] == ["conflict", "lock_busy"]
    assert claim(broker, "c")["answer"] == "granted"
    assert claim(broker, "b")["reason"] in ("quota", "lock_busy")


@pytest.mark.parametrize("limit", ["queue:default", "key:gpu"])
def test_waiting_claims_come_through_as_the_rate_admits_them(broker: InProcess, limit: str) -> None:
    ask(broker, "set_limit", limit=limit, rate={"count": 2, "per_ms": 10_000})
    broker.submit(*(f"job-{number}" for number in range(6)), concurrency=["gpu"])
    assert len(granted([claim(broker), claim(broker)])) == 2
    waits = [parked(broker) for _ in range(4)]
    for served in (2, 4):
        broker.clock.advance(9_999)
        on_time(broker.context, broker.redis, broker.clock.now_ms())
        broker.serve()
        assert sum(map(broker.caller.has_reply, waits)) == served - 2
        broker.clock.advance(1)
        on_time(broker.context, broker.redis, broker.clock.now_ms())
        broker.serve()
        assert sum(map(broker.caller.has_reply, waits)) == served


@pytest.mark.parametrize("limit", ["queue:default", "key:gpu"])
def test_as_many_waiting_claims_come_through_at_once_as_a_window_admits(broker: InProcess, limit: str) -> None:
    ask(broker, "set_limit", limit=limit, rate={"count": 40, "per_ms": 1_000})
    broker.submit(*(f"job-{number}" for number in range(120)), concurrency=["gpu"])
    assert len(granted([claim(broker) for _ in range(41)])) == 40
    waits = [parked(broker) for _ in range(60)]
    broker.clock.advance(1_000)
    on_time(broker.context, broker.redis, broker.clock.now_ms())
    broker.serve()
    assert sum(map(broker.caller.has_reply, waits)) == 40


def test_where_limits_cant_be_read_now_some_come_through(broker: InProcess, redis_client: redis.Redis) -> None:
    ask(broker, "set_limit", limit="queue:default", rate={"count": 40, "per_ms": 1_000})
    broker.submit("a", "b", *(f"job-{number}" for number in range(40)))
    assert len(granted([claim(broker) for _ in range(41)])) == 40
    wait = parked(broker)
    broker.clock.advance(1_000)
    away = structs.replace(broker.context, store=Unreadable(broker.store))
    assert on_time(away, redis_client, broker.clock.now_ms()) == 1
    broker.serve()
    assert broker.caller.has_reply(wait)


def test_a_rate_that_nobody_waits_for_is_not_looked_at_for_ever(broker: InProcess) -> None:
    ask(broker, "set_limit", limit="queue:default", rate={"count": 1, "per_ms": 1_000})
    broker.submit("a", "b")
    claim(broker)
    claim(broker)
    assert broker.redis.zcard("broker:waits:times") == 1
    broker.clock.advance(1_000)
    on_time(broker.context, broker.redis, broker.clock.now_ms())
    assert broker.redis.zcard("broker:waits:times") == 0


# Pauses.


def test_a_paused_queue_hands_out_nothing_and_says_why_and_since_when(broker: InProcess) -> None:
    broker.submit("a", "b")
    grant = claim(broker, "a")
    since_ms = broker.clock.now_ms()
    paused = ask(broker, "pause_queue", queue="default", reason="disk full")
    assert paused["body"] == {"queue": "default", "paused": True, "why": "disk full", "since_ms": since_ms}
    for refused in (claim(broker, "b"), claim(broker)):
        assert (refused["answer"], refused["reason"]) == ("not_claimable", "paused")
        told = {"reason": "paused", "queue": "default", "why": "disk full", "since_ms": since_ms}
        assert refused["body"]["obstacles"] == [told]
    lease = {name: grant["body"][name] for name in ("job_id", "epoch", "token")}
    renewed = ask(broker, "renew", **lease)
    assert (renewed["answer"], renewed["body"]["directives"]) == ("renewed", ["pause"])
    end(broker, grant)
    broker.clock.advance(1)
    assert ask(broker, "pause_queue", queue="default", reason="still")["body"]["since_ms"] == since_ms
    ask(broker, "resume_queue", queue="default")
    assert granted([claim(broker)]) == ["b"]


def test_claims_wait_out_a_pause_and_a_resume_wakes_them(broker: InProcess) -> None:
    broker.submit("a", "b", "c")
    ask(broker, "pause_queue", queue="default")
    waits = [parked(broker) for _ in range(2)]
    broker.submit("elsewhere", queue="other")
    assert granted([claim(broker, queue="other")]) == ["elsewhere"]
    ask(broker, "resume_queue", queue="default")
    broker.serve()
    assert sorted(granted(broker.caller.replies(*waits))) == ["a", "b"]
    assert ask(broker, "list_queues")["body"]["queues"] == []


def test_a_wait_for_a_paused_queue_ends_in_time(broker: InProcess) -> None:
    broker.submit("a")
    ask(broker, "pause_queue", queue="default")
    waiting = parked(broker)
    broker.clock.advance(WAIT_MS)
    broker.sweep()
    broker.serve()
    assert broker.caller.replies(waiting)[0]["answer"] in ("none_available", "not_claimable")
    ask(broker, "resume_queue", queue="default")
    assert granted([claim(broker)]) == ["a"]


def test_what_is_set_is_listed_with_who_uses_it(broker: InProcess) -> None:
    ask(broker, "set_limit", limit="queue:builds", capacity=10, rate={"count": 30, "per_ms": 60_000})
    ask(broker, "set_limit", limit="key:gpu", capacity=2)
    ask(broker, "set_limit", limit="queue:builds", capacity=9)
    ask(broker, "pause_queue", queue="tests", reason="flaky")
    broker.submit("a", queue="builds")
    claim(broker, "a")
    limits = {each["limit"]: each for each in ask(broker, "list_limits")["body"]["limits"]}
    assert list(limits) == ["key:gpu", "queue:builds"]
    assert (limits["queue:builds"]["capacity"], limits["queue:builds"]["rate"]["count"]) == (9, 30)
    assert [each["job_id"] for each in limits["queue:builds"]["holders"]] == ["a"]
    queues = [(each["queue"], each["paused"], each["why"]) for each in ask(broker, "list_queues")["body"]["queues"]]
    assert queues == [("builds", False, None), ("tests", True, "flaky")]


# Holds.


def test_a_held_job_is_not_claimable_until_it_is_lifted(broker: InProcess) -> None:
    broker.submit("a", "b")
    assert ask(broker, "hold", job_id="a", reason="looks wrong")["answer"] == "ok"
    refused = claim(broker, "a")
    assert refused["reason"] == "held"
    assert refused["body"]["obstacles"][0]["why"] == "looks wrong"
    assert [claim(broker)["body"].get("job_id"), claim(broker)["answer"]] == ["b", "none_available"]
    waiting = parked(broker)
    broker.sweep()
    assert not broker.caller.has_reply(waiting)
    assert ask(broker, "lift", job_id="a")["answer"] == "ok"
    broker.serve()
    assert granted(broker.caller.replies(waiting)) == ["a"]


def test_a_job_held_while_it_runs_goes_on_and_is_not_handed_out_again(broker: InProcess) -> None:
    broker.submit("a", "b")
    grants = [claim(broker, "a"), claim(broker, "b")]
    ask(broker, "hold", job_id="a")
    end(broker, grants[0], "release")
    assert ask(broker, "revoke", job_id="b", hold=True, reason="stop")["answer"] == "ok"
    assert claim(broker)["answer"] == "none_available"
    for job in ("a", "b"):
        ask(broker, "lift", job_id=job)
    assert sorted(granted([claim(broker), claim(broker)])) == ["a", "b"]


class Unreadable(Forwarding):
    """A store in which what operators have set, and the slots, can't be read now and then."""

    failing = True

    def read(self, id: str, partition_key: str) -> ReadResult:
        if self.failing and id.startswith(("fleet:", "slot:", "rate:")):
            raise Unavailable("not now")
        return self.inner.read(id, partition_key)


def test_where_limits_cannot_be_read_nothing_is_granted_and_nothing_stops(
    broker: InProcess, redis_client: redis.Redis
) -> None:
    ask(broker, "set_limit", limit="queue:default", capacity=1)
    broker.submit("a", "b", locks=["common-plat"])
    store = Unreadable(broker.store)
    ill = InProcess(store, redis_client)
    replies = ill.ask(ill.caller.make("claim"), ill.caller.make("claim", job_id="a"), ill.caller.make("claim"))
    assert [(reply["answer"], reply["reason"]) for reply in replies] == [("throttled", "store")] * 3
    ill.sweep()
    store.failing = False
    assert granted([claim(ill)]) == ["a"]
