"""Entries of a slot that others take out: of a claim that wants it in two ways, and of one that lost its job."""

from typing import Any

import pytest

from broker.limits import limit_key
from broker.shared_document import read_body
from broker.slots import CONFIRM_WITHIN_MS
from datastore import Unavailable
from datastore.interface import Expected, Patch, UpdateResult
from tests.twins.forwarding import Forwarding
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


class NothingGivenBack(Forwarding):
    """The claim that came second dies, or its store fails, before it gives back what it took."""

    def update_if_match(self, id: str, partition_key: str, expected: Expected, patch: Patch) -> UpdateResult:
        holders: Any = patch.get("holders")
        if holders is not None and len(holders) < self.in_slot(id):
            raise Unavailable("scripted")
        return super().update_if_match(id, partition_key, expected, patch)

    def in_slot(self, id: str) -> int:
        body = read_body(self.inner, id)
        return 0 if body is None else len(body["holders"])


def test_a_claim_that_lost_its_job_and_gave_nothing_back_keeps_no_unit_of_a_limit_from_others(desk: Desk) -> None:
    """The winner's lease may stand for hours, and the other unit is nobody's."""
    desk.ask("set_limit", limit="key:gpu", capacity=2)
    for job in ("job", "other"):
        desk.submit(job, concurrency=["gpu"])
    slow = Between(desk.store, "job", lambda: claim(desk, "job", RIVAL))
    assert claim(desk, "job", on=NothingGivenBack(slow)).answer.reason == "held"
    unit = limit_key("key:gpu")
    assert len(holders(desk, unit)) == 2, "one unit is held twice"
    assert claim(desk, "other").answer.reason == "quota", "it may be about to be written"
    assert claim(desk, "other", now_ms=LATER).answer.word == "granted"
    assert [each[:3] for each in holders(desk, unit)] == [("job", 1, "c2"), ("other", 1, "c1")]
