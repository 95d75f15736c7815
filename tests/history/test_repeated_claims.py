"""A claim for any job, or for several, that is sent again: what it may be granted besides what it was told."""

from collections.abc import Iterator

from msgspec import structs

from broker.history import Log, Record, check, verdict
from tests.history.telling import Story, several, together


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
