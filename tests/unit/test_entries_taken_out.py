"""Entries of a slot that others take out."""

import pytest

from broker.slots import CONFIRM_WITHIN_MS
from tests.unit.desk import NOW, Desk
from tests.unit.test_claiming import RIVAL, Between, claim, holders

LATER = NOW + CONFIRM_WITHIN_MS + 1


@pytest.fixture
def desk() -> Desk:
    return Desk()


@pytest.mark.parametrize(
    ("locks", "others"),
    [
        pytest.param(["repo", "repo/src"], "repo/docs", id="a folder and one under it"),
        pytest.param(["repo", "repo@shared"], "repo@shared", id="both modes of one key"),
    ],
)
def test_a_claim_that_wants_a_slot_in_two_ways_and_has_lost_one_of_them_is_undone(
    desk: Desk, locks: list[str], others: str
) -> None:
    """It stood still for longer than an entry is left alone, and a rival takes out what is in its way, and no more."""
    desk.submit("job", locks=locks)
    desk.submit("other", locks=[others])
    rivals = []
    slow = Between(desk.store, "job", lambda: rivals.append(claim(desk, "other", RIVAL, now_ms=LATER).answer.word))
    told = claim(desk, "job", on=slow).answer
    assert (rivals, told.word, told.reason) == (["granted"], "conflict", "raced")
    assert desk.job("job").lease is None
    assert {job for job, *_ in holders(desk, "repo")} == {"other"}
