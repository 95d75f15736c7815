"""Reading: a job with its spec, pages of jobs, the runs of a job. Tokens never leave the store this way."""

from collections.abc import Iterator
from functools import partial
from typing import Any

import structlog

from broker import pages, parents, repository, runs, side_by_side
from broker.answers import Answer, Word
from broker.coordinator import Context, Settlement
from broker.documents import Job, Lease, Run, RunEnd, State, left_out, run_id
from broker.messages import GetJob, ListJobs, ListRuns
from datastore import AnyOf, Corrupt, Document, NotFound
from datastore.interface import Condition

log = structlog.get_logger(__name__)

RUNS_AT_ONCE = 32
"""Runs that are read before it is known whether the page has room for them."""
HIDDEN_FIELDS = frozenset({"kind", "write_id", "open"})
"""The broker's own marks; they tell a reader nothing."""
ALWAYS_SAID = {
    name: left_out(Job)[name]
    for name in ("priority", "max_failures", "max_expiries", "epoch", "created_ms", "updated_ms", "counters")
} | {"requires": [], "locks": [], "depends_on": [], "recent_requests": []}
"""What is said of every job, though its document may leave it out: whoever reads a listing counts on it."""
_ANY_STATE = AnyOf(tuple(state.value for state in State))
HOLDERS_OWN = frozenset({"token", "instance"})
"""Of a lease: what its holder proves itself with, and where it reads its replies. Nobody else has a use for either."""


def shown(document: Document) -> dict[str, Any]:
    """A document as a listing shows it: with its version and what it leaves out, without what is its holder's own."""
    body: dict[str, Any] = {name: value for name, value in document.body.items() if name not in HIDDEN_FIELDS}
    if document.body.get("kind") == "job":
        body = {**ALWAYS_SAID, **body}
    if isinstance(lease := body.get("lease"), dict):
        whole = {**left_out(Lease), **lease}
        body["lease"] = {name: value for name, value in whole.items() if name not in HOLDERS_OWN}
    if isinstance(end := body.get("last_end"), dict):
        body["last_end"] = {**left_out(RunEnd), **end}
    body = _whole(body)
    return {"id": document.id, "rev": document.rev, "etag": document.etag, **body}


def _whole(body: dict[str, Any]) -> dict[str, Any]:
    """A run with what its end leaves out."""
    return {**left_out(RunEnd), **body} if "ended_ms" in body else body


def get_job(context: Context, request: GetJob, _now_ms: int) -> Settlement:
    """One job, what was submitted, and how its parents stand; null for one that does not exist."""
    job_id = request.body.job_id
    job = repository.read_job(context.store, job_id)
    if job is None:
        return Settlement(Answer(Word.NOT_FOUND, body={"job_id": job_id}))
    spec = repository.read_spec(context.store, job_id).plain()
    del spec["job"]  # the first version of the document that is shown beside it
    body: dict[str, Any] = {"job": shown(job.document), "spec": spec}
    if job.depends_on:
        states = parents.all_states(context, job)
        body["parents"] = {parent: states.get(parent) for parent in job.depends_on}
    return Settlement(Answer(Word.OK, body=body))


def list_jobs(context: Context, request: ListJobs, _now_ms: int) -> Settlement:
    """One page of jobs by state and queue; as stale as a search may be. It may be empty and lead to others."""
    body = request.body
    # Each state there is: only jobs have these, so that a search through their index passes specs and runs by.
    state = _ANY_STATE if body.state is None else body.state.value
    filter: dict[str, Condition] = {"state": state, "kind": "job"}
    if body.queue is not None:
        filter["queue"] = body.queue
    jobs, cursor = pages.page(context.store, filter, _readable_job, limit=body.limit, cursor=body.cursor)
    return Settlement(Answer(Word.OK, body={"jobs": jobs, "cursor": cursor}))


def _readable_job(document: Document) -> Iterator[dict[str, Any]]:
    yield from (shown(job.document) for job in repository.readable([document]))


def list_runs(context: Context, request: ListRuns, _now_ms: int) -> Settlement:
    """The latest runs of one job, or those before the `cursor`, in order of epoch; and a cursor where there are more.

    An open run's renewals are its lease's. A job has one run for each epoch (I3), so that each is read by its name.
    """
    body = request.body
    job_id = body.job_id
    job = repository.read_job(context.store, job_id)
    if job is None:
        return Settlement(Answer(Word.NOT_FOUND, body={"job_id": job_id}))
    told = {run["epoch"]: _whole(run) for run in runs.told_by(job)}
    last = job.epoch if body.cursor is None else min(job.epoch, int(body.cursor) - 1)
    first = max(1, last - body.limit + 1)
    filling = pages.Filling()
    for portion_ends in range(last, first - 1, -RUNS_AT_ONCE):
        epochs = range(portion_ends, max(first, portion_ends - RUNS_AT_ONCE + 1) - 1, -1)
        found = side_by_side.each(partial(_run, context, job_id), epochs, at_once_max=context.store.concurrency)
        for epoch, run in zip(epochs, found, strict=True):
            row = run if epoch not in told else {"id": run_id(job_id, epoch), **(run or {}), **told[epoch]}
            if row is not None and not filling.add(row):
                return _runs(filling, oldest=epoch + 1)
    return _runs(filling, oldest=first)


def _runs(filling: pages.Filling, *, oldest: int) -> Settlement:
    """A page that was filled from its end; the next one is before the `oldest` that was looked at."""
    cursor = str(oldest) if oldest > 1 else None
    return Settlement(Answer(Word.OK, body={"runs": filling.rows[::-1], "cursor": cursor}))


def _run(context: Context, job_id: str, epoch: int) -> dict[str, Any] | None:
    """One run; None where none is on record. One that does not parse is reported, and hides no other."""
    try:
        found = context.store.read(run_id(job_id, epoch), job_id)
        if isinstance(found, NotFound):
            return None
        Run.from_document(found.document)
        return shown(found.document)
    except Corrupt as error:
        log.error("run_corrupt", run=run_id(job_id, epoch), error=str(error))
        return None
