"""Entries of a slot that others take out: of a claim that wants it in two ways, and of one that lost its job."""

from collections.abc import Callable
from typing import Any

import pytest

from broker.limits import limit_key
from broker.shared_document import read_body
from broker.slots import CONFIRM_WITHIN_MS
from datastore import Datastore, Unavailable
from datastore.interface import Expected, Patch, UpdateResult
from tests.twins.forwarding import Forwarding
from tests.unit.desk import NOW, Desk
from tests.unit.test_claiming import RIVAL, Between, claim, empty_slot, holders

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


def test_a_grant_that_lost_its_lock_is_undone_though_an_operator_held_the_job_before_it_was(desk: Desk) -> None:
    """Nobody was told of it, and nobody would end it before its ttl."""
    desk.submit("job", locks=["repo"])

    def lose() -> None:
        empty_slot(desk, "repo")
        written.then(lambda: desk.ask("hold", job_id="job"))

    written = Between(desk.store, "job", lose)
    told = claim(desk, "job", on=written).answer
    assert (told.word, told.reason) == ("conflict", "raced")
    job = desk.job("job")
    assert (job.state, job.lease, job.hold is not None) == ("ready", None, True)


class AfterTheJob(Forwarding):
    """Runs `meanwhile` after the next write of the job, once."""

    def __init__(self, inner: Datastore, meanwhile: Callable[[], object]) -> None:
        super().__init__(inner)
        self._meanwhile: Callable[[], object] | None = meanwhile

    def update_if_match(self, id: str, partition_key: str, expected: Expected, patch: Patch) -> UpdateResult:
        result = super().update_if_match(id, partition_key, expected, patch)
        if id == "job" and (meanwhile := self._meanwhile) is not None:
            self._meanwhile = None
            meanwhile()
        return result


def test_a_resent_claim_whose_holder_completes_meanwhile_is_told_that_the_lease_is_over(desk: Desk) -> None:
    desk.submit("job", locks=["repo"])
    epoch, token = (claim(desk, "job").answer.body[name] for name in ("epoch", "token"))
    ended = AfterTheJob(desk.store, lambda: desk.ask("complete", job_id="job", epoch=epoch, token=token))
    told = claim(desk, "job", on=ended).answer
    assert (told.word, told.reason) == ("request_expired", "lease_over")


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
