"""A store may show a document as it was, or not yet: what a caller has seen for itself is not doubted for that."""

from collections.abc import Callable
from typing import Any
from unittest.mock import patch

import pytest

from broker import claiming, coordinator, parents, repository, shared_document
from broker.answers import Answer, Word
from broker.controls import Controls
from broker.fence import Fence
from broker.repository import Stale
from broker.settlement import Context, Settlement
from broker.transitions import Claimant
from datastore import (
    Corrupt,
    DatastoreError,
    NotApplied,
    NotFound,
    OutcomeUnknown,
    ReadResult,
    Rejected,
    Throttled,
)
from tests.twins.stale import ShowsEarlier
from tests.unit.desk import NOW, Desk


@pytest.fixture
def desk() -> Desk:
    made = Desk()
    made.submit()
    return made


Act = Callable[[Context, Fence], Settlement]
OF_A_HOLDER: dict[str, tuple[Act, Word]] = {
    "renew": (lambda context, fence: coordinator.renew(context, "job", fence, now_ms=NOW), Word.RENEWED),
    "complete": (lambda context, fence: coordinator.complete(context, "job", fence, now_ms=NOW), Word.OK),
    "fail": (lambda context, fence: coordinator.fail(context, "job", fence, now_ms=NOW), Word.OK),
    "release": (lambda context, fence: coordinator.release(context, "job", fence, now_ms=NOW), Word.OK),
    "hand over": (lambda context, fence: coordinator.hand_over(context, "job", fence, now_ms=NOW, to="g"), Word.OK),
    "progress": (
        lambda context, fence: coordinator.report_progress(context, "job", fence, now_ms=NOW, progress=1),
        Word.OK,
    ),
}


@pytest.mark.parametrize("times", [1, shared_document.REREADS_MAX])
@pytest.mark.parametrize("shown", ["as it was before the grant", "not yet"])
@pytest.mark.parametrize("name", OF_A_HOLDER)
def test_a_holder_is_not_turned_away_by_a_read_that_shows_less_than_it_has_seen(
    desk: Desk, name: str, shown: str, times: int
) -> None:
    act, word = OF_A_HOLDER[name]
    was: ReadResult = desk.store.read("job", "job") if shown == "as it was before the grant" else NotFound()
    fence = desk.claim()
    with patch.object(shared_document, "REREADS_MAX", 0):  # the twin: the first read counts
        refused = act(desk.on(ShowsEarlier(desk.store, "job", was, times=times)), fence)
    assert refused.answer.word in (Word.INVALID, Word.NOT_FOUND)
    assert act(desk.on(ShowsEarlier(desk.store, "job", was, times=times)), fence).answer.word is word


REDRIVEN = ("cancel", "revoke", "redrive")


@pytest.mark.parametrize("shown", ["as it was", "not yet"])
@pytest.mark.parametrize("op", REDRIVEN)
def test_an_operator_is_not_refused_for_what_a_read_shows_as_it_was(desk: Desk, op: str, shown: str) -> None:
    fence = desk.claim()
    was: ReadResult = desk.store.read("job", "job")  # leased: it can't be redriven
    coordinator.fail(desk.context, "job", fence, now_ms=NOW, retryable=False)
    if op != "redrive":
        was = desk.store.read("job", "job")  # over: it can't be cancelled or revoked
        desk.ask("redrive", job_id="job")
        desk.claim()
    behind = ShowsEarlier(desk.store, "job", was if shown == "as it was" else NotFound(), times=1)
    assert desk.ask(op, store=behind, job_id="job").answer.word is Word.OK


@pytest.mark.parametrize("policy", ["cancel", "ignore"])
def test_a_child_does_not_go_by_the_end_of_a_parent_that_was_redriven(desk: Desk, policy: str) -> None:
    coordinator.fail(desk.context, "job", desk.claim(), now_ms=NOW, retryable=False)
    was = desk.store.read("job", "job")
    desk.ask("redrive", job_id="job")
    desk.submit("child", depends_on=["job"], on_parent_failure=policy)
    behind = desk.on(ShowsEarlier(desk.store, "job", was, times=2))
    with patch.object(parents, "_as_it_stands", lambda _, read: read):  # the twin: what reads show counts
        changed = coordinator.unblock(desk.on(ShowsEarlier(desk.store, "job", was, times=2)), "child", now_ms=NOW)
        assert [change.after.state for change in changed.changes] == ["cancelled" if policy == "cancel" else "ready"]
    desk.submit("another", depends_on=["job"], on_parent_failure=policy)
    coordinator.unblock(behind, "another", now_ms=NOW)
    assert desk.job("another").state == "blocked"


def test_a_run_that_got_on_is_not_taken_for_stuck_where_a_read_shows_it_as_it_was(desk: Desk) -> None:
    desk.submit("slow", stuck_after_ms=60_000, on_stuck="revoke")
    fence = desk.claim("slow")
    was = desk.store.read("slow:run:1", "slow")
    coordinator.renew(desk.context, "slow", fence, now_ms=NOW + 50_000)
    coordinator.report_progress(desk.context, "slow", fence, now_ms=NOW + 50_000, progress=1)
    behind = desk.on(ShowsEarlier(desk.store, "slow:run:1", was, times=1))
    coordinator.watch(behind, desk.job("slow"), now_ms=NOW + 61_000)
    assert desk.job("slow").lease is not None
    coordinator.watch(desk.context, desk.job("slow"), now_ms=NOW + 111_000)
    assert desk.job("slow").lease is None


def test_an_epoch_that_the_job_never_had_is_told_so_after_a_few_looks(desk: Desk) -> None:
    fence = desk.claim()
    forged = Fence(fence.factory_id, fence.epoch + 1, fence.token, "forged")
    answer = coordinator.renew(desk.context, "job", forged, now_ms=NOW).answer
    assert (answer.word, answer.reason) == (Word.INVALID, "epoch_from_the_future")


def claim(context: Context, request_id: str = "r1") -> Settlement:
    who = Claimant(factory_id="f", incarnation="s", request_id=request_id, token="t" * 32)
    return coordinator.try_claim_job(context, "job", who, now_ms=NOW)


@pytest.mark.parametrize("start", [None, "start-1"], ids=["every start", "the start that stops"])
def test_a_hand_over_is_not_refused_for_a_drain_that_is_over(desk: Desk, start: str | None) -> None:
    desk.ask("register_factory", by="g")
    desk.ask("drain_factory", factory="g", incarnation=start)
    was = desk.store.read("factory:g", "factory:g")
    if start is None:
        desk.ask("resume_factory", factory="g")
    else:
        desk.ask("register_factory", by="g", start="start-2", now_ms=NOW + 1)
    fence = desk.claim()
    behind = ShowsEarlier(desk.store, "factory:g", was, times=1)
    assert coordinator.hand_over(desk.on(behind), "job", fence, now_ms=NOW + 1, to="g").answer.word is Word.OK


def test_a_grant_whose_spec_no_read_shows_yet_is_not_called_invalid_and_is_told_when_asked_again(desk: Desk) -> None:
    hidden = desk.on(ShowsEarlier(desk.store, "job:spec", NotFound(), times=1))
    granted = claim(hidden)
    assert granted.answer.word is Word.OUTCOME_UNKNOWN
    assert [change.after.state for change in granted.changes] == ["leased"], "events tell of it"
    told = claim(hidden).answer
    assert (told.word, told.body["epoch"]) == (Word.REPLAYED, desk.job().epoch)


def test_a_grant_that_a_read_shows_though_it_is_over_is_not_told_again(desk: Desk) -> None:
    assert a_grant_that_went_to_another_meanwhile(desk).word is Word.REQUEST_EXPIRED


def test_where_the_read_alone_decides_two_are_told_that_they_hold_the_job(desk: Desk) -> None:
    # The twin of the test above.
    with patch.object(claiming, "_still_granted", lambda _context, settled, *_: settled):
        assert a_grant_that_went_to_another_meanwhile(desk).word is Word.REPLAYED


def a_grant_that_went_to_another_meanwhile(desk: Desk) -> Answer:
    """What its request is told, where a read still shows it."""
    assert claim(desk.context).answer.word is Word.GRANTED
    was = desk.store.read("job", "job")
    assert desk.ask("revoke", job_id="job").answer.good
    desk.claim(by="g")
    return claim(desk.on(ShowsEarlier(desk.store, "job", was, times=1))).answer


@pytest.mark.parametrize("failure", [Throttled("429", retry_after_ms=10), Rejected("403"), OutcomeUnknown("?")])
def test_a_grant_that_can_t_be_told_again_now_is_not_denied(desk: Desk, failure: DatastoreError) -> None:
    assert claim(desk.context).answer.word is Word.GRANTED
    with patch.object(repository, "rev_update_lease", side_effect=failure), pytest.raises(OutcomeUnknown):
        claim(desk.context)
    with patch.object(repository, "rev_update_lease", return_value=Stale(None)), pytest.raises(OutcomeUnknown):
        claim(desk.context)
    assert claim(desk.context).answer.word is Word.REPLAYED


def test_where_a_missing_spec_is_taken_for_a_corrupt_job_a_grant_stands_that_its_holder_never_hears_of(
    desk: Desk,
) -> None:
    hidden = desk.on(ShowsEarlier(desk.store, "job:spec", NotFound(), times=1))
    with (
        patch.object(repository, "Unavailable", Corrupt),
        patch.object(claiming, "DatastoreError", NotApplied),
        pytest.raises(Corrupt),
    ):
        claim(hidden)
    assert desk.job().lease is not None


def pauses(desk: Desk) -> bool:
    return Controls(desk.store).queue("q").pause is not None


def works(desk: Desk) -> bool:
    return Controls(desk.store).factory("g").drain is None


def rests(desk: Desk) -> bool:
    [shown] = desk.ask("list_schedules", name="tick").answer.body["schedules"]
    return bool(shown["state"] == "paused")


ASKED_TWICE: dict[str, tuple[str, dict[str, Any], dict[str, Any], Callable[[Desk], bool]]] = {
    "pause_queue": ("fleet:controls", {"queue": "q"}, {"op": "resume_queue", "queue": "q"}, pauses),
    "resume_factory": ("factory:g", {"factory": "g"}, {"op": "drain_factory", "factory": "g"}, works),
    "change_schedule": (
        "schedule:tick",
        {"name": "tick", "to": "paused"},
        {"op": "change_schedule", "name": "tick", "to": "active"},
        rests,
    ),
}


@pytest.mark.parametrize("op", ASKED_TWICE)
def test_what_an_operator_asks_for_is_so_though_a_read_shows_that_it_was_so_before(desk: Desk, op: str) -> None:
    document, asked, undone, stands = ASKED_TWICE[op]
    desk.ask("put_schedule", name="tick", cron="* * * * *", job={})
    desk.ask("register_factory", by="g")
    assert desk.ask(op, **asked).answer.good
    was = desk.store.read(document, document)
    assert desk.ask(**undone).answer.good
    assert not stands(desk)
    assert desk.ask(op, store=ShowsEarlier(desk.store, document, was, times=2), **asked).answer.good
    assert stands(desk)
