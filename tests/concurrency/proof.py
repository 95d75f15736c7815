"""The proof of issue 2, once: what every sound store must make true of the coordinator above it."""

from collections.abc import Callable
from typing import ClassVar

import pytest

from broker import coordinator, submission
from broker.coordinator import Context, Settlement
from broker.fence import Fence
from broker.messages import Submit, SubmitBody
from broker.repository import rev_update_job
from broker.transitions import Claimant
from datastore import Datastore
from tests.concurrency.contention import contend
from tests.concurrency.race import NOW, context, new_job, outcome, race, read, runs_of
from tests.twins.lossy import Lossy, WriteFault

FAULTS = (
    WriteFault.LOST_ANSWER,
    WriteFault.LOST_REQUEST,
    WriteFault.OWN_CONFLICT,
    WriteFault.OWN_CONFLICT_SHOWN,
)
LANDED = tuple(fault for fault in FAULTS if fault is not WriteFault.LOST_REQUEST)
every_fault = pytest.mark.parametrize("fault", FAULTS)
every_landing = pytest.mark.parametrize("fault", LANDED)


def claimant(request_id: str = "c1", factory: str = "f1") -> Claimant:
    return Claimant(factory, "start-1", request_id, token(request_id))


def token(request_id: str) -> str:
    return request_id.encode().hex().ljust(32, "0")


def holder(request_id: str, *, epoch: int = 1) -> Fence:
    return Fence("f1", epoch, token("c1"), request_id)


class ClaimProof:
    """Runs on the store that a subclass's fixture `store` opens, `rounds` times where chance plays a part."""

    rounds: ClassVar[int]

    # (a) Two at once on one job they have both just read.

    def test_of_two_claims_on_one_freshly_read_job_one_is_granted_and_one_conflicts(self, store: Datastore) -> None:
        for _ in range(self.rounds):
            verdict = race(store, claimers=2, read_first=True)
            assert verdict.faults == ()
            assert verdict.words == {("granted", None): 1, ("conflict", "held"): 1}

    def test_a_claim_that_insists_on_a_version_learns_that_it_is_gone(self, store: Datastore) -> None:
        for _ in range(self.rounds):
            verdict = race(store, claimers=2, read_first=True, name_the_etag=True)
            assert verdict.faults == ()
            assert verdict.words == {("granted", None): 1, ("conflict", "etag_mismatch"): 1}

    # (b) A herd.

    def test_of_64_claims_at_once_exactly_one_is_granted(self, store: Datastore) -> None:
        for _ in range(max(1, self.rounds // 10)):
            verdict = race(store, claimers=64)
            assert verdict.faults == ()

    def test_of_64_claims_on_one_freshly_read_version_exactly_one_is_granted(self, store: Datastore) -> None:
        verdict = race(store, claimers=64, read_first=True, name_the_etag=True)
        assert verdict.faults == ()
        assert verdict.words == {("granted", None): 1, ("conflict", "etag_mismatch"): 63}

    # (c) Everything at once on a dead lease.

    def test_renew_complete_fail_release_reap_and_steal_at_once_leave_one_line_of_history(
        self, store: Datastore
    ) -> None:
        for seed in range(self.rounds):
            assert contend(store, seed=seed) == [], f"seed {seed}"

    # Lost answers: the caller still gets the true outcome.

    @every_fault
    def test_a_claim_whose_answer_is_lost_is_granted_if_it_was_written(
        self, store: Datastore, fault: WriteFault
    ) -> None:
        job_id = new_job(store)
        settled = _claim(context(Lossy(store, writes=[fault])), job_id)
        assert settled.answer.word == "granted"
        job = read(store, job_id)
        assert job.lease is not None
        assert (job.epoch, job.lease.token, job.document.rev) == (1, token("c1"), 2)
        assert [run.epoch for run in runs_of(store, job_id)] == [1]

    @every_fault
    @pytest.mark.parametrize("op", ["complete", "fail", "release"])
    def test_a_holders_last_word_whose_answer_is_lost_is_ok(self, store: Datastore, fault: WriteFault, op: str) -> None:
        job_id = _held(store)
        settled = _finish(context(Lossy(store, writes=[fault])), op, job_id)
        assert settled.answer.word == "ok"
        assert read(store, job_id).state == {"complete": "succeeded", "fail": "scheduled", "release": "ready"}[op]
        assert [run.ended_ms for run in runs_of(store, job_id)] == [NOW]

    @every_fault
    @pytest.mark.parametrize("which", ["spec", "job", "both"])
    def test_a_submission_whose_answer_is_lost_is_there_once(
        self, store: Datastore, fault: WriteFault, which: str
    ) -> None:
        script = {"spec": [fault], "job": [WriteFault.NONE, fault], "both": [fault, fault]}[which]
        lossy = Lossy(store, writes=script)
        for word in ("ok", "replayed"):
            body = SubmitBody(job_id=f"lost-{which}-{fault.name}", payload={"n": 1})
            request = Submit(request_id="s1", factory_id="f", incarnation="i", instance="x", body=body)
            assert submission.submit(context(lossy), request, now_ms=NOW).answer.word == word
        assert race_is_won_once(store, f"lost-{which}-{fault.name}")

    @every_landing
    def test_a_claim_that_landed_and_was_written_over_is_still_the_winners(
        self, store: Datastore, fault: WriteFault
    ) -> None:
        job_id = new_job(store)
        lossy = Lossy(store, writes=[fault], meanwhile=lambda: _cancel(store, job_id))
        settled = _claim(context(lossy), job_id)
        assert settled.answer.good
        assert (settled.answer.body["epoch"], settled.answer.body["token"]) == (1, token("c1"))
        assert read(store, job_id).cancel is not None, "what was written over it stays"

    @every_landing
    @pytest.mark.parametrize("op", ["complete", "fail", "release"])
    def test_a_last_word_that_landed_and_was_written_over_is_not_called_lost(
        self, store: Datastore, fault: WriteFault, op: str
    ) -> None:
        job_id = _held(store)
        overwrite = _write_something if op == "complete" else _take_over
        lossy = Lossy(store, writes=[fault], meanwhile=lambda: overwrite(store, job_id))
        settled = _finish(context(lossy), op, job_id)
        assert settled.answer.word == "replayed"
        assert settled.answer.body["op"] == op

    @every_landing
    def test_a_submission_that_landed_and_was_claimed_at_once_is_ok(self, store: Datastore, fault: WriteFault) -> None:
        name = f"claimed-{fault.name}"
        lossy = Lossy(
            store, writes=[WriteFault.NONE, fault], meanwhile=lambda: _assert_good(_claim(context(store), name))
        )
        request = Submit(request_id="s1", factory_id="f", incarnation="i", instance="x", body=SubmitBody(job_id=name))
        assert submission.submit(context(lossy), request, now_ms=NOW).answer.good
        assert read(store, name).epoch == 1

    @every_landing
    def test_a_renewal_that_landed_and_was_written_over_is_renewed(self, store: Datastore, fault: WriteFault) -> None:
        job_id = _held(store)
        lossy = Lossy(store, writes=[fault], meanwhile=lambda: _cancel(store, job_id))
        settled = coordinator.renew(context(lossy), job_id, holder("r1"), now_ms=NOW + 5)
        assert settled.answer.word == "renewed"
        assert settled.answer.body["directives"] == ["cancel"]

    @every_landing
    def test_a_claim_that_landed_and_was_revoked_before_its_answer_is_not_called_granted(
        self, store: Datastore, fault: WriteFault
    ) -> None:
        job_id = new_job(store)
        lossy = Lossy(store, writes=[fault], meanwhile=lambda: _revoke(store, job_id))
        found = outcome(_claim(context(lossy), job_id))
        assert (found.word, found.reason) == ("request_expired", "lease_over")
        assert read(store, job_id).epoch == 1


def race_is_won_once(store: Datastore, job_id: str) -> bool:
    """Whether a job is there, unclaimed, and can be claimed at epoch 1."""
    return outcome(_claim(context(store), job_id)).word == "granted" and read(store, job_id).epoch == 1


def _claim(on: Context, job_id: str) -> Settlement:
    return coordinator.try_claim_job(on, job_id, claimant(), now_ms=NOW)


def _held(store: Datastore) -> str:
    job_id = new_job(store)
    _assert_good(_claim(context(store), job_id))
    return job_id


def _finish(on: Context, op: str, job_id: str) -> Settlement:
    finishers: dict[str, Callable[[], Settlement]] = {
        "complete": lambda: coordinator.complete(on, job_id, holder("r1"), now_ms=NOW, result={"n": 1}),
        "fail": lambda: coordinator.fail(on, job_id, holder("r1"), now_ms=NOW, error="broke"),
        "release": lambda: coordinator.release(on, job_id, holder("r1"), now_ms=NOW),
    }
    return finishers[op]()


def _cancel(store: Datastore, job_id: str) -> None:
    _assert_good(coordinator.cancel(context(store), job_id, request_id="x1", by="f", now_ms=NOW))


def _revoke(store: Datastore, job_id: str) -> None:
    _assert_good(coordinator.revoke(context(store), job_id, request_id="x1", by="f", now_ms=NOW))


def _take_over(store: Datastore, job_id: str) -> None:
    """Somebody else claims the job once its backoff, if any, is over."""
    _assert_good(coordinator.try_claim_job(context(store), job_id, claimant("c2", "f2"), now_ms=NOW + 10_000))


def _write_something(store: Datastore, job_id: str) -> None:
    rev_update_job(store, read(store, job_id), {"note": "somebody was here"}, write_id="another")


def _assert_good(settled: Settlement) -> None:
    assert settled.answer.good, settled.answer
