"""What time does to a job: each rule's decision, whole."""

from typing import Any

import pytest
from msgspec import structs

from broker import transitions
from broker.answers import Answer, Reason, Word
from broker.clock import SET_BACK_MS
from broker.controls import FactoryRecord
from broker.documents import Job, State
from broker.transitions import Refuse, Write
from tests.unit.decided import CANCEL, STARTED, counters, ended, raced, told, written
from tests.unit.jobs import NOW, RULES, job, lease


def by_itself(changes: dict[str, Any], state: str) -> Write:
    """What time does to a job."""
    return written({**changes, "state": state, "updated_ms": NOW}, told(state=state))


DEAD = {"expires_ms": NOW - RULES.skew_ms - 1}


@pytest.mark.parametrize(
    ("fields", "state", "why"),
    [
        ({"max_expiries": 3}, "ready", {}),
        ({"max_expiries": 2}, "failed", {"why": "leases expired: 2"}),
        ({"max_expiries": 2, "cancel": CANCEL}, "cancelled", {}),
    ],
)
def test_a_dead_lease_is_reaped(fields: dict[str, Any], state: str, why: dict[str, Any]) -> None:
    found = job("leased", lease=lease(**DEAD), **counters(expiries=1), **fields)
    expected = by_itself(ended("expired") | counters(expiries=2) | why, state)
    assert transitions.reap(found, now_ms=NOW, rules=RULES) == expected


def test_a_lease_that_may_still_be_believed_in_is_not_reaped() -> None:
    believed = job("leased", lease=lease(expires_ms=NOW - RULES.skew_ms))
    assert transitions.reap(believed, now_ms=NOW, rules=RULES) == raced("leased", remaining_ms=0)
    assert transitions.reap(job("ready"), now_ms=NOW, rules=RULES) == raced("ready")


@pytest.mark.parametrize("left_ms", [30_000, 0, -5])
def test_a_lease_from_before_broker_time_was_set_back_stands_as_long_as_it_was_to_stand_then(left_ms: int) -> None:
    then = NOW + SET_BACK_MS + 1
    found = job("leased", lease=lease(expires_ms=then + left_ms), updated_ms=then)
    assert found.lease is not None
    kept = structs.replace(found.lease, expires_ms=NOW + max(0, left_ms))
    assert transitions.anchor(found, now_ms=NOW) == by_itself({"lease": kept}, State.LEASED)


def test_a_run_and_a_cancel_from_before_broker_time_was_set_back_take_as_long_as_they_were_to_take_then() -> None:
    then = NOW + SET_BACK_MS + 1
    began = {"granted_ms": then - 9, "run_deadline_ms": then - 9 + 5_000, "expires_ms": then}
    cancel = {"reason": None, "asked_ms": then - 7, "enforce_ms": then - 7 + 4_000}
    found = job("leased", lease=lease(**began), cancel=cancel, updated_ms=then)
    assert found.lease is not None
    kept = structs.replace(found.lease, expires_ms=NOW, run_deadline_ms=NOW + 5_000)
    assert transitions.anchor(found, now_ms=NOW) == by_itself(
        {"lease": kept, "cancel": {**cancel, "enforce_ms": NOW + 4_000}}, State.LEASED
    )


def test_a_run_and_a_cancel_from_before_broker_time_jumped_ahead_end_when_they_were_to() -> None:
    then = NOW + SET_BACK_MS + 1
    began = {"granted_ms": NOW - 9, "run_deadline_ms": NOW + 5_000, "expires_ms": then}
    found = job("leased", lease=lease(**began), cancel={**CANCEL, "enforce_ms": NOW + 4_000}, updated_ms=then)
    decision = transitions.anchor(found, now_ms=NOW)
    assert isinstance(decision, Write)
    assert decision.changes["lease"].run_deadline_ms == NOW + 5_000
    assert decision.changes["cancel"].enforce_ms == NOW + 4_000


def test_a_retry_and_a_reservation_from_before_broker_time_was_set_back_wait_no_longer_than_they_were_to() -> None:
    then = NOW + SET_BACK_MS + 1
    retried = job("scheduled", not_before_ms=then + 300, updated_ms=then)
    assert transitions.anchor(retried, now_ms=NOW) == by_itself({"not_before_ms": NOW + 300}, State.SCHEDULED)
    kept = {"factory_id": "heir", "by": "giver", "until_ms": then + 60_000}
    handed_over = job("ready", reserved=kept, updated_ms=then)
    assert transitions.anchor(handed_over, now_ms=NOW) == by_itself(
        {"reserved": {**kept, "until_ms": NOW + 60_000}}, State.READY
    )


def test_what_was_submitted_to_begin_at_some_time_begins_then_though_broker_time_was_set_back() -> None:
    then = NOW + SET_BACK_MS + 1
    found = job("scheduled", epoch=0, not_before_ms=then + 300, updated_ms=then)
    assert transitions.anchor(found, now_ms=NOW) == Refuse(
        Answer(Word.CONFLICT, Reason.RACED, {"job_id": "job", "state": "scheduled", "epoch": 0})
    )


def test_a_lease_that_a_faster_worker_wrote_or_that_is_none_stays() -> None:
    found = job("leased", updated_ms=NOW + SET_BACK_MS)
    assert transitions.anchor(found, now_ms=NOW) == raced("leased")
    assert transitions.anchor(job("ready", updated_ms=NOW + 2 * SET_BACK_MS), now_ms=NOW) == raced("ready")


def test_a_lease_of_a_start_that_is_over_is_ended_and_one_of_the_present_start_is_not() -> None:
    later = FactoryRecord(incarnation="start-2", since_ms=NOW, replaced=("start-1",))
    assert transitions.outlive(job("leased"), "holder", later, now_ms=NOW) == by_itself(
        ended("expired") | counters(expiries=1), "ready"
    )
    same = FactoryRecord(incarnation="start-1", since_ms=NOW)
    assert transitions.outlive(job("leased"), "holder", same, now_ms=NOW) == raced("leased")
    younger = FactoryRecord(incarnation="start-2", since_ms=STARTED - 1)
    assert transitions.outlive(job("leased"), "holder", younger, now_ms=NOW) == raced("leased")
    assert transitions.outlive(job("ready"), "holder", later, now_ms=NOW) == raced("ready")
    assert transitions.outlive(job("leased"), "another", later, now_ms=NOW) == raced("leased")


def test_a_cancel_is_enforced_once_its_grace_is_over() -> None:
    over, last = job("leased", cancel=CANCEL), job("leased", cancel={**CANCEL, "enforce_ms": NOW})
    assert transitions.enforce_cancel(over, now_ms=NOW) == by_itself(ended("cancelled", error="stop"), "cancelled")
    assert transitions.enforce_cancel(last, now_ms=NOW) == raced("leased")
    assert transitions.enforce_cancel(job("leased"), now_ms=NOW) == raced("leased")


def test_a_job_fails_once_its_deadline_is_over_whether_it_runs_or_waits() -> None:
    over = {"deadline_ms": NOW - 1}
    why = {"why": "its deadline was over"}
    running = by_itself(why | ended("timed_out") | counters(failures=1), "failed")
    assert transitions.time_out(job("leased", **over), now_ms=NOW) == running
    assert transitions.time_out(job("ready", **over), now_ms=NOW) == by_itself(why, "failed")
    assert transitions.time_out(job("ready", deadline_ms=NOW), now_ms=NOW) == raced("ready")
    assert transitions.time_out(job("succeeded", **over), now_ms=NOW) == raced("succeeded")


def end_run(found: Job) -> transitions.Decision:
    return transitions.end_run(found, now_ms=NOW, rules=RULES, jitter=0.5)


def test_a_run_that_takes_too_long_is_a_failed_try() -> None:
    due_ms = NOW + RULES.backoff_base_ms // 2
    long = ended("timed_out", error="its run took more than 58999 ms") | counters(failures=1)
    assert end_run(job("leased", lease=lease(run_deadline_ms=NOW - 1))) == by_itself(
        long | {"not_before_ms": due_ms}, "scheduled"
    )
    assert end_run(job("leased", lease=lease(run_deadline_ms=NOW))) == raced("leased")
    assert end_run(job("leased")) == raced("leased")


def heed(found: Job, progress_ms: int | None = None) -> transitions.Decision:
    return transitions.heed_progress(found, progress_ms=progress_ms, now_ms=NOW, rules=RULES, jitter=0.5)


def test_a_run_without_progress_is_flagged_and_unflagged_when_it_makes_some() -> None:
    patient = {"stuck_after_ms": 1_000}
    quiet, flagged = job("leased", **patient), job("leased", lease=lease(stuck_ms=NOW - 5_000), **patient)
    assert quiet.lease is not None
    assert flagged.lease is not None
    assert heed(quiet) == by_itself({"lease": {**quiet.lease.plain(), "stuck_ms": STARTED}}, "leased")
    assert heed(quiet, NOW - 1_001) == by_itself({"lease": {**quiet.lease.plain(), "stuck_ms": NOW - 1_001}}, "leased")
    assert heed(quiet, NOW - 1_000) == raced("leased")
    assert heed(flagged) == raced("leased"), "it is known"
    assert heed(flagged, NOW - 1) == by_itself({"lease": {**flagged.lease.plain(), "stuck_ms": None}}, "leased")
    assert heed(job("leased")) == raced("leased")
    assert heed(job("ready", **patient)) == raced("ready")


def test_a_run_without_progress_is_ended_where_the_job_says_so() -> None:
    found = job("leased", stuck_after_ms=1_000, on_stuck="revoke")
    changes = ended("revoked", error="stuck: no progress for 5000 ms") | counters(failures=1)
    due_ms = NOW + RULES.backoff_base_ms // 2
    assert heed(found, NOW - 5_000) == by_itself({**changes, "not_before_ms": due_ms}, "scheduled")


def test_a_scheduled_job_is_ready_once_it_is_due() -> None:
    due = by_itself({"not_before_ms": None, "ready_ms": NOW}, "ready")
    assert transitions.due(job("scheduled", not_before_ms=NOW), now_ms=NOW) == due
    assert transitions.due(job("scheduled"), now_ms=NOW) == due
    assert transitions.due(job("scheduled", not_before_ms=NOW + 1), now_ms=NOW) == raced("scheduled")
    assert transitions.due(job("ready"), now_ms=NOW) == raced("ready")


def unblock(parents: dict[str, State], **fields: Any) -> transitions.Decision:
    return transitions.unblock(job("blocked", depends_on=["a", "b"], **fields), parents=parents, now_ms=NOW)


SUCCEEDED = {"a": State.SUCCEEDED, "b": State.SUCCEEDED}


def test_a_blocked_job_is_freed_by_its_last_parent() -> None:
    freed = by_itself({"ready_ms": NOW}, "ready")
    assert unblock(SUCCEEDED) == freed
    assert unblock(SUCCEEDED, not_before_ms=NOW) == freed
    assert unblock(SUCCEEDED, not_before_ms=NOW + 1) == by_itself({}, "scheduled")
    assert unblock({"a": State.SUCCEEDED}) == raced("blocked")
    assert unblock({**SUCCEEDED, "b": State.FAILED}) == raced("blocked")
    assert transitions.unblock(job("ready"), parents={}, now_ms=NOW) == raced("ready")


@pytest.mark.parametrize(
    ("state", "why"), [(State.FAILED, "its parent b failed"), (State.CANCELLED, "its parent b was cancelled")]
)
def test_a_parent_that_fails_is_ignored_or_ends_its_children_where_they_say_so(state: State, why: str) -> None:
    parents = {**SUCCEEDED, "b": state}
    assert unblock(parents, on_parent_failure="cancel") == by_itself({"why": why}, "cancelled")
    assert unblock(parents, on_parent_failure="ignore") == by_itself({"ready_ms": NOW}, "ready")
    assert unblock({"a": State.SUCCEEDED}, on_parent_failure="cancel") == raced("blocked")
