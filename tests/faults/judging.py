"""What must be true of a store and of what clients were told, whatever was killed (design §2)."""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from broker.messages import Request
from datastore import Datastore
from tests.caller import Reply

PAGE = 500
TERMINAL = frozenset({"succeeded", "failed", "cancelled"})
GOOD = frozenset({"ok", "granted", "renewed", "replayed"})


@dataclass(slots=True)
class Told:
    """Every request one client has sent, and every answer it had, in order."""

    answers: list[tuple[Request, Reply]] = field(default_factory=list)

    def note(self, requests: Sequence[Request], replies: Sequence[Reply]) -> None:
        """Add the answers to some requests."""
        self.answers += zip(requests, replies, strict=True)


def faults_of(store: Datastore, told: Told, *, stored: bool = True) -> list[str]:
    """What is wrong, in words; nothing if all of it holds.

    `stored`: whether what was acknowledged has outlived the kill; a store in a killed process's memory has not.
    """
    jobs = dict(found(store, "job"))
    runs = runs_of(store, jobs)
    wrong = [*faults_of_the_store(jobs, runs), *_answers(told)]
    return [*wrong, *_lost(jobs, told), *_grants(_by_job(runs), told), *_taken_back(told)] if stored else wrong


def faults_of_the_store(jobs: Mapping[str, Mapping[str, Any]], runs: Iterable[Mapping[str, Any]]) -> list[str]:
    """What is wrong with the documents alone."""
    return [*_leases(jobs), *_runs(jobs, _by_job(runs))]


def found(store: Datastore, kind: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Every document of a kind, by its id."""
    cursor = None
    while True:
        page = store.find({"kind": kind}, limit=PAGE, cursor=cursor)
        yield from ((document.id, document.body) for document in page.documents)
        cursor = page.cursor
        if cursor is None:
            return


def runs_of(store: Datastore, jobs: Mapping[str, Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Every run that has a document, and the latest of a job that is not over, where that alone is their record."""
    runs = [run for _, run in found(store, "run")]
    written = {(run["job_id"], run["epoch"]) for run in runs}
    alive = {job: body for job, body in jobs.items() if body["state"] not in TERMINAL}
    told = [(job, body.get(field)) for job, body in alive.items() for field in ("last_end", "lease")]
    return [*runs, *({**run, "job_id": job} for job, run in told if run and (job, run["epoch"]) not in written)]


def _by_job(runs: Iterable[Mapping[str, Any]]) -> Mapping[str, list[Mapping[str, Any]]]:
    found: dict[str, list[Mapping[str, Any]]] = defaultdict(list)
    for run in runs:
        found[run["job_id"]].append(run)
    return found


def _leases(jobs: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    for job, body in jobs.items():
        if (body["state"] == "leased") != (body.get("lease") is not None):
            yield f"I2: {job} is {body['state']} with lease {body.get('lease')}"
        elif body.get("lease") is not None and body["lease"]["epoch"] != body["epoch"]:
            yield f"I1: {job} at epoch {body['epoch']} is leased at {body['lease']['epoch']}"


def _runs(jobs: Mapping[str, Mapping[str, Any]], runs: Mapping[str, list[Mapping[str, Any]]]) -> Iterator[str]:
    for job, body in jobs.items():
        epochs = sorted(run["epoch"] for run in runs.get(job, ()))
        if epochs != list(range(1, body["epoch"] + 1)):
            yield f"I3: {job} is at epoch {body['epoch']} and has runs for {epochs}"
        unended = [run["epoch"] for run in runs.get(job, ()) if run.get("ended_ms") is None]
        if unended != ([body["epoch"]] if body.get("lease") is not None else []):
            yield f"I3: {job}, {body['state']} at epoch {body['epoch']}, has runs without an end at {unended}"


def _lost(jobs: Mapping[str, Mapping[str, Any]], told: Told) -> Iterator[str]:
    ends = {"complete": "succeeded", "fail": "failed"}
    for request, reply in told.answers:
        job_id = reply["body"].get("job_id")
        if reply["answer"] not in ("ok", "replayed") or job_id is None:
            continue
        if job_id not in jobs:
            yield f"I5: {job_id} is gone, and its {request.op} was acknowledged"
        elif request.op in ends and jobs[job_id]["state"] != ends[request.op]:
            yield f"I5: {job_id} is {jobs[job_id]['state']}, and its {request.op} was acknowledged"


def _grants(runs: Mapping[str, list[Mapping[str, Any]]], told: Told) -> Iterator[str]:
    """Each lease somebody was told of has its run, and the run names the same claim."""
    for request, reply in told.answers:
        if request.op == "claim" and "token" in reply["body"]:
            job_id, epoch = reply["body"]["job_id"], reply["body"]["epoch"]
            claims = [run["request_id"] for run in runs.get(job_id, ()) if run["epoch"] == epoch]
            if claims != [request.request_id]:
                yield f"I1: {request.request_id} was granted {job_id} at {epoch}, whose runs name {claims}"


def _answers(told: Told) -> Iterator[str]:
    """One holder for an epoch, and one answer for a request id."""
    holders: dict[tuple[str, int], set[str]] = defaultdict(set)
    leases: dict[str, set[tuple[str, int, str]]] = defaultdict(set)
    for request, reply in told.answers:
        if request.op == "claim" and "token" in reply["body"]:
            lease = (reply["body"]["job_id"], reply["body"]["epoch"], reply["body"]["token"])
            holders[lease[:2]].add(request.request_id)
            leases[request.request_id].add(lease)
    for (job, epoch), claims in holders.items():
        if len(claims) > 1:
            yield f"I1: {job} at epoch {epoch} was granted to {sorted(claims)}"
    for claim, granted in leases.items():
        if len(granted) > 1:
            yield f"I6: the claim {claim} was granted {len(granted)} leases"


def _taken_back(told: Told) -> Iterator[str]:
    """What has taken effect once is replayed: it is neither refused now, nor does it take effect again."""
    good: dict[str, str] = {}
    for request, reply in told.answers:
        known = good.get(request.request_id)
        answer = reply["answer"]
        if known is not None and answer not in ("replayed", "renewed"):
            yield f"I6: {request.op} {request.request_id} was {known}, and then {answer} {reply['reason']}"
        if answer in GOOD:
            good[request.request_id] = answer
