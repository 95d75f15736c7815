"""A factory may have so many claims waiting; what comes on top is told so at once, and takes no place of another's."""

from typing import Any

import pytest
from msgspec import structs

from broker import waiting
from broker.answers import Word
from broker.claim_next import WAIT_ENDS, WAITING
from broker.claiming import try_claim_job
from broker.settings import load
from broker.transitions import Claimant
from tests.caller import Caller
from tests.fleet import Fleet
from tests.in_process import InProcess
from workers.runtime import rules

AT_MOST = 3
WAIT_MS = 60_000


@pytest.fixture
def broker(anywhere: InProcess) -> InProcess:
    """On a store of each kind; a factory may have three claims waiting."""
    anywhere.context = structs.replace(anywhere.context, rules=rules(load(waiting_max=AT_MOST)))
    return anywhere


def claims(caller: Caller, count: int = 1, **body: Any) -> list[Any]:
    return [caller.make("claim", **{"wait_ms": WAIT_MS, **body}) for _ in range(count)]


def send(broker: InProcess, caller: Caller, asked: list[Any]) -> None:
    caller.send(*asked)
    broker.serve()


def full(broker: InProcess, caller: Caller) -> list[Any]:
    """So many claims as may wait."""
    asked = claims(caller, AT_MOST)
    send(broker, caller, asked)
    assert not any(map(caller.has_reply, asked))
    return asked


def turned_away(broker: InProcess, caller: Caller, **body: Any) -> bool:
    """Whether one more claim is told so."""
    [asked] = claims(caller, **body)
    send(broker, caller, [asked])
    if not caller.has_reply(asked):
        return False
    [reply] = caller.replies(asked, deadline_ms=1_000)
    assert (reply["answer"], reply["reason"], reply["retry"]) == ("throttled", "too_many_waiting", "later")
    assert waiting.RETRY_AFTER_MS <= reply["retry_after_ms"] <= 2 * waiting.RETRY_AFTER_MS
    return True


def test_of_claims_that_come_together_as_many_wait_as_may_and_the_others_are_told_so(broker: InProcess) -> None:
    asked = claims(broker.caller, 5)
    send(broker, broker.caller, asked)
    assert [broker.caller.has_reply(claim) for claim in asked] == [False] * AT_MOST + [True] * 2
    told = broker.caller.replies(*asked[AT_MOST:], deadline_ms=1_000)
    assert {(reply["answer"], reply["reason"]) for reply in told} == {("throttled", "too_many_waiting")}
    assert len({reply["retry_after_ms"] for reply in told}) == 2, "they do not come back at the same moment"
    assert broker.redis.hlen(WAITING) == AT_MOST


def test_whatever_they_wait_for_they_count_together_and_those_of_another_factory_apart(broker: InProcess) -> None:
    full(broker, broker.caller)
    assert turned_away(broker, broker.caller, queue="another", offers=["gpu"])
    assert not turned_away(broker, Caller(broker.redis, "another"))


def test_a_claim_that_need_not_wait_is_served(broker: InProcess) -> None:
    full(broker, broker.caller)
    broker.submit("apart", queue="apart")
    [granted] = broker.ask(*claims(broker.caller, queue="apart"))
    assert granted["answer"] == "granted"
    [told] = broker.ask(*claims(broker.caller, queue="apart", wait_ms=0))
    assert told["answer"] == "none_available"


@pytest.mark.parametrize("how", ["granted", "ended", "recalled"])
def test_a_wait_that_is_over_leaves_its_place_to_the_next(broker: InProcess, how: str) -> None:
    first = full(broker, broker.caller)
    match how:
        case "granted":
            broker.submit("job")
            broker.serve()
        case "ended":
            broker.clock.advance(WAIT_MS)
            broker.sweep()
        case _:
            broker.ask(broker.caller.make("drain_factory", factory=broker.caller.factory))
            broker.ask(broker.caller.make("resume_factory", factory=broker.caller.factory))
    over = sum(map(broker.caller.has_reply, first))
    assert over == (1 if how == "granted" else AT_MOST)
    assert [turned_away(broker, broker.caller) for _ in range(over + 1)] == [False] * over + [True]


def test_a_place_whose_wait_was_lost_is_free_again_once_that_wait_would_have_ended(broker: InProcess) -> None:
    full(broker, broker.caller)
    broker.redis.delete(WAITING, WAIT_ENDS)
    broker.clock.advance(WAIT_MS - 1)
    assert turned_away(broker, broker.caller)
    broker.clock.advance(1)
    assert not turned_away(broker, broker.caller)


def test_a_claim_that_is_woken_for_nothing_keeps_its_place(broker: InProcess) -> None:
    asked = full(broker, broker.caller)
    broker.caller.send(broker.caller.make("submit", job_id="job"))
    broker.finish(broker.settle(broker.take().entries))
    assert broker.redis.hlen(WAITING) == AT_MOST - 1, "one of them is woken"
    who = Claimant("taker", "start-1", "t", "t" * 32)
    taken = try_claim_job(broker.context, "job", who, now_ms=broker.clock.now_ms())
    assert taken.answer.word is Word.GRANTED
    broker.serve()
    assert not any(map(broker.caller.has_reply, asked))
    assert broker.redis.zcard(waiting.OF + broker.caller.factory) == AT_MOST


def test_of_a_resend_that_may_not_wait_nothing_is_said_to_be_known(broker: InProcess) -> None:
    full(broker, broker.caller)
    [again] = claims(broker.caller, attempt=2)
    send(broker, broker.caller, [again])
    [reply] = broker.caller.replies(again, deadline_ms=1_000)
    assert (reply["answer"], reply["reason"], reply["retry"]) == ("outcome_unknown", "too_many_waiting", "same_id")


def test_nothing_is_left_where_nobody_waits_any_more(broker: InProcess) -> None:
    full(broker, broker.caller)
    broker.clock.advance(WAIT_MS)
    broker.sweep()
    assert not broker.redis.keys("broker:waiting*")


def test_a_worker_heeds_its_setting(fleet: Fleet) -> None:
    fleet.start_worker({"BROKER_WAITING_MAX": "1"})
    caller = Caller(fleet.redis, "caller")
    asked = claims(caller, 3)
    caller.send(*asked)
    told = caller.replies(*asked[1:])
    assert {(reply["answer"], reply["reason"]) for reply in told} == {("throttled", "too_many_waiting")}
