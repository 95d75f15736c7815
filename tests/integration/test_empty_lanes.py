"""Lanes without jobs in the index: there may be many, and nobody waits for long until they are cleared away.

A claim puts right what stands before it as long as it has time; then it is told to come again, or goes on by itself.
"""

from collections.abc import Iterator
from contextlib import AbstractContextManager
from functools import partial
from typing import Any, cast
from unittest.mock import patch

import pytest
import redis

from broker import batch, index, proposals
from broker.batch import TRIES_MS
from broker.pop_best import RIGHTED_MAX, SETS_MAX
from broker.proposals import NothingFits
from broker.scripts import Script
from datastore import connect
from tests.caller import Reply
from tests.in_process import InProcess

pytestmark = pytest.mark.redis

LINE = index.members_key(index.READY, "default", "[]")
CALLS = 4
"""Of one batch at most, on a Redis that takes as long for each of them as a batch has time."""
BATCHES = 5
LANES = BATCHES * CALLS * RIGHTED_MAX
"""More than one batch, or four, may clear away."""


@pytest.fixture
def broker(redis_client: redis.Redis) -> Iterator[InProcess]:
    """Where a job stands behind lanes without one."""
    store = connect("memory://")
    broker = InProcess(store, redis_client)
    lanes_without_jobs(broker, LANES)
    broker.submit("job", fairness_key="behind")
    yield broker
    store.close()


def lanes_without_jobs(broker: InProcess, count: int) -> None:
    """As they are where Redis has lost, or somebody has written, a part of the index."""
    broker.redis.sadd(index.sets_key(index.READY, "default"), "[]")
    broker.redis.zadd(LINE, {f"~0~{number}": 1_000 + number for number in range(count)})


class Calls:
    """A Redis that takes its time to put the index right; the clock of a broker moves on."""

    def __init__(self, broker: InProcess, call_ms: int = TRIES_MS // CALLS) -> None:
        self._broker = broker
        self._call_ms = call_ms
        self._ask = proposals._ask
        self._propose = proposals.propose
        self.of_batches: list[int] = []
        """The calls that each batch made which was looking for jobs."""
        self.righted: list[int] = []
        """What each call put right of the lanes without jobs."""

    def ask(self, *args: Any, **options: Any) -> list[Any]:
        before = self._broker.redis.zcard(LINE)
        said = self._ask(*args, **options)
        self.righted.append(before - self._broker.redis.zcard(LINE))
        self._broker.clock.advance(self._call_ms)
        self.of_batches[-1] += 1
        return said

    def propose(self, *args: Any, **options: Any) -> Any:
        self.of_batches.append(0)
        return self._propose(*args, **options)


@pytest.fixture
def calls(broker: InProcess, monkeypatch: pytest.MonkeyPatch) -> Calls:
    calls = Calls(broker)
    monkeypatch.setattr(proposals, "_ask", calls.ask)
    monkeypatch.setattr(batch, "propose", calls.propose)
    return calls


def takes_all_the_time(calls: Calls) -> AbstractContextManager[Any]:
    """A broker that goes on until all is put right."""
    return patch.object(batch, "propose", lambda *args, **how: calls.propose(*args, **{**how, "until_ms": 1 << 62}))


def holds_nobody_up(calls: Calls) -> bool:
    """Whether no batch made more calls than it had time for, and one that only sees sets which are new."""
    return max(calls.of_batches) <= CALLS + 1


def claim(broker: InProcess, **fields: Any) -> Reply:
    return broker.ask(broker.caller.make("claim", **fields))[0]


def test_a_claim_at_many_lanes_without_jobs_is_told_to_come_again_and_not_that_there_is_nothing(
    broker: InProcess, calls: Calls
) -> None:
    reply = claim(broker)
    assert (reply["answer"], reply["reason"], reply["retry"]) == ("throttled", "overloaded", "later")
    assert len(calls.of_batches) == 1
    assert holds_nobody_up(calls)


def test_a_broker_that_takes_all_the_time_for_it_is_noticed(broker: InProcess, calls: Calls) -> None:
    with takes_all_the_time(calls):
        assert claim(broker)["body"]["job_id"] == "job"
    assert not holds_nobody_up(calls)


def test_each_claim_gets_on_until_one_gets_the_job_behind_them(broker: InProcess, calls: Calls) -> None:
    told = []
    while (reply := claim(broker))["answer"] != "granted":
        told.append((reply["answer"], reply["reason"]))
    assert reply["body"]["job_id"] == "job"
    assert set(told) == {("throttled", "overloaded")}
    assert len(told) <= BATCHES
    assert holds_nobody_up(calls)


def test_a_resend_of_the_same_claim_gets_on_too(broker: InProcess, calls: Calls) -> None:
    told: list[tuple[str, str]] = []
    copy = partial(broker.caller.make, "claim", request_id="same")
    while (reply := broker.ask(copy(attempt=len(told) + 1))[0])["answer"] != "granted":
        told.append((reply["answer"], reply["reason"]))
    assert reply["body"]["job_id"] == "job"
    assert told == [("throttled", "overloaded")] + [("outcome_unknown", "overloaded")] * (len(told) - 1)
    assert len(told) > 1
    assert holds_nobody_up(calls)


def test_one_gets_on_however_slow_each_call_is(broker: InProcess, calls: Calls) -> None:
    calls._call_ms = 2 * TRIES_MS
    told = []
    while (reply := claim(broker))["answer"] != "granted":
        told.append(reply["answer"])
    assert set(told) == {"throttled"}
    assert max(calls.of_batches) <= 2


def test_a_claim_that_waits_goes_on_by_itself(broker: InProcess, calls: Calls) -> None:
    assert claim(broker, wait_ms=60_000)["body"]["job_id"] == "job"
    assert len(calls.of_batches) > 1
    assert holds_nobody_up(calls)


def test_a_claim_that_waits_for_what_is_not_there_waits_on_once_all_is_put_right(
    broker: InProcess, calls: Calls
) -> None:
    broker.ask(broker.caller.make("cancel", job_id="job"))
    waiting = broker.caller.make("claim", wait_ms=60_000)
    broker.caller.send(waiting)
    broker.serve()
    assert broker.redis.zcard(LINE) == 0
    assert broker.redis.zcard("broker:waiting:ends") == 1
    broker.submit("late")
    assert broker.caller.replies(waiting, deadline_ms=1_000)[0]["body"]["job_id"] == "late"
    assert holds_nobody_up(calls)


@pytest.mark.usefixtures("calls")
def test_a_renewal_is_answered_before_a_claim_that_goes_on(broker: InProcess) -> None:
    broker.submit("held", queue="other")
    held = claim(broker, queue="other")["body"]
    goes_on = broker.caller.make("claim", wait_ms=60_000)
    broker.caller.send(goes_on)
    broker.finish(broker.settle(broker.take().entries))
    renewal = broker.caller.make("renew", **{name: held[name] for name in ("job_id", "epoch", "token")})
    broker.caller.send(renewal)
    broker.finish(broker.settle(broker.take().entries))
    assert broker.caller.replies(renewal, deadline_ms=1_000)[0]["answer"] == "renewed"
    assert not broker.caller.has_reply(goes_on)
    broker.serve()
    assert broker.caller.replies(goes_on, deadline_ms=1_000)[0]["body"]["job_id"] == "job"


def one_call_for_all() -> AbstractContextManager[Any]:
    """A broker that looks for nobody else once a call has put right as much as it may."""
    text = proposals._PROPOSE.text
    broken = text.replace("while true do  --", "while righted < RIGHTED_MAX do  --")
    broken = broken.replace("unfinished and 'unf", "righted >= RIGHTED_MAX and 'unf")
    assert broken.count("righted < RIGHTED_MAX do") == broken.count("RIGHTED_MAX and 'unf") == 1
    return patch.object(proposals, "_PROPOSE", Script(broken))


def told_in_one_batch(broker: InProcess) -> list[str]:
    """A claim that has much to put right, and behind it claims of queues where there is nothing of it."""
    broker.submit("elsewhere", queue="other")
    make = partial(broker.caller.make, "claim")
    return [reply["answer"] for reply in broker.ask(make(), make(queue="other"), make(queue="empty"))]


@pytest.mark.usefixtures("calls")
def test_claims_of_other_queues_in_the_same_batch_are_answered(broker: InProcess) -> None:
    assert told_in_one_batch(broker) == ["throttled", "granted", "none_available"]


@pytest.mark.usefixtures("calls")
def test_a_broker_that_puts_them_off_as_well_is_noticed(broker: InProcess) -> None:
    with one_call_for_all():
        assert told_in_one_batch(broker) == ["throttled"] * 3


@pytest.mark.usefixtures("calls")
def test_a_broker_that_takes_no_time_for_nothing_there_is_noticed(broker: InProcess) -> None:
    with patch.object(proposals, "Unfinished", NothingFits):
        assert claim(broker)["answer"] == "none_available"


def most_of_one_call(calls: Calls) -> int:
    """What a call has put right at most: it costs Redis a command or more for each."""
    assert sum(calls.righted) > 2 * RIGHTED_MAX
    return max(calls.righted)


def test_no_call_holds_redis_up_for_more_lanes_than_it_may_put_right(broker: InProcess, calls: Calls) -> None:
    claim(broker, wait_ms=60_000)
    assert most_of_one_call(calls) <= RIGHTED_MAX + 1, "others are served in between"


def test_a_call_that_puts_all_right_is_noticed(broker: InProcess, calls: Calls) -> None:
    text = proposals._PROPOSE.text
    broken = text.replace("if righted >= RIGHTED_MAX then", "if false then")
    assert broken != text
    with patch.object(proposals, "_PROPOSE", Script(broken)):
        claim(broker)
    assert most_of_one_call(calls) > RIGHTED_MAX + 1


def looks_of_one_call(broker: InProcess, calls: Calls) -> int:
    """How often a call has looked at a set at most, where many sets fit."""
    sets = 10 * SETS_MAX
    names = [index.encode_job_terms((), ((f"tool-{number}", 1),)) for number in range(sets)]
    broker.redis.sadd(index.sets_key(index.READY, "default"), *names)
    claim(broker)
    return max(calls.righted) * sets


def test_where_many_sets_fit_a_call_puts_fewer_lanes_right(broker: InProcess, calls: Calls) -> None:
    assert 0 < looks_of_one_call(broker, calls) <= RIGHTED_MAX * SETS_MAX


def test_a_call_that_counts_lanes_only_is_noticed(broker: InProcess, calls: Calls) -> None:
    text = proposals._PROPOSE.text
    broken = text.replace("math.max(1, #keys / SETS_MAX)", "1")
    assert broken != text
    with patch.object(proposals, "_PROPOSE", Script(broken)):
        assert looks_of_one_call(broker, calls) > RIGHTED_MAX * SETS_MAX


def keyed(broker: InProcess, *jobs: str, key: str) -> None:
    broker.submit(*jobs, queue="keyed", fairness_key=key)


def left_in_the_index(broker: InProcess) -> list[bytes]:
    return cast(list[bytes], broker.redis.zrange(index.members_key(index.READY, "keyed", "[]"), 0, -1))


def cancel(broker: InProcess, *jobs: str) -> None:
    replies = broker.ask(*(broker.caller.make("cancel", job_id=job) for job in jobs))
    assert {reply["answer"] for reply in replies} == {"ok"}, replies


def cleared_away(broker: InProcess) -> bool:
    """Whether the lanes of cancelled jobs are gone, and those that have others are not."""
    keyed(broker, "a-1", "a-2", key="a")
    keyed(broker, "b-1", key="b")
    keyed(broker, "c-1", "c-2", key="c")
    cancel(broker, "a-1", "b-1", "c-1", "c-2")
    return left_in_the_index(broker) == [b"~0~a"] and claim(broker, queue="keyed")["body"].get("job_id") == "a-2"


def test_the_last_job_of_a_lane_that_is_cancelled_takes_its_lane_along(broker: InProcess) -> None:
    assert cleared_away(broker)


def test_one_that_is_claimed_by_its_id_does_so_too(broker: InProcess) -> None:
    keyed(broker, "a-1", key="a")
    assert claim(broker, job_id="a-1")["answer"] == "granted"
    assert left_in_the_index(broker) == []


@pytest.mark.parametrize("condition", ["false", "true"], ids=["leaves it there", "always takes it along"])
def test_a_broker_that_never_looks_what_is_left_is_noticed(broker: InProcess, condition: str) -> None:
    text = index._WITHDRAW_FROM_LANE
    broken = text.replace("redis.call('EXISTS', KEYS[1]) == 0", condition)
    assert broken != text
    with patch.object(index, "_WITHDRAW_FROM_LANE", broken):
        assert not cleared_away(broker)
