"""The coordinator between the rules and a store that may fail: what is read, written, tried again, and told."""

from collections.abc import Callable
from itertools import count
from typing import Any

import pytest

from broker import coordinator
from broker.controls import FactoryRecord
from broker.coordinator import Context, Settlement
from broker.documents import Job
from broker.entropy import SeededEntropy
from broker.fence import Fence
from broker.lease_bodies import CompleteBody
from broker.messages import Claim, ClaimBody, Complete, Request, Submit, SubmitBody
from broker.repository import read_job, rev_update_job, rev_update_lease
from broker.settle import settle
from broker.transitions import Claimant, Rules
from datastore import (
    Corrupt,
    Datastore,
    DatastoreError,
    Denied,
    Document,
    OutcomeUnknown,
    Rejected,
    Throttled,
    Unavailable,
)
from datastore.interface import Body, Conflict, CreateResult, Expected, NotFound, Patch, ReadResult, UpdateResult
from datastore.memory import MemoryDatastore
from tests.twins.forwarding import Forwarding
from tests.twins.lossy import Lossy, ReadFault, WriteFault

NOW = 1_700_000_000_000
ADDRESS = {"factory_id": "f", "incarnation": "i", "instance": "x"}
CLAIM = Claim(request_id="c1", body=ClaimBody(job_id="job"), **ADDRESS)


class Watched(Forwarding):
    """Counts what is asked of a store, runs `before_write` before each update, and fails as told."""

    def __init__(self, inner: Datastore) -> None:
        super().__init__(inner)
        self.reads: list[str] = []
        self.updates: list[tuple[str, Expected]] = []
        self.before_write: Callable[[], None] = lambda: None
        self.failure: DatastoreError | None = None

    def read(self, id: str, partition_key: str) -> ReadResult:
        self.reads.append(id)
        return super().read(id, partition_key)

    def update_if_match(self, id: str, partition_key: str, expected: Expected, patch: Patch) -> UpdateResult:
        self.updates.append((id, expected))
        if self.failure is not None:
            raise self.failure
        if id == "job":
            self.before_write()
        return super().update_if_match(id, partition_key, expected, patch)


class LossyAfterWrite(Lossy):
    """The script of reads begins with the first write: what comes before it is not what is asked here."""

    def read(self, id: str, partition_key: str) -> ReadResult:
        return super().read(id, partition_key) if self.writes_sent else self.inner.read(id, partition_key)


SEEDS = count(7)


def on(store: Datastore) -> Context:
    """A process of its own: no mark of its writes is another's."""
    pauses: list[float] = []
    return Context(store, Rules(), SeededEntropy(next(SEEDS)), pauses.append)


def sent(store: Datastore, request: Request, *, now_ms: int = NOW) -> Settlement:
    return settle(on(store), request, now_ms=now_ms)


@pytest.fixture
def store() -> MemoryDatastore:
    """A store with the job `job`."""
    store = MemoryDatastore()
    body = SubmitBody(job_id="job", payload={"n": 1}, labels={"team": "a"})
    assert sent(store, Submit(request_id="s1", body=body, **ADDRESS)).answer.good
    return store


def touch(store: Datastore) -> None:
    """Somebody else's write, which changes nothing that matters."""
    job = read_job(store, "job")
    assert job is not None
    rev_update_job(store, job, {"priority": job.priority + 1}, write_id=f"touch-{job.document.rev}")


def complete(lease: Any, **fields: Any) -> Complete:
    body = {"job_id": "job", "epoch": lease["epoch"], "token": lease["token"], **fields}
    return Complete(request_id="d1", body=CompleteBody(**body), **ADDRESS)


def test_a_grant_carries_what_was_submitted(store: MemoryDatastore) -> None:
    body = sent(store, CLAIM).answer.body
    assert (body["payload"], body["labels"], body["epoch"]) == ({"n": 1}, {"team": "a"}, 1)


def test_a_job_that_was_just_read_is_not_read_again(store: MemoryDatastore) -> None:
    watched, job = Watched(store), read_job(store, "job")
    who = Claimant("f", "i", "c1", "a" * 32)
    assert coordinator.try_claim_job(on(watched), "job", who, now_ms=NOW, job=job).answer.word == "granted"
    assert "job" not in watched.reads
    assert job is not None
    [(_, expected)] = watched.updates
    assert (expected.etag, expected.rev) == (job.document.etag, job.document.rev)


@pytest.mark.parametrize(
    "act",
    [
        lambda on, job: coordinator.reap(on, job, now_ms=NOW),
        lambda on, job: coordinator.watch(on, job, now_ms=NOW),
        lambda on, job: coordinator.outlive(on, job, "f", FactoryRecord(), now_ms=NOW),
        lambda on, job: coordinator.unblock(on, "job", now_ms=NOW, job=job),
    ],
    ids=["reap", "watch", "outlive", "unblock"],
)
def test_what_a_sweep_has_just_found_it_reads_no_second_time(
    store: MemoryDatastore, act: Callable[[Context, Job], Settlement]
) -> None:
    body = SubmitBody(job_id="child", depends_on=("job",))
    assert sent(store, Submit(request_id="s2", body=body, **ADDRESS)).answer.good
    assert sent(store, CLAIM).answer.good
    watched, job = Watched(store), read_job(store, "job")
    assert job is not None
    act(on(watched), job)
    assert set(watched.reads) <= {"job:run:1"}


def test_only_a_blocked_job_has_its_parents_read(store: MemoryDatastore) -> None:
    body = SubmitBody(job_id="child", depends_on=("job",))
    assert sent(store, Submit(request_id="s2", body=body, **ADDRESS)).answer.good
    watched = Watched(store)
    coordinator.unblock(on(watched), "child", now_ms=NOW)
    assert watched.reads == ["child", "job"]
    coordinator.cancel(on(store), "child", request_id="x", by="f", now_ms=NOW)
    watched.reads.clear()
    coordinator.unblock(on(watched), "child", now_ms=NOW)
    assert watched.reads == ["child"]


@pytest.mark.parametrize(
    ("error", "word", "retry"),
    [
        (Throttled("slow down", retry_after_ms=321), "throttled", "later"),
        (Unavailable("no"), "throttled", "later"),
        (Denied("401"), "throttled", "later"),
        (OutcomeUnknown("who knows"), "outcome_unknown", "same_id"),
        (Rejected("never"), "invalid", "final"),
        (Corrupt("rot"), "invalid", "final"),
    ],
)
def test_a_failing_store_is_answered_with_no_more_than_is_known(
    store: MemoryDatastore, error: DatastoreError, word: str, retry: str
) -> None:
    watched = Watched(store)
    watched.failure = error
    answer = sent(watched, CLAIM).answer
    assert (answer.word, answer.retry) == (word, retry)
    assert "token" not in answer.body
    if isinstance(error, Throttled):
        assert answer.retry_after_ms == 321
    watched.failure = None
    assert sent(watched, CLAIM).answer.word == "granted", "the same request id again"


@pytest.mark.parametrize("landed", [True, False])
def test_an_outcome_nobody_can_tell_is_told_by_the_same_request_id_later(store: MemoryDatastore, landed: bool) -> None:
    fault = WriteFault.LOST_ANSWER if landed else WriteFault.LOST_REQUEST
    blind = LossyAfterWrite(store, writes=[fault] + [WriteFault.LOST_REQUEST] * 9, reads=[ReadFault.FAILED] * 9)
    answer = sent(blind, CLAIM).answer
    assert (answer.word, answer.retry) == ("outcome_unknown", "same_id")
    again = sent(store, CLAIM).answer
    assert (again.word, again.body["epoch"]) == ("replayed" if landed else "granted", 1)


def test_a_stale_read_after_a_lost_answer_is_not_taken_for_the_truth(store: MemoryDatastore) -> None:
    stale = LossyAfterWrite(store, writes=[WriteFault.LOST_ANSWER], reads=[ReadFault.STALE])
    answer = sent(stale, CLAIM).answer
    assert answer.good
    assert (read_job(store, "job") or pytest.fail("gone")).epoch == 1


def test_a_grant_whose_spec_cannot_be_read_is_unknown_not_lost(store: MemoryDatastore) -> None:
    blind = LossyAfterWrite(store, reads=[ReadFault.FAILED])
    assert sent(blind, CLAIM).answer.word == "outcome_unknown"
    again = sent(store, CLAIM).answer
    assert (again.word, again.body["payload"]) == ("replayed", {"n": 1})


def test_a_grant_is_one_write(store: MemoryDatastore) -> None:
    lucky_once = Lossy(store, writes=[WriteFault.NONE, WriteFault.REFUSED])
    assert sent(lucky_once, CLAIM).answer.word == "granted"
    assert not store.find({"kind": "run"}).documents, "the lease is the record of its run"


def test_progress_moves_the_run_and_not_the_version_a_renewal_needs(store: MemoryDatastore) -> None:
    lease = sent(store, CLAIM).answer.body
    before = read_job(store, "job")
    fence = Fence("f", 1, lease["token"], "p1")
    told = coordinator.report_progress(on(store), "job", fence, now_ms=NOW + 1, progress={"done": 3})
    assert told.answer.word == "ok"
    assert read_job(store, "job") == before
    [run] = store.find({"kind": "run"}).documents
    assert (run.body["progress"], run.body["progress_ms"]) == ({"done": 3}, NOW + 1)
    forged = Fence("f", 1, "f" * 32, "p2")
    assert coordinator.report_progress(on(store), "job", forged, now_ms=NOW, progress=9).answer.word == "lease_lost"
    assert store.find({"kind": "run"}).documents == (run,)


class ReadsTheJobLate(Forwarding):
    """Shows the job as it was, `times` times."""

    def __init__(self, inner: Datastore, *, times: int) -> None:
        super().__init__(inner)
        self._was = inner.read("job", "job")
        self.times = times

    def read(self, id: str, partition_key: str) -> ReadResult:
        if id == "job" and self.times > 0:
            self.times -= 1
            return self._was
        return super().read(id, partition_key)


@pytest.mark.parametrize(("times", "word", "reason"), [(1, "lease_lost", "released"), (9, "outcome_unknown", "store")])
def test_progress_of_a_run_that_has_ended_is_not_called_good_where_a_read_is_stale(
    store: MemoryDatastore, times: int, word: str, reason: str
) -> None:
    lease = sent(store, CLAIM).answer.body
    late = ReadsTheJobLate(store, times=times)
    assert coordinator.release(on(store), "job", Fence("f", 1, lease["token"], "r1"), now_ms=NOW + 1).answer.good
    fence = Fence("f", 1, lease["token"], "p1")
    told = coordinator.report_progress(on(late), "job", fence, now_ms=NOW + 2, progress={"done": 3})
    assert (told.answer.word, told.answer.reason) == (word, reason)
    [run] = store.find({"kind": "run"}).documents
    assert "progress" not in run.body


class HidesTheRun(Forwarding):
    """Does not show a run yet, `times` times."""

    def __init__(self, inner: Datastore, *, times: int) -> None:
        super().__init__(inner)
        self.times = times

    def read(self, id: str, partition_key: str) -> ReadResult:
        if ":run:" in id and self.times > 0:
            self.times -= 1
            return NotFound()
        return super().read(id, partition_key)

    def create(self, id: str, partition_key: str, body: Body) -> CreateResult:
        result = super().create(id, partition_key, body)
        return Conflict(None) if isinstance(result, Conflict) else result


@pytest.mark.parametrize(("times", "word"), [(1, "ok"), (9, "outcome_unknown")])
def test_a_run_ends_with_its_job_where_a_stale_read_does_not_show_it(
    store: MemoryDatastore, times: int, word: str
) -> None:
    lease = sent(store, CLAIM).answer.body
    fence = Fence("f", 1, lease["token"], "k1")
    assert coordinator.report_progress(on(store), "job", fence, now_ms=NOW + 1, progress=3).answer.good
    told = coordinator.complete(on(HidesTheRun(store, times=times)), "job", fence, now_ms=NOW + 1)
    assert told.answer.word == word
    assert coordinator.complete(on(store), "job", fence, now_ms=NOW + 2).answer.word == "replayed"
    [run] = store.find({"kind": "run"}).documents
    assert (run.body.get("open"), run.body["outcome"], run.body["progress"]) == (None, "succeeded", 3)


def test_a_run_that_reports_progress_gets_a_document_that_says_when_it_began(store: MemoryDatastore) -> None:
    lease = sent(store, CLAIM).answer.body
    fence = Fence("f", 1, lease["token"], "p1")
    assert coordinator.report_progress(on(store), "job", fence, now_ms=NOW + 1, progress=3).answer.word == "ok"
    [run] = store.find({"kind": "run"}).documents
    assert (run.body["progress"], run.body["started_ms"]) == (3, NOW)


def test_a_lease_update_cannot_reach_beyond_the_lease(store: MemoryDatastore) -> None:
    job = read_job(store, "job")
    assert job is not None
    with pytest.raises(ValueError, match="state"):
        rev_update_lease(store, job, {"lease": None, "state": "ready"}, write_id="w")


def test_a_renewal_writes_nothing_but_the_lease(store: MemoryDatastore) -> None:
    lease = sent(store, CLAIM).answer.body
    before = _body(store)
    coordinator.renew(on(store), "job", Fence("f", 1, lease["token"], "r1"), now_ms=NOW + 5)
    after = _body(store)
    changed = {name for name in after if after[name] != before.get(name)}
    assert changed == {"lease", "updated_ms", "write_id"}


def _body(store: Datastore) -> Any:
    job = read_job(store, "job")
    assert job is not None
    document: Document = job.document
    return document.body


@pytest.mark.parametrize("op", ["renew", "complete", "fail", "release", "cancel", "redrive", "revoke"])
def test_what_does_not_exist_is_not_found(op: str) -> None:
    fence = Fence("f", 1, "a" * 32, "r1")
    act: dict[str, Callable[[Context], Settlement]] = {
        "renew": lambda on: coordinator.renew(on, "none", fence, now_ms=NOW),
        "complete": lambda on: coordinator.complete(on, "none", fence, now_ms=NOW),
        "fail": lambda on: coordinator.fail(on, "none", fence, now_ms=NOW),
        "release": lambda on: coordinator.release(on, "none", fence, now_ms=NOW),
        "cancel": lambda on: coordinator.cancel(on, "none", request_id="r1", by="f", now_ms=NOW),
        "redrive": lambda on: coordinator.redrive(on, "none", request_id="r1", by="f", now_ms=NOW),
        "revoke": lambda on: coordinator.revoke(on, "none", request_id="r1", by="f", now_ms=NOW),
    }
    assert act[op](on(MemoryDatastore())).answer.word == "not_found"


def test_a_document_that_is_no_job_is_left_as_it_is() -> None:
    store = MemoryDatastore()
    store.create("job", "job", {"kind": "job", "state": "leased", "queue": "default"})
    answer = sent(store, CLAIM).answer
    assert (answer.word, answer.reason) == ("invalid", "corrupt")
    found = store.find({}).documents
    assert [document.rev for document in found] == [1]


def test_a_mistake_of_ours_is_answered_unknown_and_stops_nobody(store: MemoryDatastore) -> None:
    class Broken(Forwarding):
        def read(self, id: str, partition_key: str) -> ReadResult:
            raise ZeroDivisionError(f"{partition_key}/{id}")

    assert sent(Broken(store), CLAIM).answer.word == "outcome_unknown"


def test_a_watch_whose_job_has_no_run_on_record_counts_from_the_grant(store: MemoryDatastore) -> None:
    body = SubmitBody(job_id="watched", stuck_after_ms=1_000)
    assert sent(store, Submit(request_id="s2", body=body, **ADDRESS)).answer.good
    assert sent(store, Claim(request_id="c2", body=ClaimBody(job_id="watched"), **ADDRESS)).answer.good
    assert not store.find({"kind": "run"}).documents
    for late_ms, changes in ((1_000, 0), (1_001, 1)):
        found = read_job(store, "watched")
        assert found is not None
        assert len(coordinator.watch(on(store), found, now_ms=NOW + late_ms).changes) == changes
