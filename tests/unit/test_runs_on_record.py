"""One run record for each epoch (I3), also where the store failed, or a worker died, just after the job was written."""

from collections.abc import Callable
from typing import Any

import pytest
from msgspec import convert, structs

from broker import coordinator, repository, runs
from broker.controls import FactoryRecord
from broker.coordinator import Context, Settlement
from broker.documents import OnStuck, Outcome, Run, RunEnd
from broker.entropy import SeededEntropy
from broker.lease_bodies import CompleteBody, ProgressBody, ReleaseBody, RenewBody
from broker.messages import (
    Cancel,
    Claim,
    ClaimBody,
    Complete,
    ListRuns,
    Progress,
    Release,
    Renew,
    Request,
    Revoke,
    Submit,
    SubmitBody,
)
from broker.operator_bodies import CancelBody, ListRunsBody, RevokeBody
from broker.settle import settle
from broker.transitions import Rules
from datastore import CreateResult, Datastore, Expected, Patch, Unavailable, UpdateResult
from datastore.interface import Body
from datastore.memory import MemoryDatastore
from tests.twins.forwarding import Forwarding
from tests.twins.without_runs import WithoutRuns

NOW = 1_700_000_000_000
SENDER = {"factory_id": "f", "incarnation": "i", "instance": "x"}


@pytest.fixture
def store() -> WithoutRuns:
    """With the job `job`."""
    store = WithoutRuns(MemoryDatastore())
    assert sent(store, Submit(request_id="s", body=SubmitBody(job_id="job"), **SENDER)).answer.good
    return store


def sent(store: WithoutRuns, request: Request, *, now_ms: int = NOW) -> Settlement:
    return settle(Context(store, Rules(), SeededEntropy(7), lambda _ms: None), request, now_ms=now_ms)


def claim(request_id: str) -> Claim:
    return Claim(request_id=request_id, body=ClaimBody(job_id="job"), **SENDER)


def fence(grant: Settlement) -> dict[str, Any]:
    return {name: grant.answer.body[name] for name in ("job_id", "epoch", "token")}


def outcomes(store: WithoutRuns) -> list[Outcome | None]:
    """Of the runs of epoch 1, 2, … that are on record."""
    found: list[Run | None] = [runs.read_run(store, "job", epoch) for epoch in (1, 2)]
    return [run.outcome for run in found if run is not None]


def test_a_claim_makes_up_for_the_run_of_the_lease_before(store: WithoutRuns) -> None:
    store.away = True
    first = sent(store, claim("c1"))
    assert sent(store, Release(request_id="r1", body=ReleaseBody(**fence(first)), **SENDER)).answer.good
    assert outcomes(store) == []
    store.away = False
    assert sent(store, claim("c2")).answer.good
    assert outcomes(store) == [Outcome.RELEASED]


def test_no_epoch_is_granted_while_the_run_of_the_one_before_is_not_on_record(store: WithoutRuns) -> None:
    store.away = True
    first = sent(store, claim("c1"))
    assert sent(store, Release(request_id="r1", body=ReleaseBody(**fence(first)), **SENDER)).answer.good
    assert sent(store, claim("c2")).answer.word == "throttled"
    job = repository.read_job(store, "job")
    assert job is not None
    assert (job.epoch, job.lease) == (1, None)


@pytest.mark.parametrize("told_again", [False, True])
def test_the_end_that_a_takeover_wrote_is_on_record_once_the_new_holder_has_ended_too(
    store: WithoutRuns, told_again: bool
) -> None:
    sent(store, claim("c1"))
    late = NOW + 3_600_000
    store.away = True
    second = sent(store, claim("c2"), now_ms=late)
    store.away = False
    if told_again:
        assert sent(store, claim("c2"), now_ms=late).answer.word == "replayed"
        assert outcomes(store) == [Outcome.EXPIRED]
    complete = Complete(request_id="d1", body=CompleteBody(**fence(second)), **SENDER)
    assert sent(store, complete, now_ms=late).answer.good
    assert outcomes(store) == [Outcome.EXPIRED, Outcome.SUCCEEDED]


def test_no_lease_ends_while_the_end_that_its_takeover_wrote_is_not_on_record(store: WithoutRuns) -> None:
    sent(store, claim("c1"))
    late = NOW + 3_600_000
    store.away = True
    second = sent(store, claim("c2"), now_ms=late)
    complete = Complete(request_id="d1", body=CompleteBody(**fence(second)), **SENDER)
    assert sent(store, complete, now_ms=late).answer.word == "throttled"
    store.away = False
    assert sent(store, complete, now_ms=late).answer.good
    assert outcomes(store) == [Outcome.EXPIRED, Outcome.SUCCEEDED]


def test_where_nobody_looks_back_the_end_that_a_takeover_wrote_is_forgotten(
    store: WithoutRuns, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runs, "record_last_end", lambda *_, **__: None)
    test_it = test_the_end_that_a_takeover_wrote_is_on_record_once_the_new_holder_has_ended_too
    with pytest.raises(AssertionError):
        test_it(store, told_again=False)


def test_an_end_that_is_not_on_record_is_unknown_until_a_resend_has_put_it_there(store: WithoutRuns) -> None:
    store.away = True
    complete = Complete(request_id="d1", body=CompleteBody(**fence(sent(store, claim("c1"))), result=7), **SENDER)
    for _ in range(2):
        settled = sent(store, complete)
        assert (settled.answer.word, settled.answer.reason) == ("outcome_unknown", "store")
        assert [change.recorded for change in settled.changes] == [False]
    store.away = False
    assert sent(store, complete).answer.word == "replayed"
    run = runs.read_run(store, "job", 1)
    assert run is not None
    assert (run.outcome, run.result) == (Outcome.SUCCEEDED, 7)


def test_a_job_that_is_cancelled_while_it_waits_puts_its_last_run_on_record(store: WithoutRuns) -> None:
    store.away = True
    first = sent(store, claim("c1"))
    assert sent(store, Release(request_id="r1", body=ReleaseBody(**fence(first)), **SENDER)).answer.good
    store.away = False
    assert sent(store, Cancel(request_id="x1", body=CancelBody(job_id="job"), **SENDER)).answer.good
    assert outcomes(store) == [Outcome.RELEASED]


class DiesAfterTheJob(Forwarding):
    """Takes nothing any more once a job has ended: whoever ended it has died."""

    def __init__(self, inner: Datastore) -> None:
        super().__init__(inner)
        self.over = False

    def create(self, id: str, partition_key: str, body: Body) -> CreateResult:
        if self.over:
            raise Unavailable("dead")
        return super().create(id, partition_key, body)

    def update_if_match(self, id: str, partition_key: str, expected: Expected, patch: Patch) -> UpdateResult:
        if self.over:
            raise Unavailable("dead")
        result = super().update_if_match(id, partition_key, expected, patch)
        self.over = patch.get("state") in ("failed", "cancelled")
        return result


def left_open(store: WithoutRuns, end: Callable[[WithoutRuns], object]) -> list[str]:
    """The runs that a sweep finds where whoever ended the job died before that was on record."""
    sent(store, Submit(request_id="s1", body=SubmitBody(job_id="capped", **ENDS[end]), **SENDER))
    sent(store, Claim(request_id="c1", body=ClaimBody(job_id="capped"), **SENDER))
    end(WithoutRuns(DiesAfterTheJob(store)))
    job = repository.read_job(store, "capped")
    assert job is not None
    assert job.state.terminal
    return [found.id for found in store.find({"open": True}).documents]


def reap(store: WithoutRuns) -> None:
    job = repository.read_job(store, "capped")
    assert job is not None
    coordinator.reap(Context(store, Rules(), SeededEntropy(8), lambda _ms: None), job, now_ms=NOW + 3_600_000)


def claim_late(store: WithoutRuns) -> None:
    sent(store, Claim(request_id="c2", body=ClaimBody(job_id="capped"), **SENDER), now_ms=NOW + 3_600_000)


def revoke_what_is_to_stop(store: WithoutRuns) -> None:
    sent(store, Cancel(request_id="x1", body=CancelBody(job_id="capped"), **SENDER))
    sent(store, Revoke(request_id="x2", body=RevokeBody(job_id="capped"), **SENDER))


def renew_what_took_too_long(store: WithoutRuns) -> None:
    job = repository.read_job(store, "capped")
    assert job is not None
    assert job.lease is not None
    body = RenewBody(job_id="capped", epoch=1, token=job.lease.token)
    sent(store, Renew(request_id="n1", body=body, **SENDER), now_ms=NOW + 1_001)


def outlive(store: WithoutRuns) -> None:
    job = repository.read_job(store, "capped")
    assert job is not None
    over = FactoryRecord(incarnation="j", since_ms=NOW, replaced=("i",))
    context = Context(store, Rules(), SeededEntropy(8), lambda _ms: None)
    coordinator.outlive(context, job, "f", over, now_ms=NOW + 1)


def watch_what_is_stuck(store: WithoutRuns) -> None:
    job = repository.read_job(store, "capped")
    assert job is not None
    coordinator.watch(Context(store, Rules(), SeededEntropy(8), lambda _ms: None), job, now_ms=NOW + 1_001)


ENDS: dict[Callable[[WithoutRuns], object], dict[str, Any]] = {
    reap: {"max_expiries": 1},
    claim_late: {"max_expiries": 1},
    revoke_what_is_to_stop: {},
    renew_what_took_too_long: {"run_timeout_ms": 1_000, "max_failures": 1},
    outlive: {"max_expiries": 1},
    watch_what_is_stuck: {"stuck_after_ms": 1_000, "on_stuck": OnStuck.REVOKE, "max_failures": 1},
}
"""Each with what is submitted, so that it ends the job for good."""


@pytest.mark.parametrize("end", ENDS)
def test_a_run_that_nobody_asks_about_again_is_found_where_its_end_did_not_get_on_record(
    store: WithoutRuns, end: Callable[[WithoutRuns], object]
) -> None:
    assert left_open(store, end) == ["capped:run:1"]


@pytest.mark.parametrize("max_expiries", [1, 2], ids=["nothing comes after it", "the next grant makes up for it"])
def test_a_run_is_opened_before_it_is_ended_only_where_nothing_comes_after_it(
    store: WithoutRuns, max_expiries: int
) -> None:
    sent(store, Submit(request_id="s1", body=SubmitBody(job_id="capped", max_expiries=max_expiries), **SENDER))
    sent(store, Claim(request_id="c1", body=ClaimBody(job_id="capped"), **SENDER))
    reap(store)
    [run] = store.find({"kind": "run", "job_id": "capped"}).documents
    assert (run.body["outcome"], run.rev) == ("expired", 2 if max_expiries == 1 else 1)


@pytest.mark.parametrize("end", ENDS)
def test_where_its_run_is_not_opened_first_nobody_finds_it(
    store: WithoutRuns, monkeypatch: pytest.MonkeyPatch, end: Callable[[WithoutRuns], object]
) -> None:
    monkeypatch.setattr(runs, "write_open_run", lambda *_: None)
    assert left_open(store, end) == []


def test_what_the_job_says_of_its_runs_is_what_their_documents_say(store: WithoutRuns) -> None:
    release = Release(request_id="r1", body=ReleaseBody(**fence(sent(store, claim("c1")))), **SENDER)
    assert sent(store, release, now_ms=NOW + 1).answer.good
    second = fence(sent(store, claim("c2"), now_ms=NOW + 2))
    renew = Renew(request_id="n1", body=RenewBody(**second), **SENDER)
    assert sent(store, renew, now_ms=NOW + 3).answer.good
    assert sent(store, Progress(request_id="p1", body=ProgressBody(**second, progress=7), **SENDER)).answer.good
    job = repository.read_job(store, "job")
    assert job is not None
    ended, open_ = (convert(told, Run) for told in runs.told_by(job))
    assert ended == runs.read_run(store, "job", 1)
    on_record = runs.read_run(store, "job", 2)
    assert on_record is not None
    assert open_ == structs.replace(on_record, progress=None, progress_ms=None, renewals=1), "the lease counts"
    assert (open_.factory_id, open_.incarnation, open_.request_id, open_.started_ms) == ("f", "i", "c2", NOW + 2)


class Knowing(Forwarding):
    """Notes what is expected of the document that an update of a run changes."""

    def __init__(self, inner: Datastore) -> None:
        super().__init__(inner)
        self.expected: list[Expected] = []

    def update_if_match(self, id: str, partition_key: str, expected: Expected, patch: Patch) -> UpdateResult:
        if ":run:" in id:
            self.expected.append(expected)
        return super().update_if_match(id, partition_key, expected, patch)


def test_the_version_of_a_run_that_was_read_is_handed_on_so_that_no_store_reads_it_again(store: WithoutRuns) -> None:
    knowing = Knowing(store.inner)
    store.inner = knowing
    grant = fence(sent(store, claim("c1")))
    for number in (1, 2):
        sent(store, Progress(request_id=f"p{number}", body=ProgressBody(**grant, progress=number), **SENDER))
    assert sent(store, Release(request_id="r1", body=ReleaseBody(**grant), **SENDER)).answer.good
    assert [
        (each.known and each.known.rev, each.known and each.known.etag == each.etag) for each in knowing.expected
    ] == [
        (1, True),
        (2, True),
    ]


def test_of_a_job_whose_leases_have_never_ended_nothing_is_owed(store: WithoutRuns) -> None:
    sent(store, claim("c1"))
    job = repository.read_job(store, "job")
    assert job is not None
    assert runs.last_end_recorded(store, job)


@pytest.mark.parametrize("reported", [False, True], ids=["nothing on record", "open on record"])
def test_what_is_owed_is_the_end_of_the_run(store: WithoutRuns, reported: bool) -> None:
    grant = fence(sent(store, claim("c1")))
    if reported:
        sent(store, Progress(request_id="p1", body=ProgressBody(**grant, progress=1), **SENDER))
    store.away = True
    sent(store, Release(request_id="r1", body=ReleaseBody(**grant), **SENDER))
    job = repository.read_job(store, "job")
    assert job is not None
    assert not runs.last_end_recorded(store, job)
    store.away = False
    runs.record_last_end(store, SeededEntropy(9), job)
    assert runs.last_end_recorded(store, job)
    store.away = True
    runs.record_last_end(store, SeededEntropy(9), job)  # which writes nothing


def test_an_end_that_is_on_record_stays_as_it_is(store: WithoutRuns) -> None:
    sent(store, Release(request_id="r1", body=ReleaseBody(**fence(sent(store, claim("c1")))), **SENDER))
    run, job = runs.read_run(store, "job", 1), repository.read_job(store, "job")
    assert job is not None
    assert job.last_end is not None
    runs.end_run(store, SeededEntropy(9), "job", structs.replace(job.last_end, outcome=Outcome.SUPERSEDED))
    assert runs.read_run(store, "job", 1) == run


def test_an_open_run_whose_job_is_over_it_ends_as_the_job_says_or_is_only_over(store: WithoutRuns) -> None:
    grant = fence(sent(store, claim("c1")))
    sent(store, Progress(request_id="p1", body=ProgressBody(**grant, progress=1), **SENDER))
    open_run = runs.read_run(store, "job", 1)
    store.away = True
    sent(store, Release(request_id="r1", body=ReleaseBody(**grant), **SENDER), now_ms=NOW + 5)
    job = repository.read_job(store, "job")
    assert open_run is not None
    assert job is not None
    assert runs.superseded_end(open_run, job, NOW + 9) == job.last_end
    over = RunEnd(
        epoch=1,
        factory_id="f",
        incarnation="i",
        request_id="c1",
        started_ms=NOW,
        ended_ms=NOW + 9,
        outcome=Outcome.SUPERSEDED,
    )
    assert runs.superseded_end(open_run, structs.replace(job, last_end=None), NOW + 9) == over
    later = structs.replace(over, epoch=2, outcome=Outcome.EXPIRED)
    assert runs.superseded_end(open_run, structs.replace(job, last_end=later), NOW + 9) == over


def listed(store: WithoutRuns) -> list[tuple[int, str | None, Any]]:
    found = sent(store, ListRuns(request_id="l", body=ListRunsBody(job_id="job"), **SENDER)).answer.body["runs"]
    return [(run["epoch"], run.get("outcome"), run.get("progress")) for run in found]


def test_who_lists_runs_sees_what_only_the_job_says_too(store: WithoutRuns) -> None:
    grant = sent(store, claim("c1"))
    assert listed(store) == [(1, None, None)]
    sent(store, Progress(request_id="p1", body=ProgressBody(**fence(grant), progress=7), **SENDER))
    assert listed(store) == [(1, None, 7)]
    store.away = True
    sent(store, Release(request_id="r1", body=ReleaseBody(**fence(grant)), **SENDER))
    assert listed(store) == [(1, "released", 7)]
