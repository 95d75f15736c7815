"""A queue holds so much; what comes on top is told so at once, nothing of it is done, and holders are heard."""

import gc
from collections import Counter

import pytest
import redis

from broker.parsing import Malformed
from broker.queues import QUEUES, Wire
from broker.settings import load
from datastore.memory import MemoryDatastore
from tests.caller import Caller
from tests.in_process import InProcess
from workers.inflight import lists
from workers.shedding import SHED_MAX
from workers.shift import Shift

QUEUE_MAX = 100
WIRES: tuple[Wire, ...] = ("rq", "intake")


@pytest.fixture
def broker(redis_client: redis.Redis) -> InProcess:
    return InProcess(MemoryDatastore(), redis_client)


@pytest.fixture
def shift(broker: InProcess) -> Shift:
    settings = load(queue_max=QUEUE_MAX)
    return Shift(broker.context, broker.redis, "w1", QUEUES, settings)


def serve(shift: Shift) -> None:
    while (hand := shift.take()).entries:
        shift.settle(hand)


@pytest.mark.parametrize("wire", WIRES)
def test_what_a_queue_can_not_hold_is_throttled_at_once_and_the_rest_is_served(
    broker: InProcess, shift: Shift, wire: Wire
) -> None:
    caller = broker.caller
    requests = [caller.make("submit", job_id=f"job-{number}") for number in range(300)]
    caller.send(*requests, wire=wire)
    shift.settle(shift.take())  # one batch
    told = caller.replies_to([request.request_id for request in requests[-100:]])
    assert Counter(reply["answer"] for reply in told) == {"throttled": 100}
    assert {(reply["reason"], reply["retry"]) for reply in told} == {("overloaded", "later")}
    assert all(1_000 <= reply["retry_after_ms"] <= 5_000 for reply in told)
    assert len({reply["retry_after_ms"] for reply in told}) > 50, "they would all come back at the same moment"
    serve(shift)
    rest = caller.replies(*requests[:-136])
    assert Counter(reply["answer"] for reply in rest) == {"ok": 164}, "64 in the first batch and the 100 that fitted"
    assert len(broker.store.find({"kind": "job"}, limit=1_000).documents) == 164
    assert broker.redis.exists(*lists("w1")) == 0


def test_a_resend_that_is_turned_away_is_told_that_nothing_is_known(broker: InProcess, shift: Shift) -> None:
    broker.submit("job")
    first = broker.caller.make("claim", job_id="job")
    [granted] = broker.ask(first)
    assert granted["answer"] == "granted"
    again = first.model_copy(update={"attempt": 2})
    filler = [broker.caller.make("claim") for _ in range(QUEUE_MAX + 64)]
    broker.caller.send(*filler, again)
    shift.settle(shift.take())
    [reply] = broker.caller.replies(again)
    assert (reply["answer"], reply["reason"], reply["retry"]) == ("outcome_unknown", "overloaded", "same_id")


def test_holders_are_never_turned_away_and_come_first(broker: InProcess, shift: Shift) -> None:
    broker.submit("job")
    [lease] = broker.ask(broker.caller.make("claim", job_id="job"))
    fence = {"job_id": "job", "epoch": lease["body"]["epoch"], "token": lease["body"]["token"]}
    herd = Caller(broker.redis, "herd")
    herd.send(*(herd.make("claim") for _ in range(SHED_MAX + 3 * QUEUE_MAX)))
    renewals = [broker.caller.make("renew", **fence) for _ in range(QUEUE_MAX + 60)]
    broker.caller.send(*renewals)
    for _ in range(3):
        shift.settle(shift.take())
    assert {reply["answer"] for reply in broker.caller.replies(*renewals, deadline_ms=1_000)} == {"renewed"}


def test_a_worker_recovers_by_itself_once_the_flood_is_over(broker: InProcess, shift: Shift) -> None:
    herd = Caller(broker.redis, "herd")
    flood = [herd.make("claim", job_id="none") for _ in range(SHED_MAX + 3 * QUEUE_MAX)]
    herd.send(*flood)
    serve(shift)
    words = Counter(reply["answer"] for reply in herd.replies(*flood))
    assert words["throttled"] >= SHED_MAX
    assert words["throttled"] + words["not_found"] == len(flood)
    calm = herd.make("claim", job_id="none")
    herd.send(calm)
    serve(shift)
    assert herd.replies(calm)[0]["answer"] == "not_found"


def test_poison_at_the_end_of_a_long_queue_is_buried_and_stops_nobody(broker: InProcess, shift: Shift) -> None:
    herd = Caller(broker.redis, "herd")
    herd.send(*(herd.make("claim", job_id="none") for _ in range(QUEUE_MAX + 64)), wire="intake")
    broker.redis.rpush("broker:in:claims", "no json", "x" * 1_000_000)
    shift.settle(shift.take())
    assert broker.redis.llen("broker:dead") == 2
    assert broker.redis.exists(*lists("w1")) == 0


def test_nothing_of_a_refused_entry_stays_in_memory(broker: InProcess) -> None:
    # A value that the collector did not look at held the error, its frame, and so itself: 5 kB an entry, for ever.
    gc.freeze()  # what there is already is not asked for
    try:
        broker.redis.rpush("broker:in:jobs", *["not json"] * 50)
        broker.serve()
        assert broker.redis.llen("broker:dead") == 50
        gc.collect()
        assert [each for each in gc.get_objects() if isinstance(each, Malformed)] == []
    finally:
        gc.unfreeze()
