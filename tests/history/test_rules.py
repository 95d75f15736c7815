"""What the checker finds wrong, and what it leaves alone, one rule after the other."""

from typing import Any

import pytest

from tests.history.telling import Story, claimed


def test_an_ordinary_life_is_clean() -> None:
    story = claimed()
    story.hold("renew", 1, 4, 5, answer="renewed")
    story.hold("complete", 1, 6, 7)
    report = story.check(drained=True)
    assert report.violations == ()
    assert (report.calls, report.jobs, report.grants, report.unknown) == (4, 1, 1, 0)
    assert (report.totals.submitted, report.totals.completed, report.totals.lost) == (1, 1, 0)


def test_one_epoch_with_two_holders_names_both_grants() -> None:
    story = claimed()
    second = story.grant(1, 2, 3, by="b", token="other")
    [violation] = story.check().violations
    assert (violation.rule, violation.job, violation.epoch) == ("two_holders", "j", 1)
    assert violation.second is second


def test_a_holder_accepted_with_a_token_nobody_was_given_is_a_second_holder() -> None:
    story = claimed()
    story.hold("renew", 1, 4, 5, token="forged")
    assert story.rules() == ["two_holders"]


def test_an_epoch_that_was_reset_is_out_of_order() -> None:
    story = claimed()
    story.hold("release", 1, 4, 5)
    story.grant(2, 6, 7, by="b")
    story.hold("release", 2, 8, 9, by="b")
    story.grant(1, 10, 11, by="c", token="again")
    assert story.rules() == ["epoch_order", "two_holders"]


@pytest.mark.parametrize(
    ("op", "told"),
    [
        ("claim", {"epoch": 0, "token": "t"}),
        ("claim", {"token": "t"}),
        ("renew", {"epoch": 0, "token": "t"}),
        ("complete", {"epoch": 0, "token": "t", "state": "succeeded"}),
        ("revoke", {"state": "ready"}),
        ("cancel", {"epoch": 0, "state": "leased"}),
        ("get_job", {"seen": 0, "state": "leased"}),
        ("list_jobs", {"seen": 0, "state": "succeeded"}),
    ],
)
def test_nobody_has_or_had_a_lease_before_the_first_epoch(op: str, told: dict[str, Any]) -> None:
    story = Story()
    story.submit(0, 1)
    tells = story.call(op, 2, 3, answer="ok", **told)
    [violation] = story.check().violations
    assert (violation.rule, violation.epoch, violation.records) == ("epoch_order", 0, (tells,))


def test_a_job_that_was_never_leased_is_held_lifted_cancelled_and_redriven_at_epoch_0() -> None:
    story = Story()
    story.submit(0, 1)
    for moment, (op, state) in enumerate(
        [("hold", "ready"), ("lift", "ready"), ("cancel", "cancelled"), ("hold", "cancelled"), ("redrive", "ready")]
    ):
        story.call(op, 2 + 2 * moment, 3 + 2 * moment, epoch=0, answer="ok", state=state)
    story.refused("claim", 20, 21, by="b", answer="not_claimable", seen=0, state="ready")
    story.grant(1, 22, 23)
    assert story.rules() == []


@pytest.mark.parametrize("op", ["renew", "complete"])
def test_nothing_of_a_holder_takes_effect_before_its_grant(op: str) -> None:
    story = Story()
    story.submit(0, 1)
    story.hold(op, 1, 2, 3)
    story.grant(1, 4, 5)
    assert story.rules() == ["stale_effect"]


def test_an_operators_answer_without_an_epoch_is_of_a_job_never_leased() -> None:
    story = claimed()
    story.call("hold", 4, 5, answer="ok", state="ready")
    assert story.rules() == ["epoch_order"]


def test_a_lower_epoch_granted_later_is_out_of_order_even_where_the_higher_one_was_only_seen() -> None:
    story = claimed()
    story.refused("renew", 4, 5, epoch=1, token="t1", answer="lease_lost", seen=3, state="leased")
    story.grant(2, 6, 7, by="b")
    assert story.rules() == ["epoch_order"]


def test_grants_that_overlap_in_time_may_have_happened_in_either_order() -> None:
    story = Story()
    story.grant(2, 0, 10, by="b")
    story.grant(1, 5, 6)
    assert story.rules() == []


def test_an_epoch_nobody_was_told_of_may_be_left_out() -> None:
    story = claimed()
    story.grant(4, 10, 11, by="b")
    assert story.rules() == []


def test_a_stale_holder_that_is_heard_is_named_with_the_grant_that_superseded_it() -> None:
    story = claimed()
    later = story.grant(2, 10, 11, by="b")
    stale = story.hold("complete", 1, 12, 13)
    found = {violation.rule.value: violation for violation in story.check().violations}
    assert found["stale_effect"].records == (later, stale)


def test_a_renewal_after_the_release_of_its_lease_is_stale() -> None:
    story = claimed()
    story.hold("release", 1, 4, 5)
    story.hold("renew", 1, 6, 7, answer="renewed")
    assert story.rules() == ["stale_effect"]


def test_a_renewal_after_its_lease_was_seen_to_be_over_is_stale() -> None:
    story = claimed()
    story.refused("claim", 4, 5, by="b", answer="not_claimable", seen=1, state="ready")
    story.hold("progress", 1, 6, 7)
    assert story.rules() == ["stale_effect"]


def test_what_is_seen_may_be_stale_and_accuses_nobody_of_what_came_before() -> None:
    story = claimed()
    story.grant(2, 10, 11, by="b")
    story.refused("claim", 20, 21, by="c", answer="conflict", seen=1, state="leased")
    assert story.rules() == []


def test_two_completions_of_one_lease_are_one_too_many() -> None:
    story = claimed()
    story.hold("complete", 1, 4, 5)
    story.hold("complete", 1, 6, 7)
    assert story.rules() == ["two_completions"]
    assert story.check().totals.duplicated == 1


def test_two_completions_at_different_epochs_are_one_too_many() -> None:
    story = claimed()
    story.hold("complete", 1, 4, 5)
    story.hold("complete", 2, 6, 7, by="b")
    assert story.rules() == ["two_completions"]


def test_nothing_is_granted_after_success() -> None:
    story = claimed()
    story.hold("complete", 1, 4, 5)
    story.grant(2, 6, 7, by="b")
    assert story.rules() == ["granted_after_terminal"]


def test_a_redrive_of_a_job_that_succeeded_is_wrong() -> None:
    story = claimed()
    story.hold("complete", 1, 4, 5)
    story.call("redrive", 6, 7, epoch=1, answer="ok", state="ready")
    assert story.rules() == ["granted_after_terminal"]


def test_nothing_is_granted_after_a_final_failure_without_a_redrive() -> None:
    story = claimed()
    story.hold("fail", 1, 4, 5, state="failed")
    story.grant(2, 6, 7, by="b")
    assert story.rules() == ["granted_after_terminal"]


def test_a_redrive_lets_a_failed_job_be_granted_again() -> None:
    story = claimed()
    story.hold("fail", 1, 4, 5, state="failed")
    story.call("redrive", 6, 7, epoch=1, answer="ok", state="ready")
    story.grant(2, 8, 9, by="b")
    assert story.rules() == []


def test_a_redrive_whose_outcome_is_unknown_may_be_why_a_cancelled_job_is_granted() -> None:
    story = claimed()
    story.hold("release", 1, 4, 5, state="cancelled")
    story.call("redrive", 6, None)
    story.grant(2, 8, 9, by="b")
    assert story.rules() == []


def test_a_redrive_sent_after_the_grant_explains_nothing() -> None:
    story = claimed()
    story.call("cancel", 4, 5, epoch=0, answer="ok", state="cancelled")
    story.grant(1, 6, 7, by="b")
    story.call("redrive", 8, None)
    assert story.rules() != []


def test_one_unknown_redrive_explains_one_return_only() -> None:
    story = claimed()
    story.hold("fail", 1, 4, 5, state="failed")
    story.call("redrive", 6, None)
    story.grant(2, 8, 9, by="b")
    story.hold("fail", 2, 10, 11, by="b", state="failed")
    story.grant(3, 12, 13, by="c")
    assert story.rules() == ["granted_after_terminal"]


def test_a_terminal_state_that_was_only_seen_counts() -> None:
    story = claimed()
    story.call("get_job", 4, 5, answer="ok", seen=1, state="failed")
    story.grant(2, 6, 7, by="b")
    assert story.rules() == ["granted_after_terminal"]


def test_a_resent_claim_with_another_epoch_was_answered_twice() -> None:
    story = claimed()
    story.grant(2, 6, 7, request="r2", answer="granted")
    assert story.rules() == ["answered_twice"]


def test_a_resent_claim_with_another_token_was_answered_twice() -> None:
    story = claimed()
    story.grant(1, 6, 7, request="r2", answer="replayed", token="another")
    assert "answered_twice" in story.rules()


def test_a_resent_claim_with_the_same_grant_is_clean() -> None:
    story = claimed()
    story.grant(1, 6, 7, request="r2", answer="replayed")
    assert story.rules() == []
    assert story.check().grants == 1


def test_a_resend_may_be_answered_for_a_grant_that_is_over_already() -> None:
    story = claimed()
    story.grant(2, 6, 7, by="b")
    story.grant(1, 8, 9, request="r2", answer="replayed")
    assert story.rules() == []


def test_the_effect_of_a_resent_request_may_be_its_first_copys() -> None:
    story = Story()
    story.submit(0, 1)
    story.call("claim", 2, None, request="r")
    story.grant(2, 4, 5, by="b")
    story.grant(1, 8, 9, request="r", answer="replayed")
    assert story.rules() == []


def test_after_nine_other_requests_a_job_may_have_forgotten_one() -> None:
    story = claimed()
    story.call("hold", 4, 5, request="h", epoch=1, answer="ok", state="leased")
    for number in range(9):
        story.call("lift", 10 + 2 * number, 11 + 2 * number, epoch=1, answer="ok", state="leased")
    story.hold("release", 1, 40, 41)
    story.call("hold", 50, 51, request="h", epoch=1, answer="ok", state="ready")
    assert story.rules() == []


def test_claims_that_others_were_refused_make_a_job_forget_nothing() -> None:
    story = claimed()
    for number in range(9):
        story.refused("claim", 4 + number, 20, by=f"other-{number}", answer="conflict", seen=1, state="leased")
    story.hold("release", 1, 21, 22)
    story.grant(2, 30, 31, request="r2")
    assert story.rules() == ["answered_twice"]


def test_two_factories_may_use_the_same_request_id() -> None:
    story = claimed()
    story.hold("fail", 1, 4, 5, request="done")
    story.grant(2, 6, 7, by="b")
    story.hold("fail", 2, 8, 9, by="b", request="done", state="failed")
    story.call("redrive", 10, 11, request="again", epoch=2, answer="ok", state="ready")
    story.grant(3, 12, 13)
    story.hold("fail", 3, 14, 15, state="failed")
    story.call("redrive", 16, None, by="b", request="again")
    story.grant(4, 20, 21)
    assert story.rules() == []


def test_another_factory_that_used_a_request_id_before_hides_no_stale_renewal_under_it() -> None:
    story = claimed()
    story.hold("release", 1, 4, 5)
    story.grant(2, 6, 7, by="b")
    story.call("claim", 0, 1, by="c", job=None, type="refused", request="again", answer="none_available")
    story.hold("renew", 1, 50, 51, request="again", answer="renewed")
    assert story.rules() == ["stale_effect"]


def test_a_request_id_used_again_under_a_later_lease_is_told_what_it_did_under_the_first() -> None:
    story = claimed()
    story.hold("release", 1, 4, None, request="done")
    story.grant(2, 6, 7)
    told = story.hold("release", 1, 8, 9, request="done", answer="replayed", did="release", token="t2")
    assert story.rules() == []
    told.factory = "b"
    assert story.rules() == ["stale_effect", "two_holders"]


def test_two_submissions_can_t_both_have_created_a_job() -> None:
    story = Story()
    story.submit(0, 1)
    story.submit(2, 3)
    assert story.rules() == ["created_twice"]


def test_a_job_that_was_granted_before_it_was_submitted_is_out_of_order() -> None:
    story = Story()
    story.grant(1, 0, 1)
    story.submit(2, 3)
    assert story.rules() == ["epoch_order"]


def test_times_of_several_machines_are_not_compared_but_holders_are() -> None:
    story = claimed()
    for clock in ("here", "there"):
        story.records.append(story.records[0].__class__(type="start", at=0, client=clock, clock=clock))
    story.hold("release", 1, 4, 5)
    story.hold("renew", 1, 6, 7, answer="renewed")
    assert story.rules() == []
    assert not story.check().timed
    story.grant(1, 8, 9, by="b", token="other")
    assert story.rules() == ["two_holders"]
