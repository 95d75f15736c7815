"""Reading: a job with its spec, pages of jobs, the runs of a job. Tokens never leave the store this way."""

from collections.abc import Iterable, Iterator
from typing import Any

import structlog

from broker import coordinator, repository, runs
from broker.answers import Answer, Word
from broker.coordinator import Context, Settlement
from broker.documents import Job, Lease, Run, RunEnd, left_out, run_id
from broker.messages import GetJob, ListJobs, ListRuns
from broker.wire_types import PAGE_MAX
from datastore import Corrupt, Document
from datastore.interface import Condition

log = structlog.get_logger(__name__)

HIDDEN_FIELDS = frozenset({"kind", "write_id", "open"})
"""The broker's own marks; they tell a reader nothing."""
ALWAYS_SAID = {
    name: left_out(Job)[name]
    for name in ("priority", "max_failures", "max_expiries", "epoch", "created_ms", "updated_ms", "counters")
} | {"requires": [], "locks": [], "depends_on": [], "recent_requests": []}
"""What is said of every job, though its document may leave it out: whoever reads a listing counts on it."""
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
        states = coordinator.parent_states(context, job)
        body["parents"] = {parent: states.get(parent) for parent in job.depends_on}
    return Settlement(Answer(Word.OK, body=body))


def list_jobs(context: Context, request: ListJobs, _now_ms: int) -> Settlement:
    """One page of jobs by state and queue; as stale as a search may be."""
    body = request.body
    filter: dict[str, Condition] = {"kind": "job"}
    if body.state is not None:
        filter["state"] = body.state.value
    if body.queue is not None:
        filter["queue"] = body.queue
    page = repository.find_page(context.store, filter, limit=body.limit, cursor=body.cursor)
    jobs = [shown(job.document) for job in repository.readable(page.documents)]
    return Settlement(Answer(Word.OK, body={"jobs": jobs, "cursor": page.cursor}))


def list_runs(context: Context, request: ListRuns, _now_ms: int) -> Settlement:
    """The runs of one job in order of epoch; the latest `PAGE_MAX` of them. An open run's renewals are its lease's."""
    job_id = request.body.job_id
    found = repository.find_documents(context.store, {"partition_key": job_id, "kind": "run"})
    by_epoch = dict(_readable(found))
    job = repository.read_job(context.store, job_id)
    if job is None:
        return Settlement(Answer(Word.NOT_FOUND, body={"job_id": job_id}))
    for told in runs.told_by(job):
        epoch = told["epoch"]
        by_epoch[epoch] = {"id": run_id(job_id, epoch), **by_epoch.get(epoch, {}), **_whole(told)}
    listed = [by_epoch[epoch] for epoch in sorted(by_epoch)][-PAGE_MAX:]
    return Settlement(Answer(Word.OK, body={"runs": listed}))


def _readable(documents: Iterable[Document]) -> Iterator[tuple[int, dict[str, Any]]]:
    """Runs by epoch. One that does not parse is reported, and hides no other."""
    for document in documents:
        try:
            yield Run.from_document(document).epoch, shown(document)
        except Corrupt as error:
            log.error("run_corrupt", run=document.id, error=str(error))
