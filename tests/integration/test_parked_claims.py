"""Claims that wait: answered when work appears, told so when it does not, and never forgotten in between."""

import json
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from typing import Any, cast

import pytest

from broker import claim_next, replies, silent, transitions, waking
from broker.client import Client
from broker.messages import Claim
from broker.presence import READ_WITHIN_MS, take_back_unread
from broker.scripts import Script
from tests.caller import Caller
from tests.fleet import Fleet
from tests.in_process import SKEW_MS, TTL_MS, InProcess
from tests.processes import wait_for

WAIT_MS = 60_000
ROUNDS = 200


def park(broker: InProcess, **body: Any) -> Any:
    """A claim that waits; nothing fits it now."""
    claim = broker.caller.make("claim", **{"wait_ms": WAIT_MS, **body})
    broker.caller.send(claim)
    broker.serve()
    assert not broker.caller.has_reply(claim)
    return claim


def answer(broker: InProcess, claim: Any) -> Any:
    """What the claim was told; it must have been by now."""
    broker.serve()
    return broker.caller.replies(claim, deadline_ms=1_000)[0]


def test_a_waiting_claim_is_answered_when_work_appears(broker: InProcess) -> None:
    claim = park(broker)
    broker.submit("a")
    reply = answer(broker, claim)
    assert (reply["answer"], reply["body"]["job_id"], reply["body"]["epoch"]) == ("granted", "a", 1)
    assert not broker.redis.exists("broker:waiting", "broker:waiting:ends")


def test_at_the_end_of_its_wait_a_claim_is_told_that_nothing_is_available(broker: InProcess) -> None:
    claim = park(broker)
    broker.clock.advance(WAIT_MS - 1)
    assert broker.sweep().waits_ended == 0
    broker.clock.advance(1)
    assert broker.sweep().waits_ended == 1
    reply = answer(broker, claim)
    assert (reply["answer"], reply["retry"]) == ("none_available", "later")


def test_waits_of_a_fleet_that_end_together_end_at_once(broker: InProcess) -> None:
    many = 3 * claim_next.EXPIRE_MAX + 1
    claims = [broker.caller.make("claim", wait_ms=WAIT_MS) for _ in range(many)]
    broker.caller.send(*claims)
    broker.serve()
    broker.clock.advance(WAIT_MS)
    assert claim_next.end_waits(broker.redis, broker.clock.now_ms()) == many
    assert not broker.redis.exists(claim_next.WAITING, claim_next.WAIT_ENDS)


@pytest.mark.parametrize("written", range(1, 6))
def test_what_a_connection_that_broke_left_of_a_parked_claim_goes_with_the_end_of_its_wait(
    broker: InProcess, written: int
) -> None:
    claim = broker.caller.make("claim", wait_ms=WAIT_MS)
    assert isinstance(claim, Claim)
    pipe = broker.redis.pipeline(transaction=False)
    claim_next.park(pipe, claim, broker.clock.now_ms())
    for arguments, _ in pipe.command_stack[:written]:
        broker.redis.execute_command(*arguments)  # type: ignore[no-untyped-call]  # redis-py's own
    broker.clock.advance(WAIT_MS)
    broker.sweep()
    assert not broker.redis.keys("broker:waiting*")


def left_waiting_for_ever(broker: InProcess, lose: Callable[[], object]) -> bool:
    """Whether a claim whose end Redis loses, or forgets by `lose`, is neither answered nor settled again."""
    claim = park(broker)
    lose()
    broker.sweep()
    broker.serve()
    assert not broker.caller.has_reply(claim), "it has waited for no time"
    broker.clock.advance(WAIT_MS)
    broker.sweep()
    return not broker.caller.has_reply(claim) or bool(broker.redis.keys("broker:waiting*"))


def test_a_claim_whose_end_redis_has_lost_is_told_so_at_its_end(broker: InProcess) -> None:
    assert not left_waiting_for_ever(broker, lambda: broker.redis.delete("broker:waiting:ends"))


def test_a_claim_whose_end_nobody_misses_would_wait_for_ever(
    broker: InProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    counted = claim_next._END_WAITS.text
    trusting = Script(counted.replace("> redis.call('ZCARD', KEYS[2])", "> math.huge"))
    assert trusting.text != counted
    monkeypatch.setattr(claim_next, "_END_WAITS", trusting)
    assert left_waiting_for_ever(broker, lambda: broker.redis.delete("broker:waiting:ends"))


@pytest.mark.parametrize("written", range(6))
def test_a_claim_whose_parking_redis_is_emptied_within_leaves_nothing(broker: InProcess, written: int) -> None:
    claim = broker.caller.make("claim", wait_ms=WAIT_MS)
    assert isinstance(claim, Claim)
    pipe = broker.redis.pipeline(transaction=False)
    claim_next.park(pipe, claim, broker.clock.now_ms())
    for number, (arguments, _) in enumerate(pipe.command_stack):
        if number == written:
            broker.redis.flushall()
        broker.redis.execute_command(*arguments)  # type: ignore[no-untyped-call]  # redis-py's own
    broker.sweep()
    broker.serve()
    broker.clock.advance(WAIT_MS)
    broker.sweep()
    assert not broker.redis.keys("broker:waiting*")
    assert broker.caller.has_reply(claim) == (written < 4), "else all of it is gone, and its client sends it again"


def test_a_channel_that_nobody_reads_keeps_no_more_of_the_ends_of_waits_than_of_other_replies(
    broker: InProcess,
) -> None:
    broker.redis.rpush(broker.caller.channel, *["{}"] * replies.REPLIES_MAX)
    claim = broker.caller.make("claim", wait_ms=1_000)
    broker.caller.send(claim)
    broker.serve()
    broker.clock.advance(1_001)
    assert claim_next.end_waits(broker.redis, broker.clock.now_ms()) == 1
    assert broker.redis.llen(broker.caller.channel) == replies.REPLIES_MAX
    assert claim.request_id in str(broker.redis.lindex(broker.caller.channel, -1)), "the oldest goes first"


def test_waiters_that_redis_has_forgotten_take_no_wake_up_from_those_that_it_knows(broker: InProcess) -> None:
    for _ in range(3):
        park(broker)
    broker.redis.delete("broker:waiting")
    claim = park(broker)
    broker.submit("a")
    assert answer(broker, claim)["answer"] == "granted", "at once: it is not the sweep that has found it"


def test_two_waiters_and_one_job_make_one_grant_and_the_other_waits_on(broker: InProcess) -> None:
    first = park(broker)
    broker.clock.advance(10)
    second = park(broker)
    broker.submit("a")
    assert answer(broker, first)["answer"] == "granted"
    assert not broker.caller.has_reply(second)
    broker.submit("b")
    assert answer(broker, second)["body"]["job_id"] == "b"


def test_a_waiter_is_woken_only_by_what_it_can_do(broker: InProcess) -> None:
    plain, strong, elsewhere = park(broker), park(broker, offers=["gpu", "mem_gb=64"]), park(broker, queue="other")
    broker.submit("gpu", requires=["gpu", "mem_gb>=32"])
    assert answer(broker, strong)["body"]["job_id"] == "gpu"
    assert not broker.caller.has_reply(plain)
    broker.submit("elsewhere", queue="other")
    assert answer(broker, elsewhere)["body"]["job_id"] == "elsewhere"
    broker.submit("any")
    assert answer(broker, plain)["body"]["job_id"] == "any"


@pytest.mark.parametrize("how", ["release", "fail", "revoke", "reap", "schedule", "redrive"])
def test_a_waiter_is_woken_however_a_job_becomes_ready(broker: InProcess, how: str) -> None:
    soon = {"not_before_ms": broker.clock.now_ms() + 1_000} if how == "schedule" else {}
    broker.submit("a", **soon)
    lease = {}
    if how not in ("schedule", "redrive"):
        reply = broker.ask(broker.caller.make("claim", job_id="a"))[0]
        lease = {name: reply["body"][name] for name in ("job_id", "epoch", "token")}
    if how == "redrive":
        broker.ask(broker.caller.make("cancel", job_id="a"))
    if how == "reap":
        broker.clock.advance(TTL_MS)
    claim = park(broker)
    match how:
        case "release" | "fail":
            broker.ask(broker.caller.make(how, **lease))
        case "revoke" | "redrive":
            broker.ask(broker.caller.make(how, job_id="a"))
        case "reap":
            broker.clock.advance(SKEW_MS + 1)
        case _:
            broker.clock.advance(1_000)
    if how == "fail":
        broker.clock.advance(1_000)  # its backoff
    if how in ("fail", "reap", "schedule"):
        broker.sweep()
    assert answer(broker, claim)["body"]["job_id"] == "a"


def test_a_resend_of_a_waiting_claim_waits_with_it(broker: InProcess) -> None:
    claim = park(broker)
    broker.caller.send(claim.model_copy(update={"attempt": 2}))
    broker.serve("w2")
    broker.submit("a", "b")
    assert answer(broker, claim)["answer"] == "granted"
    assert len(broker.store.find({"kind": "job", "state": "leased"}).documents) == 1


def test_a_claim_past_its_deadline_is_not_granted_by_being_woken(broker: InProcess) -> None:
    claim = park(broker, deadline_ms=broker.clock.now_ms() + 10)
    broker.clock.advance(11)
    broker.submit("a")
    assert answer(broker, claim)["answer"] == "request_expired"
    assert broker.ask(broker.caller.make("claim"))[0]["body"]["epoch"] == 1


@pytest.mark.parametrize("wait_is_over", [False, True])
def test_a_copy_of_a_claim_whose_wait_is_over_gets_nothing_new(broker: InProcess, wait_is_over: bool) -> None:
    # Its client was told that there is nothing. Whoever has seen it on its way may push it again, signed as it is.
    claim = park(broker)
    copy = json.loads(broker.redis.hgetall("broker:waiting").popitem()[1])["envelope"]
    if wait_is_over:
        broker.clock.advance(WAIT_MS)
        assert claim_next.end_waits(broker.redis, broker.clock.now_ms()) == 1
        assert answer(broker, claim)["answer"] == "none_available"
    else:
        claim_next.end_waits(broker.redis, broker.clock.now_ms() + WAIT_MS)
        broker.caller.replies(claim)
    broker.submit("a", "b")
    for _ in range(2):
        broker.redis.rpush("broker:in:claims", copy)
        broker.serve()
    leased = [document.id for document in broker.store.find({"kind": "job", "state": "leased"}).documents]
    assert leased == ([] if wait_is_over else ["a"])
    assert broker.ask(broker.caller.make("claim"))[0]["answer"] == "granted"


def test_a_job_whose_waiter_comes_after_its_wait_is_over_wakes_another(broker: InProcess) -> None:
    late = park(broker, wait_ms=1_000)
    broker.clock.advance(1)
    other = park(broker)
    broker.caller.send(broker.caller.make("submit", job_id="a"))
    broker.finish(broker.settle(broker.take("w1").entries, "w1"), "w1")
    assert broker.redis.llen("broker:in:claims") == 1, "one was woken, and is on its way"
    broker.clock.advance(1_000)
    assert answer(broker, late)["answer"] == "none_available"
    assert answer(broker, other)["body"]["job_id"] == "a"


def is_too_late(broker: InProcess) -> Any:
    """A claim that waits on past its own deadline."""
    claim = park(broker, deadline_ms=broker.clock.now_ms() + 10)
    broker.clock.advance(11)
    return claim


def is_sent_again_and_too_late(broker: InProcess) -> Any:
    """The same, of which nothing is known, as an earlier copy may have had effect."""
    claim = broker.caller.make("claim", attempt=2, wait_ms=WAIT_MS, deadline_ms=broker.clock.now_ms() + 10)
    broker.caller.send(claim)
    broker.serve()
    broker.clock.advance(11)
    return claim


def is_at_its_limit(broker: InProcess) -> Any:
    """The second claim of a factory that may hold one job, and has just been given one."""
    broker.ask(broker.caller.make("set_limit", limit=f"factory:{broker.caller.factory}", capacity=1))
    first = park(broker)
    broker.clock.advance(1)
    second = park(broker)
    broker.submit("its-only-one")
    assert answer(broker, first)["answer"] == "granted"
    return second


@pytest.mark.parametrize(
    ("in_vain", "told"),
    [
        (is_too_late, "request_expired"),
        (is_sent_again_and_too_late, "outcome_unknown"),
        (is_at_its_limit, "not_claimable"),
    ],
)
def test_a_waiter_that_may_not_have_the_job_is_woken_in_vain_and_the_next_one_in_its_place(
    broker: InProcess, in_vain: Callable[[InProcess], Any], told: str
) -> None:
    first = in_vain(broker)
    other = Caller(broker.redis, "other")
    claim = other.make("claim", wait_ms=WAIT_MS)
    other.send(claim)
    broker.serve()
    broker.submit("a")
    assert answer(broker, first)["answer"] == told
    assert other.replies(claim, deadline_ms=1_000)[0]["body"]["job_id"] == "a"


def test_a_job_that_its_waiter_left_for_a_better_one_wakes_another(broker: InProcess) -> None:
    waiters = []
    for offers in (["gpu"], [], ["gpu"]):
        waiters.append(park(broker, offers=offers))
        broker.clock.advance(1)
    strong, plain, other = waiters
    job = broker.caller.make("submit", job_id="gpu", requires=["gpu"])
    broker.caller.send(job)
    broker.finish(broker.settle(broker.take("w1").entries))
    woken = broker.take("w1")  # for this job; before it is settled a better one comes, for which the plain one is woken
    broker.caller.send(broker.caller.make("submit", job_id="better", priority=1))
    broker.finish(broker.settle(broker.take("w2").entries))
    broker.finish(broker.settle(woken.entries))
    assert answer(broker, strong)["body"]["job_id"] == "better"
    assert answer(broker, other)["body"]["job_id"] == "gpu"
    assert not broker.caller.has_reply(plain)


def test_a_job_that_its_waiter_left_for_one_that_woke_nobody_wakes_another(broker: InProcess) -> None:
    strong = park(broker, offers=["gpu", "ssd"])
    broker.clock.advance(1)
    other = park(broker, offers=["gpu"])
    broker.caller.send(broker.caller.make("submit", job_id="gpu", requires=["gpu"]))
    broker.finish(broker.settle(broker.take("w1").entries))
    woken = broker.take("w1")
    broker.caller.send(broker.caller.make("submit", job_id="better", requires=["ssd"], priority=1))
    broker.finish(broker.settle(broker.take("w2").entries))
    broker.finish(broker.settle(woken.entries))
    assert answer(broker, strong)["body"]["job_id"] == "better"
    assert answer(broker, other)["body"]["job_id"] == "gpu"


def test_a_waiter_that_finds_its_job_gone_wakes_nobody_for_jobs_that_others_were_woken_for(broker: InProcess) -> None:
    plain = park(broker)
    broker.clock.advance(1)
    for _ in range(8):
        park(broker, offers=["gpu"])
    broker.caller.send(broker.caller.make("submit", job_id="a"))
    broker.finish(broker.settle(broker.take("w1").entries))
    woken = broker.take("w1")
    broker.caller.send(at_once := broker.caller.make("claim"))
    broker.finish(broker.settle(broker.take("w2").entries))
    assert broker.caller.replies(at_once)[0]["body"]["job_id"] == "a"
    jobs = [broker.caller.make("submit", requires=["gpu"], prefers={f"disk={number}": 1}) for number in range(4)]
    broker.caller.send(*jobs)
    broker.finish(broker.settle(broker.take("w2").entries))
    broker.finish(broker.settle(woken.entries))
    assert len(broker.take("w2").entries) == len(jobs), "one for each job"
    assert not broker.caller.has_reply(plain)


def test_a_job_that_a_claim_may_not_have_after_all_wakes_those_who_found_it_gone(broker: InProcess) -> None:
    broker.ask(broker.caller.make("set_limit", limit="factory:greedy", capacity=1))
    waiters = [park(broker), park(broker)]
    broker.caller.send(*(broker.caller.make("submit", job_id=job) for job in ("a", "b")))
    broker.finish(broker.settle(broker.take("w1").entries))
    woken = broker.take("w1")
    greedy = Caller(broker.redis, "greedy")
    claims = [greedy.make("claim"), greedy.make("claim")]
    greedy.send(*claims)
    both = broker.settle(broker.take("w2").entries, "w2")
    broker.finish(broker.settle(woken.entries))
    broker.finish(both, "w2")
    assert [reply["answer"] for reply in greedy.replies(*claims)] == ["granted", "not_claimable"]
    broker.serve()
    assert sum(broker.caller.has_reply(claim) for claim in waiters) == 1


def test_a_job_that_appears_just_before_the_claim_is_parked_is_not_missed(broker: InProcess) -> None:
    claim = _nothing_found_then_a_job(broker)
    assert answer(broker, claim)["body"]["job_id"] == "a"


def test_without_the_second_look_it_would_be_missed(broker: InProcess, monkeypatch: pytest.MonkeyPatch) -> None:
    # The twin of the test above: it shows that the interleaving is the dangerous one.
    monkeypatch.setattr(waking, "recheck", lambda *_: None)
    claim = _nothing_found_then_a_job(broker)
    broker.serve()
    assert not broker.caller.has_reply(claim)


def _nothing_found_then_a_job(broker: InProcess) -> Any:
    claim = broker.caller.make("claim", wait_ms=WAIT_MS)
    broker.caller.send(claim)
    hand = broker.take("w1")
    found_nothing = broker.settle(hand.entries, "w1")
    submit = broker.caller.make("submit", job_id="a")
    broker.caller.send(submit)
    broker.serve("w2")  # the job is ready, and nobody is seen waiting for it
    broker.finish(found_nothing, "w1")
    return claim


def test_of_a_hundred_waiters_one_job_wakes_one(broker: InProcess) -> None:
    claims = [broker.caller.make("claim", wait_ms=WAIT_MS) for _ in range(100)]
    for claim in claims:
        broker.caller.send(claim)
        broker.serve()
        broker.clock.advance(1)
    broker.caller.send(broker.caller.make("submit", job_id="a"))
    settled = []
    while (hand := broker.take()).entries:
        settled.append(len(hand.entries))
        broker.finish(broker.settle(hand.entries))
    assert settled == [1, 1], "the submission, and one claim"
    assert broker.caller.replies(claims[0], deadline_ms=1_000)[0]["answer"] == "granted"
    assert broker.redis.hlen("broker:waiting") == 99


def test_a_job_wakes_a_waiter_however_many_wait_with_offers_of_their_own(broker: InProcess) -> None:
    factories = 8_500  # more than Lua unpacks
    callers = [Caller(broker.redis, f"mac-{number}") for number in range(factories)]
    claims = [caller.make("claim", offers=[f"host={caller.factory}"], wait_ms=WAIT_MS) for caller in callers]
    with broker.redis.pipeline(transaction=False) as pipe:
        for number, claim in enumerate(claims):
            assert type(claim) is Claim
            claim_next.park(pipe, claim, broker.clock.now_ms() + number)
        pipe.execute()
    broker.submit("a")
    assert callers[0].replies(claims[0], deadline_ms=1_000)[0]["body"]["job_id"] == "a"
    assert broker.redis.hlen(claim_next.WAITING) == factories - 1


def test_waits_that_redis_forgot_are_cleared_away_some_at_a_time_until_one_is_met_that_stands(
    broker: InProcess,
) -> None:
    forgotten = 300 + waking.ROUNDS_MAX
    now_ms = broker.clock.now_ms()
    make = partial(broker.caller.make, "claim", wait_ms=WAIT_MS)
    with broker.redis.pipeline(transaction=False) as pipe:
        for number in range(forgotten):
            claim = make(offers=[f"host={number}"])
            assert type(claim) is Claim
            claim_next.park(pipe, claim, now_ms)
        pipe.delete(claim_next.WAITING)
        pipe.execute()
    broker.clock.advance(1)
    living = make()
    assert type(living) is Claim
    with broker.redis.pipeline(transaction=False) as pipe:
        claim_next.park(pipe, living, broker.clock.now_ms())
        pipe.execute()
    broker.submit("a")
    left = len(broker.redis.keys("broker:parked:default:in:*")) - 1
    assert left == forgotten - waking.ROUNDS_MAX, "the server has others to serve"
    broker.sweep()
    broker.serve()
    assert broker.caller.replies(living, deadline_ms=1_000)[0]["body"]["job_id"] == "a"


def test_a_grant_that_its_waiter_never_reads_goes_to_the_next(broker: InProcess) -> None:
    dead, living = Caller(broker.redis, "dead"), broker.caller
    gone = dead.make("claim", wait_ms=WAIT_MS, count=2)
    dead.send(gone)
    broker.serve()
    broker.clock.advance(1)
    claim = park(broker)
    broker.submit("a")
    broker.serve()
    assert not living.has_reply(claim), "the dead one was first"
    broker.clock.advance(READ_WITHIN_MS - 1)
    assert take_back(broker) == 0
    broker.clock.advance(1)
    assert take_back(broker) == 1
    reply = answer(broker, claim)
    assert (reply["answer"], reply["body"]["job_id"], reply["body"]["epoch"]) == ("granted", "a", 2)
    again = dead.make("claim", wait_ms=WAIT_MS, count=2, request_id=gone.request_id, attempt=2)
    dead.forget()
    dead.send(again)
    broker.serve()
    assert [(told["answer"], told["reason"]) for told in dead.replies(again)] == [("request_expired", "lease_over")]


def test_a_grant_that_was_read_is_never_taken_back(broker: InProcess) -> None:
    claim = park(broker)
    broker.submit("a")
    grant = answer(broker, claim)["body"]
    lease = {name: grant[name] for name in ("job_id", "epoch", "token")}
    broker.clock.advance(READ_WITHIN_MS)
    assert take_back(broker) == 0
    assert broker.ask(broker.caller.make("complete", **lease))[0]["answer"] == "ok"
    assert not broker.redis.exists("broker:unread")


def test_a_redis_that_comes_back_without_its_last_writes_takes_no_lease_that_was_renewed(broker: InProcess) -> None:
    assert a_rolled_back_redis_after_a_renewal(broker)["answer"] == "renewed"


def test_were_redis_believed_it_would_take_it(broker: InProcess, monkeypatch: pytest.MonkeyPatch) -> None:
    # The twin of the test above: a release like any other.
    release = transitions.release
    monkeypatch.setattr(transitions, "release", lambda *known, **more: release(*known, **{**more, "unread_by": None}))
    assert a_rolled_back_redis_after_a_renewal(broker)["answer"] == "lease_lost"


def a_rolled_back_redis_after_a_renewal(broker: InProcess) -> Any:
    """What its holder's next renewal is told, where the grant it has read lies on its channel again."""
    claim = park(broker)
    broker.caller.send(broker.caller.make("submit", job_id="a"))
    broker.serve()
    keys = ("broker:unread", broker.caller.channel)
    earlier = {key: cast(bytes, broker.redis.dump(key)) for key in keys}
    grant = answer(broker, claim)["body"]
    lease = {name: grant[name] for name in ("job_id", "epoch", "token")}
    assert broker.ask(broker.caller.make("renew", **lease))[0]["answer"] == "renewed"
    broker.clock.advance(READ_WITHIN_MS)
    for key, dumped in earlier.items():
        broker.redis.restore(key, 0, dumped, replace=True)
    assert take_back(broker) == 1
    broker.serve()
    return broker.ask(broker.caller.make("renew", **lease))[0]


DEAD = silent.STEP + 6
"""More than are looked at together."""


def test_however_many_waiters_have_died_the_second_to_get_a_job_is_one_who_reads(broker: InProcess) -> None:
    with_dead_waiters(broker)
    claim = broker.caller.make("claim", wait_ms=WAIT_MS)
    with reading(broker.caller) as read:
        broker.caller.send(claim)
        broker.serve()
        assert unread_job_goes_on(broker) == 1
        reply = read.reply(claim)
        assert (reply["answer"], reply["body"]["job_id"], reply["body"]["epoch"]) == ("granted", "a", 2)
    assert broker.redis.zrange("broker:parked:default:in:[]", 0, 0) == [b"dead-1:dead-1"], "they stand in their order"


def test_without_the_look_at_who_reads_it_goes_to_the_next_dead_one(
    broker: InProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The twin of the test above.
    monkeypatch.setattr(silent, "stand_behind", lambda *_: 0)
    with_dead_waiters(broker)
    claim = broker.caller.make("claim", wait_ms=WAIT_MS)
    with reading(broker.caller) as read:
        broker.caller.send(claim)
        broker.serve()
        unread_job_goes_on(broker)
        assert not read.has_reply(claim)


def test_a_waiter_that_reads_again_comes_back_to_its_place(broker: InProcess) -> None:
    with_dead_waiters(broker, 2)
    late = park(broker)
    assert silent.stand_behind(broker.redis, ["default"]) == 3
    assert silent.stand_behind(broker.redis, ["default"]) == 0, "they stand behind once"
    with reading(Caller(broker.redis, "dead-1")):
        silent.stand_behind(broker.redis, ["default"])
    line = broker.redis.zrange("broker:parked:default:in:[]", 0, -1)
    assert line == [b"dead-1:dead-1", b"dead-0:dead-0", claim_next.claim_id(late).encode()]
    assert not broker.redis.exists(broker.caller.channel), "nothing is left on a channel nobody reads"


def with_dead_waiters(broker: InProcess, count: int = DEAD) -> None:
    for number in range(count):
        dead = Caller(broker.redis, f"dead-{number}")
        dead.send(dead.make("claim", wait_ms=WAIT_MS, request_id=f"dead-{number}"))
        broker.serve()
        broker.clock.advance(1)


def unread_job_goes_on(broker: InProcess) -> int:
    """A job comes, the first who waits does not read its grant, and it is taken back."""
    submitter = Caller(broker.redis, "submitter")  # whose reply calls nobody away who blocks on another channel
    submitter.send(submitter.make("submit", job_id="a"))
    broker.serve()
    broker.clock.advance(READ_WITHIN_MS)
    taken = take_back(broker)
    broker.serve()
    return taken


class Reader(Caller):
    """A client that blocks on its reply channel, as clients do. Its thread collects."""

    def collect(self) -> int:
        return len(self._early)

    def reply(self, request: Any) -> Any:
        return self.replies(request, deadline_ms=10_000)[0]

    def read(self) -> None:
        while text := cast(Any, self.redis.blpop([self.channel]))[1]:
            reply = json.loads(text)
            if reply["request_id"] is not None:
                self._early[reply["request_id"]] = reply


@contextmanager
def reading(caller: Caller) -> Iterator[Reader]:
    reader = Reader(caller.redis, caller.factory)
    thread = threading.Thread(target=reader.read)
    thread.start()
    wait_for(lambda: any(client["cmd"] == "blpop" for client in caller.redis.client_list()), "it blocks")
    yield reader
    caller.redis.rpush(caller.channel, "")
    thread.join()


def take_back(broker: InProcess) -> int:
    return take_back_unread(broker.redis, broker.context.entropy, now_ms=broker.clock.now_ms())


def test_waiters_that_were_killed_do_not_keep_a_job_from_the_next(fleet: Fleet) -> None:
    fleet.start_worker()
    for number in range(8):
        dead = Caller(fleet.redis, f"dead-{number}")
        dead.send(dead.make("claim", wait_ms=WAIT_MS))
    wait_for(lambda: fleet.redis.hlen("broker:waiting") == 8, "the dead ones wait")
    with Client.connect(fleet.redis_url, factory_id="living") as living, ThreadPoolExecutor() as pool:
        claim = pool.submit(living.claim, wait_ms=WAIT_MS)
        wait_for(lambda: fleet.redis.hlen("broker:waiting") == 9, "the living one waits")
        living.submit(job_id="a")
        grant = claim.result()
        assert (grant.granted, grant.body["epoch"]) == (True, 2)


def test_no_wake_up_is_missed_when_claims_and_jobs_come_at_the_same_moment(fleet: Fleet) -> None:
    # Two workers and no sweep: whoever is missed here is not found again within the wait.
    for _ in range(2):
        fleet.start_worker({"BROKER_LOG_LEVEL": "ERROR"})
    claimant, submitter = Caller(fleet.redis, "claimant"), Caller(fleet.redis, "submitter")
    for number in range(ROUNDS):
        claim = claimant.make("claim", wait_ms=WAIT_MS)
        submit = submitter.make("submit", job_id=f"job-{number}")
        # Which comes first is left to the two workers; the wires, to vary who is woken.
        claimant.send(claim, wire="intake" if number % 3 else "rq")
        submitter.send(submit, wire="intake" if number % 2 else "rq")
        assert claimant.replies(claim, deadline_ms=10_000)[0]["body"]["job_id"] == f"job-{number}"
        submitter.replies(submit)


def test_a_crowd_of_waiters_gets_one_job_each(fleet: Fleet) -> None:
    for _ in range(2):
        fleet.start_worker({"BROKER_LOG_LEVEL": "ERROR"})
    claimant, submitter = Caller(fleet.redis, "claimant"), Caller(fleet.redis, "submitter")
    claims = [claimant.make("claim", wait_ms=WAIT_MS) for _ in range(40)]
    claimant.send(*claims[:20])
    submitter.send(*(submitter.make("submit", job_id=f"job-{number}") for number in range(40)))
    claimant.send(*claims[20:])
    replies = claimant.replies(*claims)
    assert {reply["answer"] for reply in replies} == {"granted"}
    assert len({reply["body"]["job_id"] for reply in replies}) == 40


def test_a_wait_ends_by_itself_under_a_worker_without_a_sweep(fleet: Fleet) -> None:
    fleet.start_worker()
    assert Caller(fleet.redis).ask("claim", wait_ms=300)["answer"] == "none_available"
