"""What became of the jobs of a history: which ended, and which are lost or came from nowhere after a drain."""

from tests.history.telling import Story, claimed


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
