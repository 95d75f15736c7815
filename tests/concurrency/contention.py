"""Everything that may happen to a dead lease, all at once, and a judge that wants one line of history."""

import random
from collections.abc import Callable, Mapping
from itertools import pairwise
from uuid import uuid4

from broker import coordinator
from broker.coordinator import Change, Settlement
from broker.documents import Job, State
from broker.fence import Fence
from broker.transitions import Claimant
from datastore import Datastore
from tests.concurrency.race import NOW, RULES, at_once, context, new_job, read, runs_of

LATE = NOW + RULES.ttl_ms + RULES.skew_ms + 1
"""The lease of epoch 1 is dead by now: its holder may still come back, and anybody may take over."""

LEADS_TO: Mapping[str, frozenset[State]] = {
    "renew": frozenset({State.LEASED}),
    "complete": frozenset({State.SUCCEEDED}),
    "fail": frozenset({State.SCHEDULED}),
    "release": frozenset({State.READY}),
    "reap": frozenset({State.READY}),
    "steal": frozenset({State.LEASED}),
}
LOST = frozenset({"lease_lost", "already_terminal", "conflict"})
REFUSED: Mapping[str, frozenset[str]] = {
    **dict.fromkeys(("renew", "complete", "fail", "release"), LOST),
    "reap": frozenset({"conflict"}),
    "steal": frozenset({"conflict", "not_claimable"}),
}
DONE: Mapping[str, str] = {"renew": "renewed", "steal": "granted"}


def contend(store: Datastore, *, seed: int) -> list[str]:
    """Let the holder, two thieves and the reaper loose on one dead lease; what is wrong afterwards."""
    job_id = new_job(store)
    grant = coordinator.try_claim_job(context(store), job_id, _claimant("f1"), now_ms=NOW)
    assert grant.answer.word == "granted"
    start = read(store, job_id)
    acts = _acts(store, job_id, str(grant.answer.body["token"]))
    names = [
        "steal",
        "steal",
        "renew",
        "complete",
        "fail",
        "release",
        "reap",
        *random.Random(seed).choices([*acts], k=3),
    ]
    random.Random(seed).shuffle(names)
    settled = list(zip(names, at_once([acts[name] for name in names]), strict=True))
    return [*_history(start, read(store, job_id), settled), *_records(store, job_id)]


def _acts(store: Datastore, job_id: str, token: str) -> dict[str, Callable[[], Settlement]]:
    own = context(store)

    def fence() -> Fence:
        return Fence("f1", 1, token, uuid4().hex)

    return {
        "renew": lambda: coordinator.renew(own, job_id, fence(), now_ms=LATE),
        "complete": lambda: coordinator.complete(own, job_id, fence(), now_ms=LATE, result="done"),
        "fail": lambda: coordinator.fail(own, job_id, fence(), now_ms=LATE, error="broke"),
        "release": lambda: coordinator.release(own, job_id, fence(), now_ms=LATE),
        "reap": lambda: coordinator.reap(own, read(store, job_id), now_ms=LATE),
        "steal": lambda: coordinator.try_claim_job(own, job_id, _claimant(f"thief-{uuid4().hex}"), now_ms=LATE),
    }


def _claimant(factory: str) -> Claimant:
    return Claimant(factory, "start-1", uuid4().hex, uuid4().hex)


def _history(start: Job, end: Job, settled: list[tuple[str, Settlement]]) -> list[str]:
    """Every write must have been made on the version the one before it left."""
    faults: list[str] = []
    steps: list[Change] = []
    for name, settlement in settled:
        word = settlement.answer.word.value
        written = [change for change in settlement.changes if change.before is not None]
        steps += written
        if written:
            faults += _step(name, word, written[0])
        elif word not in REFUSED[name]:
            faults.append(f"{name} wrote nothing and was told {word}")
    steps.sort(key=lambda change: (change.before or change.after).document.rev)
    line = [start, *(change.after for change in steps)]
    origins = [change.before for change in steps]
    if [job.document.etag for job in origins if job] != [job.document.etag for job in line[:-1]]:
        faults.append(f"history has forked: {[(job and job.document.rev, job and job.state.value) for job in origins]}")
    if line[-1].document.etag != end.document.etag:
        faults.append("somebody was told of a write that is not there")
    if any(later.epoch < earlier.epoch for earlier, later in pairwise([*line, end])):
        faults.append("the epoch fell")
    return faults


def _step(name: str, word: str, change: Change) -> list[str]:
    before, after = change.before, change.after
    assert before is not None
    faults = []
    if word != DONE.get(name, "ok"):
        faults.append(f"{name} wrote and was told {word}")
    if after.state not in LEADS_TO[name]:
        faults.append(f"{name} led from {before.state} to {after.state}")
    if after.epoch != before.epoch + (name == "steal"):
        faults.append(f"{name} led from epoch {before.epoch} to {after.epoch}")
    if name not in ("steal", "reap") and (before.epoch, before.state) != (1, State.LEASED):
        faults.append(f"{name} passed the fence at epoch {before.epoch}, {before.state}")
    return faults


def _records(store: Datastore, job_id: str) -> list[str]:
    """I3: a run for each epoch, and only the last may be open, exactly where the job is leased."""
    job, runs = read(store, job_id), runs_of(store, job_id)
    faults = []
    if [run.epoch for run in runs] != list(range(1, job.epoch + 1)):
        faults.append(f"runs {[run.epoch for run in runs]} at epoch {job.epoch}")
    still_open = [run.epoch for run in runs if run.ended_ms is None]
    if still_open != ([job.epoch] if job.state is State.LEASED else []):
        faults.append(f"open runs {still_open}, job {job.state} at epoch {job.epoch}")
    succeeded = [run.epoch for run in runs if run.outcome == "succeeded"]
    if succeeded != ([job.epoch] if job.state is State.SUCCEEDED else []):
        faults.append(f"runs {succeeded} succeeded, job {job.state} at epoch {job.epoch}")
    return faults
