"""What the checker finds wrong, and what it leaves alone, one rule after the other."""

from collections.abc import Iterator

from msgspec import structs

from broker.history import Log, Record, check, verdict
from tests.history.telling import Story, several, together


def claimed() -> Story:
    """Submitted, and granted to `a` at epoch 1."""
    story = Story()
    story.submit(0, 1)
    story.grant(1, 2, 3)
    return story


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


def test_a_claim_for_any_job_that_gets_a_second_one_while_the_first_stands_was_answered_twice() -> None:
    one, other = several("one", "other")
    one.grant(1, 0, 1, request="r")
    other.grant(1, 2, 3, request="r", token="t9", answer="granted")
    one.hold("renew", 1, 4, 5, answer="renewed")
    report = check(together(one, other))
    assert [violation.rule for violation in report.violations] == ["answered_twice"]


def test_another_factorys_claim_under_the_same_id_hides_none_that_was_answered_twice() -> None:
    one, other = several("one", "other")
    one.grant(1, 0, 1, by="b", request="r")
    one.hold("release", 1, 2, 3, by="b")
    other.grant(1, 4, 5, request="r", token="u1")
    one.grant(2, 6, 7, request="r")
    other.hold("renew", 1, 8, 9, token="u1", answer="renewed")
    report = check(together(one, other))
    assert [violation.rule for violation in report.violations] == ["answered_twice"]


def test_a_claim_that_gets_its_first_job_again_while_its_second_stands_was_answered_twice() -> None:
    one, other = several("one", "other")
    one.grant(1, 0, 1, request="r")
    one.hold("release", 1, 2, 3)
    other.grant(1, 4, 5, request="r", token="u1")
    one.grant(2, 100, 101, request="s", by="b")
    one.hold("release", 2, 102, 103, by="b")
    for number in range(4):
        one.call("hold", 110 + 2 * number, 111 + 2 * number, epoch=2, answer="ok", state="ready")
    one.grant(3, 120, 121, request="r")
    other.hold("renew", 1, 130, 131, token="u1", answer="renewed")
    report = check(together(one, other))
    assert [violation.rule for violation in report.violations] == ["answered_twice"]


def test_a_claim_for_any_job_may_get_another_once_its_lease_is_over() -> None:
    one, other = several("one", "other")
    one.grant(1, 0, 1, request="r")
    one.hold("release", 1, 2, 3)
    other.grant(1, 4, 5, request="r", token="t9")
    assert check(together(one, other)).violations == ()


def granted_two() -> tuple[Story, Story, Story]:
    """One answer to one claim granted the first two of these jobs; the third waits."""
    one, other, third = several("one", "other", "third")
    grant = one.grant(1, 0, 1, request="r", token="one")
    other.records.append(structs.replace(grant, job="other", token="other"))
    return one, other, third


def test_a_claim_for_several_that_gets_others_while_a_lease_of_its_answer_stands_was_answered_twice() -> None:
    one, other, third = granted_two()
    one.hold("release", 1, 2, 3, token="one")
    third.grant(1, 4, 5, request="r", token="third")
    other.hold("renew", 1, 6, 7, token="other", answer="renewed")
    [violation] = check(together(one, other, third)).violations
    assert (violation.rule, violation.job, violation.first.job) == ("answered_twice", "third", "other")


def test_a_claim_for_several_may_get_a_job_of_its_answer_again_and_others_once_all_its_leases_are_over() -> None:
    one, other, third = granted_two()
    one.hold("release", 1, 2, 3, token="one")
    one.grant(2, 4, 5, by="b")
    one.hold("release", 2, 6, 7, by="b")
    other.grant(1, 8, 9, request="r", token="other", answer="replayed")
    other.hold("release", 1, 10, 11, token="other")
    third.grant(1, 12, 13, request="r", token="third")
    assert check(together(one, other, third)).violations == ()


class Passes(list[Record]):
    """Counts how often it is gone through."""

    passes = 0

    def __iter__(self) -> Iterator[Record]:
        self.passes += 1
        return super().__iter__()


def test_the_records_of_a_job_are_gone_through_equally_often_however_many_repeated_claims_got_it() -> None:
    passes = set()
    for claims in (2, 20):
        one, other = several("one", "other")
        for number in range(1, claims + 1):
            for place, story in enumerate((one, other)):
                moment = 10 * number + 5 * place
                story.grant(number, moment, moment + 1, request=f"claim-{number}")
                story.hold("release", number, moment + 2, moment + 3)
        log = Log()
        log.feed(together(one, other))
        counted = log.jobs["one"] = Passes(log.jobs["one"])
        assert verdict(log).violations == ()
        passes.add(counted.passes)
    assert len(passes) == 1


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


def test_an_acknowledged_job_that_never_ends_is_lost_after_a_drain_and_unfinished_before() -> None:
    story = claimed()
    assert story.rules(drained=True) == ["lost"]
    assert story.rules() == []
    assert story.check().totals.lost == 1


def test_a_job_that_an_unknown_call_may_have_ended_is_not_called_lost() -> None:
    story = claimed()
    story.hold("complete", 1, 4, None)
    report = story.check(drained=True)
    assert (report.violations, report.totals.lost, report.totals.unsettled) == ((), 0, 1)


def test_a_holder_killed_over_its_completion_hides_no_job_that_was_lost_under_a_later_lease() -> None:
    story = claimed()
    story.hold("complete", 1, 4, None)
    story.grant(2, 100, 101, by="b")
    story.hold("release", 2, 110, 111, by="b")
    report = story.check(drained=True)
    assert [violation.rule for violation in report.violations] == ["lost"]
    assert (report.totals.lost, report.totals.unsettled) == (1, 0)


def test_a_later_lease_that_was_merely_seen_shows_as_well_that_an_unknown_release_ended_nothing() -> None:
    story = claimed()
    story.hold("release", 1, 4, None)
    story.refused("claim", 100, 101, by="b", answer="conflict", seen=2, state="leased")
    assert story.rules(drained=True) == ["lost"]


def test_an_unknown_completion_explains_no_job_that_was_seen_to_wait_after_its_lease() -> None:
    story = claimed()
    story.hold("complete", 1, 4, None)
    story.call("list_jobs", 100, 101, by="b", answer="ok", seen=1, state="ready")
    assert story.rules(drained=True) == ["lost"]


def test_an_unknown_cancellation_may_have_ended_a_job_at_any_time_since() -> None:
    story = claimed()
    story.call("cancel", 4, None)
    story.grant(2, 100, 101, by="b")
    story.hold("release", 2, 110, 111, by="b")
    report = story.check(drained=True)
    assert (report.violations, report.totals.unsettled) == ((), 1)


def failed_and_redriven() -> Story:
    story = claimed()
    story.hold("fail", 1, 4, 5, state="failed")
    story.call("redrive", 6, 7, epoch=1, answer="ok", state="ready")
    return story


def test_a_job_that_failed_and_was_redriven_is_lost_where_nothing_ends_it_again() -> None:
    story = failed_and_redriven()
    report = story.check(drained=True)
    assert [violation.rule for violation in report.violations] == ["lost"]
    assert (report.totals.lost, report.totals.ended) == (1, 0)
    story.grant(2, 8, 9)
    story.hold("release", 2, 10, 11)
    assert story.rules(drained=True) == ["lost"]
    story.grant(3, 12, 13)
    story.hold("complete", 3, 14, 15)
    report = story.check(drained=True)
    assert (report.violations, report.totals.completed, report.totals.lost) == ((), 1, 0)


def test_a_redriven_job_that_is_cancelled_or_seen_to_be_over_after_that_is_not_lost() -> None:
    cancelled = failed_and_redriven()
    cancelled.call("cancel", 8, 9, epoch=1, answer="ok", state="cancelled")
    seen = failed_and_redriven()
    seen.call("list_jobs", 8, 9, answer="ok", seen=1, state="failed")
    for story in (cancelled, seen):
        report = story.check(drained=True)
        assert (report.violations, report.totals.ended) == ((), 1)
    seen.call("redrive", 10, 11, epoch=1, answer="ok", state="ready")
    assert seen.rules(drained=True) == ["lost"]


def test_a_redrive_nobody_knows_the_outcome_of_takes_no_job_s_end_back() -> None:
    story = claimed()
    story.hold("fail", 1, 4, 5, state="failed")
    story.call("redrive", 6, None)
    report = story.check(drained=True)
    assert (report.violations, report.totals.ended) == ((), 1)


def test_a_job_that_a_listing_shows_to_be_over_is_not_lost() -> None:
    story = claimed()
    story.call("list_jobs", 4, 5, answer="ok", seen=1, state="failed")
    report = story.check(drained=True)
    assert (report.violations, report.totals.ended) == ((), 1)


def test_a_job_nobody_submitted_is_unexpected() -> None:
    story = Story()
    story.grant(1, 0, 1)
    story.hold("complete", 1, 2, 3)
    assert story.rules(drained=True) == ["unexpected"]
    assert story.check().totals.unexpected == 1


def test_a_job_whose_submission_was_never_answered_is_recovered_where_it_turns_up() -> None:
    story = Story()
    story.call("submit", 0, None)
    story.grant(1, 2, 3)
    story.hold("complete", 1, 4, 5)
    report = story.check(drained=True)
    assert (report.violations, report.totals.recovered) == ((), 1)


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
