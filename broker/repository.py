"""Jobs, specs and runs in a datastore; each update is one conditional write, confirmed."""

from collections.abc import Iterator, Mapping
from contextlib import suppress
from enum import Enum
from typing import Any, TypeAlias

from broker.documents import Job, Lease, Outcome, Run, RunEnd, Spec, as_stored, run_id, spec_id
from datastore import (
    Conflict,
    Corrupt,
    Datastore,
    Document,
    Expected,
    Filter,
    NotFound,
    Ok,
    OutcomeUnknown,
    Unavailable,
)
from datastore.confirm import confirmed_create, confirmed_update
from datastore.value import Value

INDEXES = ("state", "open")
"""Fields the sweep and the listings search by: a job's state, and whether a run has no end yet."""
RUN_WRITES_MAX = 4
"""Tries to end a run against its own holder's progress reports."""


class Updated(Value, frozen=True):
    """Written: the job as it stands now."""

    job: Job


class Stale(Value, frozen=True):
    """Another write came first; nothing was written. `current` is None where it could not be read."""

    current: Job | None


class Missing(Value, frozen=True):
    """There is no such job."""


JobUpdate: TypeAlias = Updated | Stale | Missing


def read_job(store: Datastore, job_id: str) -> Job | None:
    """The job, or None.

    Raises:
      Corrupt: the stored document is not a job.
    """
    found = store.read(job_id, job_id)
    return Job.from_document(found.document) if isinstance(found, Ok) else None


def rev_update_job(store: Datastore, job: Job, changes: Mapping[str, Any], *, write_id: str) -> JobUpdate:
    """Apply `changes` if the job is still the version `job` was read from. One conditional write.

    Raises:
      NotApplied: certainly nothing was written.
      OutcomeUnknown: even a second look could not tell; the caller repeats its request id.
    """
    known = job.document
    expected = Expected(etag=known.etag, rev=known.rev, known=known)
    match confirmed_update(store, known.id, known.partition_key, expected, as_stored(changes), write_id=write_id):
        case Ok(document):
            return Updated(job.written(changes, document))
        case Conflict(current):
            return Stale(None if current is None else Job.from_document(current))
        case NotFound():
            return Missing()


def stands(store: Datastore, job: Job, *, write_id: str) -> bool:
    """Whether this version of a job is the one that stands: it can be written on. A read alone may be stale.

    Raises:
      NotApplied, OutcomeUnknown: as `rev_update_job`.
    """
    return isinstance(rev_update_job(store, job, {}, write_id=write_id), Updated)


def rev_update_lease(store: Datastore, job: Job, changes: Mapping[str, Any], *, write_id: str) -> JobUpdate:
    """Change nothing but the lease of the version `job` was read from. One conditional write.

    Raises:
      ValueError: `changes` reaches beyond the lease.
      NotApplied, OutcomeUnknown: as `rev_update_job`.
    """
    if not set(changes) <= {"lease", "updated_ms"}:
        raise ValueError(f"a lease update must not change {sorted(set(changes) - {'lease', 'updated_ms'})}")
    return rev_update_job(store, job, changes, write_id=write_id)


def create_spec(store: Datastore, spec: Spec, *, write_id: str) -> Spec:
    """Store `spec` unless the job has one; the spec that is stored afterwards."""
    body = {"kind": "spec", **spec.plain()}
    match confirmed_create(store, spec_id(spec.job_id), spec.job_id, body, write_id=write_id):
        case Ok(_):
            return spec
        case Conflict(current):
            return read_spec(store, spec.job_id) if current is None else Spec.from_document(current)


def read_spec(store: Datastore, job_id: str) -> Spec:
    """What was submitted.

    Raises:
      Unavailable: no read shows it. It was stored before its job, so either this one was stale, or no broker made it.
      Corrupt: what is stored is no spec.
    """
    return Spec.from_document(_spec_document(store, job_id))


def read_submitted(store: Datastore, job_id: str) -> dict[str, Any]:
    """What a grant carries of the spec: `payload` and `labels`, as they are stored.

    Raises:
      Unavailable: as `read_spec`.
    """
    body = _spec_document(store, job_id).body
    return {"payload": body.get("payload"), "labels": body.get("labels", {})}


def _spec_document(store: Datastore, job_id: str) -> Document:
    found = store.read(spec_id(job_id), job_id)
    if isinstance(found, NotFound):
        raise Unavailable(f"no read shows the spec of {job_id!r}")
    return found.document


def create_job(store: Datastore, job_id: str, body: Mapping[str, Any], *, write_id: str) -> tuple[Job, bool]:
    """Store the first version of a job unless it exists: (the job as stored, whether this call created it)."""
    match confirmed_create(store, job_id, job_id, body, write_id=write_id):
        case Ok(document):
            return Job.from_document(document), True
        case Conflict(current):
            existing = read_job(store, job_id) if current is None else Job.from_document(current)
            if existing is None:
                raise OutcomeUnknown(f"{job_id!r} exists, but a read does not show it yet")
            return existing, False


def read_run(store: Datastore, job_id: str, epoch: int) -> Run | None:
    """The run at `epoch`, or None.

    Raises:
      Corrupt: the stored document is not a run.
    """
    found = store.read(run_id(job_id, epoch), job_id)
    return Run.from_document(found.document) if isinstance(found, Ok) else None


def start_run(store: Datastore, job_id: str, lease: Lease, *, write_id: str) -> None:
    """Create the run record of a grant, unless it exists (I3)."""
    body: dict[str, Any] = {
        "kind": "run",
        "open": True,
        "job_id": job_id,
        "epoch": lease.epoch,
        "factory_id": lease.factory_id,
        "incarnation": lease.incarnation,
        "request_id": lease.request_id,
        "started_ms": lease.granted_ms,
    }
    confirmed_create(store, run_id(job_id, lease.epoch), job_id, body, write_id=write_id)


def end_run(store: Datastore, job_id: str, end: RunEnd, *, write_id: str) -> None:
    """End the run of `end.epoch` unless it has an end; create it ended where its start was never written.

    Raises:
      OutcomeUnknown: it may still be open; whoever asked repeats the request.
    """
    changes = {"open": False, **end.plain()}
    body = {"kind": "run", "job_id": job_id, **changes}
    for _ in range(RUN_WRITES_MAX):
        if update_open_run(store, job_id, end.epoch, changes, write_id=write_id) is not RunUpdate.MISSING:
            return
        if isinstance(confirmed_create(store, run_id(job_id, end.epoch), job_id, body, write_id=write_id), Ok):
            return
        # It is there after all: the read was a stale one.
    raise OutcomeUnknown(f"{run_id(job_id, end.epoch)!r} is there, but reads do not show it")


def record_latest_run(store: Datastore, job: Job, *, write_id: str) -> None:
    """Make up for what the job says of its runs, where a crash or a failing store left it out (I3)."""
    record_last_end(store, job, write_id=write_id)
    if job.lease is not None and read_run(store, job.id, job.lease.epoch) is None:
        start_run(store, job.id, job.lease, write_id=write_id)


def record_last_end(store: Datastore, job: Job, *, write_id: str) -> None:
    """End the run of the lease that ended last, unless that is on record."""
    if job.last_end is not None:
        run = read_run(store, job.id, job.last_end.epoch)
        if run is None or run.ended_ms is None:
            end_run(store, job.id, job.last_end, write_id=write_id)


class RunUpdate(Enum):
    """What became of a change to a run."""

    CHANGED = "changed"
    ENDED = "it has an end, and stays as it is"
    MISSING = "a read does not show it"


def update_open_run(
    store: Datastore, job_id: str, epoch: int, changes: Mapping[str, Any], *, write_id: str
) -> RunUpdate:
    """Change a run that has no end yet.

    Raises:
      OutcomeUnknown: others kept writing it.
    """
    written = _write_open_run(store, job_id, epoch, changes, write_id=write_id)
    return RunUpdate.CHANGED if isinstance(written, Document) else written


def open_run_that_stands(store: Datastore, job_id: str, epoch: int, *, write_id: str) -> Run | None:
    """A run that has no end, as it is now: it was written on. None: it has ended, or no read shows it.

    Raises:
      OutcomeUnknown: others kept writing it.
    """
    written = _write_open_run(store, job_id, epoch, {}, write_id=write_id)
    return Run.from_document(written) if isinstance(written, Document) else None


def _write_open_run(
    store: Datastore, job_id: str, epoch: int, changes: Mapping[str, Any], *, write_id: str
) -> Document | RunUpdate:
    run = run_id(job_id, epoch)
    for _ in range(RUN_WRITES_MAX):
        match store.read(run, job_id):
            case Ok(document) if document.body.get("ended_ms") is None:
                expected = Expected(etag=document.etag, known=document)
                match confirmed_update(store, run, job_id, expected, changes, write_id=write_id):
                    case Ok(changed):
                        return changed
                    case NotFound():
                        return RunUpdate.MISSING
                    case Conflict(_):
                        continue
            case Ok(_):
                return RunUpdate.ENDED
            case NotFound():
                return RunUpdate.MISSING
    raise OutcomeUnknown(f"{run!r}: {RUN_WRITES_MAX} writes in a row lost their race")


PAGE_DOCUMENTS = 500
"""Documents asked for at once when all of them are wanted."""


def find_documents(store: Datastore, filter: Filter) -> Iterator[Document]:
    """All documents that match, page by page; a proposal, since the search may be stale."""
    cursor = None
    while True:
        page = store.find(filter, limit=PAGE_DOCUMENTS, cursor=cursor)
        yield from page.documents
        cursor = page.cursor
        if cursor is None:
            return


def leased_by_request(store: Datastore, factory_id: str, request_id: str, *, at_most: int) -> list[Job]:
    """The jobs whose leases were granted to this request: one, or up to `at_most` where it asked for several."""
    search: Filter = {"state": "leased", "lease.request_id": request_id, "lease.factory_id": factory_id}
    page = store.find(search, limit=at_most)
    return [Job.from_document(document) for document in page.documents]


def leased_jobs(store: Datastore) -> list[Job]:
    """Every job that is leased, as far as a search shows; without those that don't parse."""
    jobs = []
    for found in find_documents(store, {"kind": "job", "state": "leased"}):
        with suppress(Corrupt):
            jobs.append(Job.from_document(found))
    return jobs


def superseded_end(run: Run, job: Job, now_ms: int) -> RunEnd:
    """The end of an open run its job no longer accounts for: two crashes in a row left only that it is over."""
    if job.last_end is not None and job.last_end.epoch == run.epoch:
        return job.last_end
    return RunEnd(
        epoch=run.epoch,
        factory_id=run.factory_id,
        incarnation=run.incarnation,
        request_id=run.request_id,
        started_ms=run.started_ms,
        ended_ms=now_ms,
        outcome=Outcome.SUPERSEDED,
    )
