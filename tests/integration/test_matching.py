"""Who gets which job: aged priority, preferences, and turns of fairness keys."""

import random
from typing import Any

import pytest

from broker.answers import Word
from broker.index import served_key
from broker.matching import Offered, Wants
from broker.pop_best import SERVED_TTL_MS
from tests.in_process import InProcess

STEP_MS = 600_000
"""The default of BROKER_AGEING_STEP_MS."""


@pytest.fixture
def broker(anywhere: InProcess) -> InProcess:
    """On a store of each kind."""
    return anywhere


def claim(broker: InProcess, **body: Any) -> str:
    """The job the next claim gets; empty where there is none."""
    reply = broker.ask(broker.caller.make("claim", **body))[0]
    return str(reply["body"].get("job_id", ""))


def claims(broker: InProcess, count: int, **body: Any) -> list[str]:
    return [claim(broker, **body) for _ in range(count)]


# Ageing.


def test_a_job_that_has_waited_a_step_longer_is_served_before_one_a_priority_higher(broker: InProcess) -> None:
    broker.submit("low")
    broker.clock.advance(STEP_MS + 1)
    broker.submit("high", priority=1)
    assert claims(broker, 2) == ["low", "high"]


def test_a_job_that_has_waited_less_than_a_step_is_served_after_one_a_priority_higher(broker: InProcess) -> None:
    broker.submit("low")
    broker.clock.advance(STEP_MS - 1)
    broker.submit("high", priority=1)
    assert claims(broker, 2) == ["high", "low"]


def test_a_stream_of_high_priority_overtakes_no_job_for_longer_than_its_priority_is_worth(broker: InProcess) -> None:
    broker.submit("low")
    served = []
    for number in range(14):
        broker.submit(f"{number:02}-high", f"{number:02}-more", priority=5)
        served.append(claim(broker))
        broker.clock.advance(STEP_MS)
    overtakers = served[: served.index("low")]
    assert overtakers, "nobody was ahead: this tests nothing"
    assert {int(job[:2]) for job in overtakers} <= set(range(6)), "of those that came in the first five steps"


def test_time_before_a_job_is_due_is_no_waiting(broker: InProcess) -> None:
    broker.submit("early", not_before_ms=broker.clock.now_ms() + 100 * STEP_MS)
    broker.clock.advance(100 * STEP_MS)
    broker.submit("here", priority=1)
    broker.sweep()
    assert claims(broker, 2) == ["here", "early"]


def test_a_job_given_back_keeps_the_time_it_has_waited(broker: InProcess) -> None:
    broker.submit("old")
    grant = broker.ask(broker.caller.make("claim"))[0]["body"]
    broker.clock.advance(10)
    broker.submit("new")
    broker.ask(broker.caller.make("release", **{name: grant[name] for name in ("job_id", "epoch", "token")}))
    assert claims(broker, 2) == ["old", "new"]


# Preferences.


def test_of_equal_jobs_a_factory_gets_the_one_that_prefers_it(broker: InProcess) -> None:
    broker.submit("any")
    broker.clock.advance(1)
    broker.submit("ssd", prefers={"ssd": 3})
    broker.submit("eu", prefers={"zone=eu": 10, "mem_gb>=64": 5})
    assert claims(broker, 3, offers=["zone=eu", "ssd", "mem_gb=32"]) == ["eu", "ssd", "any"]


def test_a_preference_is_no_requirement(broker: InProcess) -> None:
    broker.submit("eu", prefers={"zone=eu": 100})
    assert claim(broker, offers=["zone=us"]) == "eu"


def test_a_preference_never_outweighs_a_priority(broker: InProcess) -> None:
    broker.submit("high", priority=1)
    broker.clock.advance(1)
    broker.submit("eu", prefers={"zone=eu": 100, "ssd": 100})
    assert claim(broker, offers=["zone=eu", "ssd"]) == "high"


def test_a_job_that_nobody_prefers_waits_at_most_a_step_for_those_that_are(broker: InProcess) -> None:
    broker.submit("any")
    broker.clock.advance(STEP_MS // 10 + 1)
    broker.submit("eu", prefers={"zone=eu": 10})
    assert claim(broker, offers=["zone=eu"]) == "any"


def test_the_weights_of_what_is_met_add_up_to_a_hundred_at_most() -> None:
    wants = Wants.of((), (("zone=eu", 60), ("ssd", 60), ("gpu", 1)))
    assert wants.preference(Offered(("gpu",))) == 1
    assert wants.preference(Offered(("zone=eu", "gpu"))) == 61
    assert wants.preference(Offered(("zone=eu", "ssd"))) == 100


def test_the_waiter_that_a_job_prefers_is_woken_and_of_equals_the_oldest(broker: InProcess) -> None:
    parked = {}
    for name, offers in (("first", []), ("second", ["zone=eu"]), ("third", ["zone=eu"])):
        parked[name] = broker.caller.make("claim", wait_ms=60_000, offers=offers)
        broker.caller.send(parked[name])
        broker.serve()
        broker.clock.advance(1)
    broker.submit("eu", prefers={"zone=eu": 1})
    assert broker.caller.replies(parked["second"], deadline_ms=1_000)[0]["body"]["job_id"] == "eu"
    broker.submit("plain")
    assert broker.caller.replies(parked["first"], deadline_ms=1_000)[0]["body"]["job_id"] == "plain"
    assert not broker.caller.has_reply(parked["third"])


# Turns.


def test_of_two_tenants_100_to_1_the_small_one_is_served_every_second_time(on_sqlite: InProcess) -> None:
    on_sqlite.submit(*(f"big-{number:04}" for number in range(1_000)), fairness_key="big")
    on_sqlite.clock.advance(5_000)
    on_sqlite.submit(*(f"small-{number}" for number in range(10)), fairness_key="small")
    served = [name.partition("-")[0] for name in claims(on_sqlite, 24)]
    assert served[:20] == ["big", "small"] * 10 or served[:20] == ["small", "big"] * 10
    assert served[20:] == ["big"] * 4


def test_a_claim_for_many_takes_turns_too(broker: InProcess) -> None:
    broker.submit(*(f"big-{number:03}" for number in range(200)), fairness_key="big")
    broker.submit("small-1", "small-2", fairness_key="small")
    reply = broker.ask(broker.caller.make("claim", count=4))[0]
    assert sorted(grant["job_id"] for grant in reply["body"]["grants"]) == ["big-000", "big-001", "small-1", "small-2"]


def test_a_key_has_one_turn_however_many_sets_of_requirements_its_jobs_have(broker: InProcess) -> None:
    for number in range(10):
        broker.submit(f"big-{number}", requires=[f"tool-{number}"], fairness_key="big")
    broker.clock.advance(1)
    broker.submit("small-0", "small-1", "small-2", fairness_key="small")
    offers = [f"tool-{number}" for number in range(10)]
    served = [name.partition("-")[0] for name in claims(broker, 6, offers=offers)]
    assert served == ["big", "small"] * 3


def test_a_higher_priority_goes_before_turns_and_the_oldest_first_within_a_turn(broker: InProcess) -> None:
    broker.submit("a-1", "a-2", fairness_key="a")
    broker.submit("b-1", fairness_key="b")
    broker.submit("a-high-1", "a-high-2", priority=1, fairness_key="a")
    assert claims(broker, 5) == ["a-high-1", "a-high-2", "a-1", "b-1", "a-2"]


def test_a_job_without_a_key_counts_as_a_key_of_its_own(broker: InProcess) -> None:
    broker.submit("a-1", "a-2", "a-3", fairness_key="a")
    broker.clock.advance(1)
    broker.submit("own-1", "own-2")
    assert claims(broker, 5) == ["a-1", "own-1", "own-2", "a-2", "a-3"]


def test_turns_survive_the_loss_of_redis_and_lanes_are_tidied_away(broker: InProcess) -> None:
    broker.submit(*(f"big-{number}" for number in range(5)), fairness_key="big")
    broker.submit("small-0", "small-1", fairness_key="small:sets")
    broker.redis.flushall()
    broker.sweep()
    served = [name.partition("-")[0] for name in claims(broker, 4)]
    assert served == ["big", "small"] * 2
    assert len(claims(broker, 3)) == 3
    assert claim(broker) == ""
    broker.sweep()
    assert list(broker.redis.scan_iter(match="broker:lane:*")) == []
    assert broker.redis.exists("broker:ready:default:sets") == 0
    assert broker.redis.zcard(served_key("default")) == 2


def test_whose_turn_was_last_in_a_queue_is_forgotten_a_day_after_it_served_a_lane(broker: InProcess) -> None:
    for queue in ("q-1", "q-2"):
        broker.submit(f"{queue}-job", f"{queue}-more", queue=queue, fairness_key="a")
        assert broker.ask(broker.caller.make("claim", queue=queue))[0]["answer"] == "granted"
        broker.redis.pexpire(served_key(queue), 1_000_000)
    assert broker.ask(broker.caller.make("claim", queue="q-1"))[0]["answer"] == "granted"
    left_ms = [broker.redis.pttl(served_key(queue)) for queue in ("q-1", "q-2")]
    assert 86_000_000 < left_ms[0] <= SERVED_TTL_MS
    assert left_ms[1] <= 1_000_000, "another queue's turns are not this one's"


@pytest.mark.parametrize("seed", range(20))
def test_every_job_is_served_once_in_order_of_its_lane_whatever_happens_to_others(broker: InProcess, seed: int) -> None:
    chance = random.Random(seed)
    waiting: dict[str, tuple[str | None, int]] = {}
    served: list[str] = []
    for number in range(120):
        act = chance.random()
        if act < 0.55:
            job = f"job-{number:03}"
            need = chance.choice(["x", "y"])
            waiting[job] = key, priority = chance.choice([None, "a", "b", "c"]), chance.choice([0, 0, 2])
            broker.submit(job, fairness_key=key, priority=priority, requires=[need], prefers={"z": 5})
        elif act < 0.65 and waiting:
            gone = chance.choice(sorted(waiting))
            broker.ask(broker.caller.make("cancel", job_id=gone))
            del waiting[gone]
        elif job := claim(broker, offers=["x", "y", *(["z"] if chance.random() < 0.5 else [])]):
            lane = waiting.pop(job)
            assert [older for older, its in waiting.items() if its == lane and older < job] == []
            served.append(job)
        broker.clock.advance(chance.choice([1, 2, 1_000]))
    while job := claim(broker, offers=["x", "y"]):
        del waiting[job]
        served.append(job)
    assert waiting == {}
    assert len(served) == len(set(served)) > 20


# What a claim costs.


def test_a_claim_costs_as_many_commands_among_many_jobs_as_among_few(on_sqlite: InProcess) -> None:
    def commands() -> int:
        stats: Any = on_sqlite.redis.info("commandstats")
        return sum(int(found["calls"]) for name, found in stats.items() if name not in ("cmdstat_info", "cmdstat_lpop"))

    def cost() -> int:
        request = on_sqlite.caller.make("claim", offers=["tool-1", "tool-2"])
        on_sqlite.caller.send(request)
        before = commands()
        on_sqlite.serve()
        spent = commands() - before
        assert on_sqlite.caller.replies(request)[0]["answer"] == Word.GRANTED
        return spent

    def fill(start: int, end: int) -> None:
        keys = [f"tenant-{number}" for number in range(50)]
        for number in range(start, end):
            needs = [f"tool-{number % 4}"]
            on_sqlite.caller.send(
                on_sqlite.caller.make("submit", job_id=f"j{number}", requires=needs, fairness_key=keys[number % 50])
            )
        on_sqlite.serve()
        on_sqlite.caller.forget()

    fill(0, 200)
    few = min(cost() for _ in range(10))
    fill(200, 3_000)
    many = min(cost() for _ in range(10))
    assert few == many
