"""Claims of one factory that are called back from their wait: those that wait for others cost nothing, and stay."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from broker import waiting
from broker.claim_next import WAITING
from broker.parked_sets import KnownOffers
from broker.recall import recall
from broker.waking import wake
from tests.caller import Caller
from tests.in_process import InProcess
from tests.starts import ask, start

OTHERS = 200


@pytest.fixture
def others(broker: InProcess) -> None:
    """A factory with many claims that wait."""
    many_wait(broker, Caller(broker.redis, "others"), *(f"q-{number % 4}" for number in range(OTHERS)))


def many_wait(broker: InProcess, caller: Caller, *queues: str) -> None:
    caller.send(*(caller.make("claim", queue=queue, wait_ms=60_000) for queue in queues))
    broker.serve()


@contextmanager
def bytes_out(broker: InProcess) -> Iterator[list[int]]:
    """What Redis says to everybody within the block."""
    found: list[int] = []
    before = broker.redis.info("stats")["total_net_output_bytes"]
    yield found
    found.append(broker.redis.info("stats")["total_net_output_bytes"] - before)


def calls(broker: InProcess, command: str) -> int:
    stats: dict[str, Any] = broker.redis.info("commandstats")
    return int(stats.get(f"cmdstat_{command}", {"calls": 0})["calls"])


def queued(broker: InProcess) -> list[str]:
    return [json.loads(text)["body"]["queue"] for text in broker.redis.lrange("broker:in:claims", 0, -1)]


@pytest.mark.usefixtures("others")
def test_a_factory_that_registers_looks_at_no_claims_of_others(broker: InProcess) -> None:
    mine = Caller(broker.redis, "mine")
    many_wait(broker, mine, "q-0")
    with bytes_out(broker) as said:
        assert recall(broker.redis, "mine") == 1
    assert said[0] < 8_000, "hundreds of records of others were read"
    assert broker.redis.hlen(WAITING) == broker.redis.zcard(waiting.OF + "others") == OTHERS


@pytest.mark.usefixtures("others")
def test_all_claims_of_a_factory_are_called_back_though_they_take_several_trips(broker: InProcess) -> None:
    assert recall(broker.redis, "others") == OTHERS
    assert (broker.redis.hlen(WAITING), broker.redis.llen("broker:in:claims")) == (0, OTHERS)
    assert recall(broker.redis, "others") == 0


@pytest.mark.usefixtures("others")
def test_of_each_queue_as_many_are_called_back_as_jobs_came_for_their_factory(broker: InProcess) -> None:
    kept = [(queue, "others:[]") for queue in ("q-1", "q-1", "q-1", *["q-3"] * OTHERS, "none")]
    assert wake(broker.redis, kept, known=KnownOffers()) == 3 + OTHERS // 4
    assert sorted(queued(broker)) == ["q-1"] * 3 + ["q-3"] * (OTHERS // 4)
    assert wake(broker.redis, [("q-1", "others:[]")], known=KnownOffers()) == 1
    assert wake(broker.redis, [("q-1", "mine:[]"), ("q-1", 'others:["gpu"]')], known=KnownOffers()) == 0


def test_a_factory_that_registers_many_times_in_one_batch_has_its_claims_called_back_once(broker: InProcess) -> None:
    before = calls(broker, "zrange")
    replies = registered(broker, 16)
    assert {reply["answer"] for reply in replies} == {"ok"}
    assert calls(broker, "zrange") - before < 16


def registered(broker: InProcess, times: int) -> list[Any]:
    return list(broker.ask(*(broker.caller.make("register_factory") for _ in range(times))))


def test_jobs_handed_over_in_one_batch_wake_as_many_claims_of_the_heir(broker: InProcess) -> None:
    giver, heir = start(broker, "s1"), start(broker, "s1", "mac-2")
    broker.submit("a", "b", "c", queue="builds")
    grants = [ask(broker, giver, "claim", job_id=job)["body"] for job in ("a", "b", "c")]
    fences = [{name: grant[name] for name in ("job_id", "epoch", "token")} for grant in grants]
    many_wait(broker, heir, *["builds"] * 8, *["other"] * 8)
    given = [giver.make("hand_over", **fence, to="mac-2") for fence in fences]
    giver.send(*given)
    broker.serve()
    assert {reply["answer"] for reply in giver.replies(*given, deadline_ms=1_000)} == {"ok"}
    assert broker.redis.hlen(WAITING) == 5 + 8


def register(broker: InProcess, caller: Caller, *offers: str) -> None:
    """Settled, with what it leads to; what it calls back is left in the queue."""
    caller.send(caller.make("register_factory", offers=offers))
    broker.finish(broker.settle(broker.take().entries))


def test_what_is_registered_again_as_it_was_calls_nobody_back(broker: InProcess) -> None:
    mine = Caller(broker.redis, "mine")
    register(broker, mine, "gpu", "ssd")
    many_wait(broker, mine, "q-0", "q-1")
    register(broker, mine, "ssd", "gpu")
    assert (queued(broker), broker.redis.hlen(WAITING)) == ([], 2)


def test_other_offers_call_those_claims_back_that_name_none(broker: InProcess) -> None:
    mine = Caller(broker.redis, "mine")
    register(broker, mine, "gpu")
    mine.send(mine.make("claim", queue="named", offers=["gpu"], wait_ms=60_000))
    many_wait(broker, mine, "led")
    register(broker, mine, "ssd")
    assert queued(broker) == ["led"]


def test_a_new_start_has_all_claims_of_the_one_before_called_back(broker: InProcess) -> None:
    old, new = start(broker, "s1"), start(broker, "s2")
    register(broker, old, "gpu")
    old.send(old.make("claim", queue="named", offers=["gpu"], wait_ms=60_000))
    many_wait(broker, old, "led")
    register(broker, new, "gpu")
    assert sorted(queued(broker)) == ["led", "named"]


def test_a_factory_that_came_back_after_its_drain_has_its_claims_called_back(broker: InProcess) -> None:
    mine = start(broker, "s1")
    register(broker, mine, "gpu")
    ask(broker, mine, "drain_factory", factory=mine.factory)
    ask(broker, mine, "resume_factory", factory=mine.factory)
    many_wait(broker, mine, "led")
    register(broker, mine, "gpu")
    assert queued(broker) == ["led"]


@pytest.mark.usefixtures("others")
def test_claims_that_are_called_back_go_behind_those_that_are_queued(broker: InProcess) -> None:
    mine, others = Caller(broker.redis, "mine"), Caller(broker.redis, "others")
    others.send(others.make("register_factory", offers=["new"]))
    hand = broker.take().entries
    mine.send(mine.make("claim", queue="mine"), wire="intake")
    broker.finish(broker.settle(hand))
    assert queued(broker)[0] == "mine"
    assert len(queued(broker)) == 1 + OTHERS
