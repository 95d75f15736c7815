"""What a settlement says beside its answer: what it changed, from what to what, and what others wait for."""

import pytest

from broker import coordinator
from broker.answers import Answer, Reason, Word, put_off
from broker.claiming import try_claim_job
from broker.coordinator import Settlement
from broker.entropy import SeededEntropy
from broker.limits import limit_key
from broker.settlement import Change, Wait
from broker.transitions import Claimant
from datastore import Unavailable
from datastore.interface import Body, CreateResult, Expected, Patch, UpdateResult
from tests.twins.forwarding import Forwarding
from tests.unit.desk import NOW, Desk

WHO = Claimant("f", "start-1", "c1", "a" * 32)
RIVAL = Claimant("g", "start-1", "c2", "b" * 32)


@pytest.fixture
def desk() -> Desk:
    return Desk()


def claim(desk: Desk, job: str = "job", who: Claimant = WHO, *, etag: str | None = None) -> Settlement:
    return try_claim_job(desk.context, job, who, now_ms=NOW, etag=etag)


def test_a_grant_and_an_end_tell_the_job_before_and_after(desk: Desk) -> None:
    desk.submit()
    before = desk.job()
    granted = claim(desk)
    assert granted.changes == (Change(before, desk.job()),)
    again = claim(desk)
    assert (again.answer.word, again.answer.reason) == ("replayed", None)
    assert again.changes == (Change(None, desk.job()),), "its hints are moved again"
    before = desk.job()
    ended = desk.ask("complete", job_id="job", epoch=1, token=WHO.token)
    assert ended.changes == (Change(before, desk.job()),)


def test_a_job_that_is_not_there_is_named(desk: Desk) -> None:
    assert claim(desk, "none") == Settlement(Answer(Word.NOT_FOUND, body={"job_id": "none"}))


def test_a_job_that_waits_for_a_lock_stands_aside_and_is_not_offered_again(desk: Desk) -> None:
    for job in ("job", "other"):
        desk.submit(job, locks=["repo:web"])
    claim(desk)
    refused = claim(desk, "other", RIVAL)
    assert (refused.changes, refused.waits) == ((), (Wait("repo:web", desk.job("other")),))


def test_a_job_of_a_queue_at_its_limit_is_offered_again(desk: Desk) -> None:
    desk.ask("set_limit", limit="queue:default", capacity=1)
    for job in ("job", "other"):
        desk.submit(job)
    claim(desk)
    refused, other = claim(desk, "other", RIVAL), desk.job("other")
    assert (refused.changes, refused.waits) == ((Change(other, other),), (Wait(limit_key("queue:default")),))


def test_a_claim_that_was_undone_waits_for_nothing(desk: Desk) -> None:
    class Empties(Forwarding):
        """Takes every entry out of a slot before it can be confirmed."""

        def update_if_match(self, id: str, partition_key: str, expected: Expected, patch: Patch) -> UpdateResult:
            changed = {**patch, "holders": []} if id.startswith("slot:") else patch
            return super().update_if_match(id, partition_key, expected, changed)

    desk.submit(locks=["repo:web"])
    desk.context = desk.on(Empties(desk.store))
    undone = claim(desk)
    assert (undone.answer.reason, undone.waits) == ("raced", ())


def test_an_end_whose_run_is_not_on_record_is_unknown_because_of_the_store(desk: Desk) -> None:
    class WithoutRuns(Forwarding):
        def create(self, id: str, partition_key: str, body: Body) -> CreateResult:
            if body["kind"] == "run":
                raise Unavailable("scripted")
            return super().create(id, partition_key, body)

    desk.submit()
    desk.context = desk.on(WithoutRuns(desk.store))
    fence = desk.claim()
    ended = coordinator.complete(desk.context, "job", fence, now_ms=NOW)
    assert ended.answer == Answer(Word.OUTCOME_UNKNOWN, Reason.STORE)
    assert [change.after.state for change in ended.changes] == ["succeeded"]


def test_a_claim_heeds_the_pause_of_the_jobs_queue_and_the_drain_of_its_own_factory(desk: Desk) -> None:
    desk.submit(queue="builds")
    desk.ask("pause_queue", queue="builds")
    assert claim(desk).answer.reason == "paused"
    desk.ask("resume_queue", queue="builds")
    desk.ask("drain_factory", factory="f")
    assert claim(desk).answer.word == "draining"
    assert claim(desk, who=RIVAL).answer.word == "granted"


def test_a_claim_of_a_version_that_is_gone_is_told_what_stands_there(desk: Desk) -> None:
    desk.submit()
    etag = desk.job().document.etag
    claim(desk, who=RIVAL)
    refused = claim(desk, etag=etag).answer
    assert (refused.word, refused.reason) == ("conflict", "etag_mismatch")
    assert (refused.body["holder"], refused.body["epoch"]) == ("g", 1)


def test_those_who_are_put_off_together_do_not_come_back_together() -> None:
    entropy = SeededEntropy(1)
    told = [put_off(Reason.OVERLOADED, entropy, resend=False, after_ms=1_000) for _ in range(100)]
    pauses = {answer.later_ms for answer in told}
    assert {answer.word for answer in told} == {Word.THROTTLED}
    assert min(pauses) >= 1_000
    assert max(pauses) < 2_000
    assert len(pauses) > 80
    assert put_off(Reason.OVERLOADED, entropy, resend=True, after_ms=1_000) == Answer(
        Word.OUTCOME_UNKNOWN, Reason.OVERLOADED
    )
