"""What each rule writes and answers, whole: a field that is missing or misspelt breaks the wire or the store."""

from typing import Any

import pytest

from broker import transitions
from broker.answers import Answer, Reason, Word
from broker.controls import Drain, FactoryRecord
from broker.documents import Job, as_stored
from broker.transitions import Refuse, Replay, Write
from broker.transitions.factory import draining, turned_away
from tests.unit.decided import CANCEL, counters, ended, facts, raced, remembered, told, written
from tests.unit.jobs import EPOCH, NOW, RULES, TOKEN, fence, job, lease


def fail(found: Job, *, retryable: bool = True) -> transitions.Decision:
    options: dict[str, Any] = {"error": "broke", "result": {"n": 1}, "retryable": retryable, "jitter": 0.5}
    return transitions.fail(found, fence(), now_ms=NOW, rules=RULES, **options)


def test_complete() -> None:
    decision = transitions.complete(job("leased"), fence(), now_ms=NOW, result={"n": 1})
    changes = ended("succeeded", result={"n": 1}) | remembered("complete", "succeeded")
    assert decision == written(changes, told(epoch=EPOCH, state="succeeded"))


def test_a_failed_try_is_tried_again_until_its_cap() -> None:
    due_ms = NOW + RULES.backoff_base_ms
    changes = ended("failed", error="broke", result={"n": 1}) | counters(failures=2) | remembered("fail", "scheduled")
    assert fail(job("leased", **counters(failures=1), max_failures=3)) == written(
        {**changes, "not_before_ms": due_ms}, told(epoch=EPOCH, state="scheduled", not_before_ms=due_ms)
    )


@pytest.mark.parametrize(("failures", "retryable"), [(2, True), (0, False)])
def test_a_failure_at_the_cap_and_a_final_one_end_the_job(failures: int, retryable: bool) -> None:
    changes = ended("failed", error="broke", result={"n": 1}) | counters(failures=failures + 1)
    assert fail(job("leased", **counters(failures=failures)), retryable=retryable) == written(
        changes | remembered("fail", "failed"), told(epoch=EPOCH, state="failed")
    )


def test_a_failure_under_a_cancel_acknowledges_it() -> None:
    changes = ended("cancelled", error="broke", result={"n": 1}) | counters(failures=1)
    assert fail(job("leased", cancel=CANCEL)) == written(
        changes | remembered("fail", "cancelled"), told(epoch=EPOCH, state="cancelled")
    )


def test_release() -> None:
    decision = transitions.release(job("leased"), fence(), now_ms=NOW, reason="later")
    changes = ended("released", error="later") | counters(releases=1) | remembered("release", "ready")
    assert decision == written(changes, told(epoch=EPOCH, state="ready"))


def test_hand_over_reserves_the_job_for_a_ttl() -> None:
    decision = transitions.hand_over(job("leased"), fence(), now_ms=NOW, rules=RULES, to="mac-2", reason="yours")
    changes = ended("released", error="yours", handed_to="mac-2") | counters(releases=1)
    reserved = {"factory_id": "mac-2", "by": "holder", "until_ms": NOW + RULES.ttl_ms}
    assert decision == written(
        {**changes, "reserved": reserved} | remembered("hand_over", "ready"), told(epoch=EPOCH, state="ready")
    )


@pytest.mark.parametrize(("asked", "why"), [("stop", "stop"), (None, "later")])
@pytest.mark.parametrize("op", ["release", "hand_over"])
def test_giving_a_job_back_under_a_cancel_acknowledges_it(op: str, asked: str | None, why: str) -> None:
    found = job("leased", cancel={**CANCEL, "reason": asked})
    decision = (
        transitions.release(found, fence(), now_ms=NOW, reason="later")
        if op == "release"
        else transitions.hand_over(found, fence(), now_ms=NOW, rules=RULES, to="mac-2", reason="later")
    )
    changes = ended("cancelled", error=why) | counters(releases=1) | remembered(op, "cancelled")
    assert decision == written(changes, told(epoch=EPOCH, state="cancelled"))


def test_a_renewal_says_everything_a_holder_is_to_heed() -> None:
    factory = FactoryRecord(drain=Drain(since_ms=NOW, until_ms=NOW + 1, incarnation="start-1"))
    found = job("leased", cancel=CANCEL)
    decision = transitions.renew(found, fence(), now_ms=NOW, ttl_ms=5_000, paused=True, factory=factory)
    kept = found.lease
    assert kept is not None
    extended = {**kept.plain(), "ttl_ms": 5_000, "expires_ms": NOW + 5_000, "renewals": 1}
    body = {"job_id": "job", "epoch": EPOCH, "ttl_ms": 5_000, "expires_ms": NOW + 5_000}
    answer = Answer(Word.RENEWED, body={**body, "directives": ["cancel", "pause", "drain"]})
    assert decision == written({"lease": extended, "updated_ms": NOW}, answer)


def test_a_renewal_that_is_judged_by_an_earlier_time_does_not_shorten_the_lease() -> None:
    # A copy that was held up, while the holder renewed once more and counts on that (I9).
    found = job("leased", lease=lease(expires_ms=NOW + 60_000, renewals=1))
    decision = transitions.renew(found, fence(), now_ms=NOW - 8_000)
    assert isinstance(decision, Write)
    assert (decision.changes["lease"].expires_ms, decision.changes["lease"].renewals) == (NOW + 60_000, 2)
    assert decision.answer.body["expires_ms"] == NOW + 60_000


def test_a_renewal_of_a_job_that_is_over_says_how_it_ended() -> None:
    decision = transitions.renew(job("succeeded"), fence(), now_ms=NOW)
    body = facts("succeeded", outcome="succeeded")
    assert decision == Refuse(Answer(Word.LEASE_LOST, Reason.TERMINAL, body))


@pytest.mark.parametrize("op", ["complete", "fail", "release", "hand_over"])
def test_whoever_ends_a_job_that_is_over_is_told_so(op: str) -> None:
    found = job("failed")
    decision = {
        "complete": lambda: transitions.complete(found, fence(), now_ms=NOW, result=None),
        "fail": lambda: fail(found),
        "release": lambda: transitions.release(found, fence(), now_ms=NOW),
        "hand_over": lambda: transitions.hand_over(found, fence(), now_ms=NOW, rules=RULES, to="mac-2"),
    }[op]()
    assert decision == Refuse(Answer(Word.ALREADY_TERMINAL, body={"job_id": "job", "outcome": "failed"}))


def test_who_was_superseded_is_told_who_holds_the_job_and_for_how_long() -> None:
    decision = transitions.hand_over(job("leased"), fence(epoch=EPOCH - 1), now_ms=NOW, rules=RULES, to="mac-2")
    assert decision == Refuse(Answer(Word.LEASE_LOST, Reason.SUPERSEDED, facts("leased")))


def test_an_epoch_from_the_future_is_invalid() -> None:
    decision = transitions.release(job("leased"), fence(epoch=EPOCH + 1), now_ms=NOW)
    assert decision == Refuse(Answer(Word.INVALID, Reason.EPOCH_FROM_THE_FUTURE, facts("leased")))


def test_a_replay_says_what_the_request_had_done() -> None:
    entry = {"request_id": "request-1", "op": "release", "epoch": 2, "state": "ready"}
    decision = transitions.release(job("ready", recent_requests=[entry]), fence(), now_ms=NOW)
    body = {"job_id": "job", "op": "release", "epoch": 2, "state": "ready"}
    assert decision == Replay(Answer(Word.REPLAYED, body=body))


def test_undo_takes_back_its_own_grant_only() -> None:
    found = job("leased")
    decision = transitions.undo(found, epoch=EPOCH, request_id="claim-1", now_ms=NOW)
    answer = Answer(Word.CONFLICT, Reason.RACED, {"job_id": "job"})
    assert decision == written(ended("released") | {"state": "ready", "updated_ms": NOW}, answer)
    for epoch, request_id in ((EPOCH - 1, "claim-1"), (EPOCH, "claim-2")):
        assert transitions.undo(found, epoch=epoch, request_id=request_id, now_ms=NOW) == raced("leased")
    assert transitions.undo(job("ready"), epoch=EPOCH, request_id="claim-1", now_ms=NOW) == raced("ready")


def cancel(found: Job) -> transitions.Decision:
    return transitions.cancel(found, request_id="request-1", by="operator", now_ms=NOW, rules=RULES, reason="stop")


@pytest.mark.parametrize("state", ["blocked", "scheduled", "ready"])
def test_cancel_ends_a_waiting_job(state: str) -> None:
    changes = {"why": "stop"} | remembered("cancel", "cancelled")
    assert cancel(job(state)) == written(changes, told(epoch=EPOCH, state="cancelled"))


def test_cancel_asks_a_holder_to_stop_within_the_grace() -> None:
    asked = {"reason": "stop", "asked_ms": NOW, "enforce_ms": NOW + RULES.cancel_grace_ms}
    changes = {"cancel": asked} | remembered("cancel", "leased")
    assert cancel(job("leased")) == written(changes, told(epoch=EPOCH, state="leased"))


def test_a_cancel_that_is_asked_again_does_not_put_off_its_enforcement() -> None:
    asked = {"reason": "now", "asked_ms": NOW - 29_000, "enforce_ms": NOW + 1_000}
    again = cancel(job("leased", cancel=asked))
    changes = {"cancel": {**asked, "reason": "stop"}} | remembered("cancel", "leased")
    assert again == written(changes, told(epoch=EPOCH, state="leased"))


def test_cancel_of_a_job_that_is_over_says_how_it_ended() -> None:
    assert cancel(job("failed")) == Refuse(Answer(Word.ALREADY_TERMINAL, body={"job_id": "job", "outcome": "failed"}))


def test_a_waiting_job_gives_way_and_a_running_one_does_not() -> None:
    changes = {"state": "cancelled", "why": "newer", "updated_ms": NOW}
    assert transitions.give_way(job("ready"), why="newer", now_ms=NOW) == written(changes, told(state="cancelled"))
    refusal = Refuse(Answer(Word.CONFLICT, Reason.NOT_CANCELLABLE, facts("leased")))
    assert transitions.give_way(job("leased"), why="newer", now_ms=NOW) == refusal


def test_a_waiting_job_is_cancelled_for_a_newer_one_and_a_running_one_keeps_that_in_mind() -> None:
    changes = {"state": "cancelled", "why": "superseded by newer", "updated_ms": NOW, "gave_way_to": "newer"}
    assert transitions.supersede(job("ready"), by="newer", now_ms=NOW) == written(changes, told(state="cancelled"))
    for state in ("leased", "succeeded"):
        decision = transitions.supersede(job(state), by="newer", now_ms=NOW)
        assert decision == written({"superseded_by": "newer", "gave_way_to": "newer"}, told(state=state))


def test_a_job_that_gave_way_and_was_redriven_gives_way_to_another_but_not_to_the_same_again() -> None:
    replayed = Replay(Answer(Word.REPLAYED, body={"job_id": "job", "state": "ready"}))
    redriven = job("ready", gave_way_to="newer")
    assert transitions.supersede(redriven, by="newer", now_ms=NOW) == replayed
    assert isinstance(transitions.supersede(redriven, by="newest", now_ms=NOW), Write)
    assert transitions.supersede(redriven, by="newest", now_ms=NOW, anew=False) == replayed
    assert isinstance(transitions.supersede(job("ready"), by="newest", now_ms=NOW, anew=False), Write)


@pytest.mark.parametrize("asked", [None, CANCEL])
def test_a_superseded_job_that_loses_its_lease_is_over_and_names_the_newer_one(asked: dict[str, Any] | None) -> None:
    found = job("leased", superseded_by="newer", cancel=asked)
    decision = transitions.revoke(found, request_id="request-1", by="operator", now_ms=NOW, reason="mine")
    why = {"why": "superseded by newer"} if asked is None else {}
    changes = ended("revoked", error="mine") | counters(releases=1) | why | remembered("revoke", "cancelled")
    assert decision == written(changes, told(epoch=EPOCH, state="cancelled"))


def test_redrive_makes_a_job_new_but_for_its_epoch_and_releases() -> None:
    found = job("failed", **counters(3, 2, 1), timeout_ms=500, deadline_ms=NOW - 1, not_before_ms=NOW + 5, why="x")
    changes = counters(releases=1) | {"deadline_ms": NOW + 500, "not_before_ms": None, "why": None, "ready_ms": NOW}
    changes["superseded_by"] = None
    decision = transitions.redrive(found, request_id="request-1", by="operator", now_ms=NOW)
    assert decision == written(changes | remembered("redrive", "ready"), told(epoch=EPOCH, state="ready"))


@pytest.mark.parametrize("state", ["succeeded", "ready", "leased"])
def test_redrive_of_anything_but_a_failed_or_cancelled_job_is_refused(state: str) -> None:
    decision = transitions.redrive(job(state), request_id="request-1", by="operator", now_ms=NOW)
    assert decision == Refuse(Answer(Word.CONFLICT, Reason.NOT_REDRIVABLE, facts(state)))


@pytest.mark.parametrize("and_hold", [False, True])
@pytest.mark.parametrize("asked", [None, CANCEL])
def test_revoke_takes_the_lease(and_hold: bool, asked: dict[str, Any] | None) -> None:
    found = job("leased", cancel=asked)
    decision = transitions.revoke(
        found, request_id="request-1", by="operator", now_ms=NOW, reason="mine", and_hold=and_hold
    )
    state = "ready" if asked is None else "cancelled"
    hold = {"hold": {"reason": "mine", "since_ms": NOW}} if and_hold else {}
    changes = ended("revoked", error="mine") | counters(releases=1) | hold | remembered("revoke", state)
    assert decision == written(changes, told(epoch=EPOCH, state=state))


def test_revoke_of_a_job_nobody_holds_is_refused() -> None:
    decision = transitions.revoke(job("ready"), request_id="request-1", by="operator", now_ms=NOW, reason=None)
    assert decision == Refuse(Answer(Word.CONFLICT, Reason.NOT_LEASED, facts("ready")))


def test_hold_and_lift() -> None:
    held = transitions.hold(job("ready"), request_id="request-1", by="operator", now_ms=NOW, reason="wait")
    changes = {"hold": {"reason": "wait", "since_ms": NOW}} | remembered("hold", "ready")
    assert held == written(changes, told(epoch=EPOCH, state="ready"))
    lifted = transitions.lift(job("leased"), request_id="request-1", by="operator", now_ms=NOW)
    assert lifted == written({"hold": None} | remembered("lift", "leased"), told(epoch=EPOCH, state="leased"))


def test_a_factory_that_drains_is_told_why_and_until_when() -> None:
    drain = Drain(reason="night", since_ms=NOW - 1, until_ms=NOW + 2_000)
    body = {"why": "night", "since_ms": NOW - 1, "until_ms": NOW + 2_000}
    answer = Answer(Word.DRAINING, body=body, retry_after_ms=2_000)
    assert draining(drain, now_ms=NOW) == answer
    assert turned_away(FactoryRecord(drain=drain), "start-1", now_ms=NOW) == answer
    for_good = Drain(since_ms=NOW - 1)
    assert draining(for_good, now_ms=NOW).retry_after_ms == 5_000


def test_a_start_that_was_replaced_is_told_by_which() -> None:
    record = FactoryRecord(incarnation="start-2", since_ms=NOW, replaced=("start-1",))
    body = {"incarnation": "start-2", "since_ms": NOW, "reasons": ["restarted"]}
    assert turned_away(record, "start-1", now_ms=NOW) == Answer(Word.NOT_CLAIMABLE, Reason.RESTARTED, body)
    assert turned_away(record, "start-2", now_ms=NOW) is None


def test_a_grant_says_everything_its_holder_needs() -> None:
    found = job("ready", run_timeout_ms=700, deadline_ms=NOW + 900, ttl_ms=5_000, **counters(failures=2))
    who = transitions.Claimant("f", "i", "claim-9", TOKEN, instance="x")
    around = transitions.Surroundings(units=("key:gpu",))
    decision = transitions.claim(found, who, now_ms=NOW, rules=RULES, around=around)
    assert isinstance(decision, Write)
    granted = {"job_id": "job", "queue": "default", "epoch": EPOCH + 1, "token": TOKEN, "ttl_ms": 5_000}
    granted |= {"remaining_ms": 5_000, "expires_ms": NOW + 5_000, "deadline_ms": NOW + 900}
    assert decision.answer == Answer(Word.GRANTED, body={**granted, "run_deadline_ms": NOW + 700, "failures": 2})
    taken = {"factory_id": "f", "incarnation": "i", "epoch": EPOCH + 1, "token": TOKEN, "request_id": "claim-9"}
    taken |= {"granted_ms": NOW, "expires_ms": NOW + 5_000, "ttl_ms": 5_000}
    taken |= {"run_deadline_ms": NOW + 700, "limits": ("key:gpu",), "instance": "x"}
    assert as_stored(decision.changes) == {
        "state": "leased",
        "epoch": EPOCH + 1,
        "lease": taken,
        "not_before_ms": None,
        "last_run_id": f"job:run:{EPOCH + 1}",
        "updated_ms": NOW,
    }


def test_a_claim_of_a_factory_that_drains_is_told_of_the_job_and_of_the_drain() -> None:
    drain = Drain(reason="night", since_ms=NOW - 1, until_ms=NOW + 2_000, incarnation="i")
    who = transitions.Claimant("f", "i", "claim-9", TOKEN)
    around = transitions.Surroundings(factory=FactoryRecord(drain=drain))
    body = facts("ready", why="night", since_ms=NOW - 1, until_ms=NOW + 2_000)
    decision = transitions.claim(job("ready"), who, now_ms=NOW, rules=RULES, around=around)
    assert decision == Refuse(Answer(Word.DRAINING, body=body, retry_after_ms=2_000))


def test_a_resend_of_a_claim_whose_lease_is_over_is_told_how_the_job_stands() -> None:
    entry = {"request_id": "claim-9", "op": "claim", "epoch": 2, "state": "leased"}
    who = transitions.Claimant("f", "i", "claim-9", TOKEN)
    decision = transitions.claim(job("leased", recent_requests=[entry]), who, now_ms=NOW, rules=RULES)
    assert decision == Refuse(Answer(Word.REQUEST_EXPIRED, Reason.LEASE_OVER, facts("leased")))
