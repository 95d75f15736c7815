"""A race for one job, and its judge: the same function for stores that must pass and for twins that must fail."""

import threading
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar
from uuid import uuid4

import msgspec

from broker import coordinator, repository, submission
from broker.coordinator import Context, Settlement
from broker.documents import Job, Run
from broker.entropy import SystemEntropy
from broker.messages import Submit, SubmitBody
from broker.runs import told_by
from broker.transitions import Claimant, Rules
from datastore import Datastore

NOW = 1_700_000_000_000
RULES = Rules()
START_S = 60
_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Outcome:
    """One claimer's answer, in the words of the wire."""

    word: str
    reason: str | None
    body: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Verdict:
    """What is wrong with a race; nothing where exactly one claimer won."""

    faults: tuple[str, ...]
    granted: int
    words: Mapping[tuple[str, str | None], int]


def race(store: Datastore, *, claimers: int, read_first: bool = False, name_the_etag: bool = False) -> Verdict:
    """`claimers` threads claim one fresh job at the same moment.

    `read_first`: all judge the same version, read before any of them started. `name_the_etag`: each
    insists on that version.
    """
    job_id = new_job(store)
    fresh = read(store, job_id)
    etag = fresh.document.etag if name_the_etag else None
    known = fresh if read_first else None

    def claim(number: int) -> Outcome:
        who = Claimant(f"f{number}", "start-1", uuid4().hex, uuid4().hex)
        return outcome(coordinator.try_claim_job(context(store), job_id, who, now_ms=NOW, job=known, etag=etag))

    outcomes = at_once([partial(claim, number) for number in range(claimers)])
    return judge(store, job_id, outcomes)


def judge(store: Datastore, job_id: str, outcomes: Sequence[Outcome]) -> Verdict:
    """Hold every claimer's answer against the store: one grant, one lease at epoch 1, one run, one write."""
    winners = [each for each in outcomes if each.word == "granted"]
    words = Counter((each.word, each.reason) for each in outcomes)
    job, runs = read(store, job_id), runs_of(store, job_id)
    facts = {
        f"{len(winners)} of {len(outcomes)} claimers were granted the job": len(winners) == 1,
        f"the losers were told {dict(words)}": words.total() - len(winners) == _conflicts(words),
        f"the job is {job.state} at epoch {job.epoch}": (job.state, job.epoch) == ("leased", 1),
        "the lease is not the winner's": {each.body["token"] for each in winners} == {job.lease and job.lease.token},
        f"the job was written {job.document.rev - 1} times": job.document.rev == 2,
        f"there are {len(runs)} runs": [(run.epoch, run.ended_ms) for run in runs] == [(1, None)],
        "the run is not the winner's": job.lease is not None
        and [run.request_id for run in runs] == [job.lease.request_id],
    }
    return Verdict(tuple(fault for fault, fine in facts.items() if not fine), len(winners), words)


def at_once(acts: Sequence[Callable[[], _T]]) -> list[_T]:
    """Run every act in a thread of its own, all from the same moment; their results in order."""
    start = threading.Barrier(len(acts))

    def run(act: Callable[[], _T]) -> _T:
        start.wait(START_S)
        return act()

    with ThreadPoolExecutor(len(acts)) as pool:
        return list(pool.map(run, acts))


def context(store: Datastore) -> Context:
    """A coordinator's context on `store`; lost races are judged again at once."""
    return Context(store, RULES, SystemEntropy(), lambda _ms: None)


def new_job(store: Datastore, **fields: Any) -> str:
    """Submit a job with an id of its own."""
    body = SubmitBody(job_id=f"job-{uuid4().hex}", **fields)
    request = Submit(request_id=uuid4().hex, factory_id="s", incarnation="i", instance="x", body=body)
    assert submission.submit(context(store), request, now_ms=NOW).answer.word == "ok"
    assert body.job_id is not None
    return body.job_id


def read(store: Datastore, job_id: str) -> Job:
    """The job as stored; there must be one."""
    job = repository.read_job(store, job_id)
    assert job is not None, f"{job_id} is gone"
    return job


def runs_of(store: Datastore, job_id: str) -> list[Run]:
    """The runs of a job, by epoch: those that have a document, and what the job alone says."""
    found = repository.find_documents(store, {"partition_key": job_id, "kind": "run"})
    by_epoch = {run.epoch: run for run in map(Run.from_document, found)}
    for told in told_by(read(store, job_id)):
        by_epoch.setdefault(told["epoch"], msgspec.convert(told, Run))
    return [by_epoch[epoch] for epoch in sorted(by_epoch)]


def outcome(settled: Settlement) -> Outcome:
    """A settlement in the words of the wire."""
    answer = settled.answer
    return Outcome(answer.word.value, answer.reason.value if answer.reason else None, answer.body)


def from_replies(replies: Iterable[Mapping[str, Any]]) -> list[Outcome]:
    """What came over reply channels."""
    return [Outcome(reply["answer"], reply["reason"], reply["body"]) for reply in replies]


def _conflicts(words: Mapping[tuple[str, str | None], int]) -> int:
    return sum(count for (word, _), count in words.items() if word == "conflict")
