"""One run record for each epoch (I3), also where the store failed, or a worker died, just after the job was written."""

from typing import Any

import pytest

from broker import repository
from broker.coordinator import Context, Settlement
from broker.documents import Outcome, Run, run_id
from broker.entropy import SeededEntropy
from broker.lease_bodies import CompleteBody, ReleaseBody
from broker.messages import Cancel, Claim, ClaimBody, Complete, Release, Request, Submit, SubmitBody
from broker.operator_bodies import CancelBody
from broker.settle import settle
from broker.transitions import Rules
from datastore.memory import MemoryDatastore
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
    runs: list[Run | None] = [repository.read_run(store, "job", epoch) for epoch in (1, 2)]
    return [run.outcome for run in runs if run is not None]


def test_a_claim_makes_up_for_the_run_of_the_lease_before(store: WithoutRuns) -> None:
    store.away = True
    first = sent(store, claim("c1"))
    assert sent(store, Release(request_id="r1", body=ReleaseBody(**fence(first)), **SENDER)).answer.good
    assert outcomes(store) == []
    store.away = False
    assert sent(store, claim("c2")).answer.good
    assert outcomes(store) == [Outcome.RELEASED, None]


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
        assert outcomes(store) == [Outcome.EXPIRED, None]
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
    monkeypatch.setattr(repository, "record_last_end", lambda *_, **__: None)
    test_it = test_the_end_that_a_takeover_wrote_is_on_record_once_the_new_holder_has_ended_too
    with pytest.raises(AssertionError):
        test_it(store, told_again=False)


def test_an_end_that_is_not_on_record_is_unknown_until_a_resend_has_put_it_there(store: WithoutRuns) -> None:
    store.away = True
    complete = Complete(request_id="d1", body=CompleteBody(**fence(sent(store, claim("c1"))), result=7), **SENDER)
    for _ in range(2):
        assert sent(store, complete).answer.word == "outcome_unknown"
    store.away = False
    assert sent(store, complete).answer.word == "replayed"
    run = repository.read_run(store, "job", 1)
    assert run is not None
    assert (run.outcome, run.result) == (Outcome.SUCCEEDED, 7)


def test_a_resend_of_a_claim_puts_its_run_on_record(store: WithoutRuns) -> None:
    store.away = True
    assert sent(store, claim("c1")).answer.word == "granted"
    store.away = False
    assert sent(store, claim("c1")).answer.word == "replayed"
    assert repository.read_run(store, "job", 1) is not None, f"{run_id('job', 1)} is missing"


def test_a_job_that_is_cancelled_while_it_waits_puts_its_last_run_on_record(store: WithoutRuns) -> None:
    store.away = True
    first = sent(store, claim("c1"))
    assert sent(store, Release(request_id="r1", body=ReleaseBody(**fence(first)), **SENDER)).answer.good
    store.away = False
    assert sent(store, Cancel(request_id="x1", body=CancelBody(job_id="job"), **SENDER)).answer.good
    assert outcomes(store) == [Outcome.RELEASED]
