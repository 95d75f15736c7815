"""Jobs and specs in a datastore; each update is one conditional write, confirmed. Runs: `broker.runs`."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any, TypeAlias

import structlog

from broker.documents import Job, Spec, as_stored, leasing_as_stored, spec_id
from broker.searches import pages, search
from broker.slots import Room
from datastore import (
    Conflict,
    Corrupt,
    Datastore,
    DatastoreError,
    Document,
    Expected,
    Filter,
    NotFound,
    Ok,
    OutcomeUnknown,
    Page,
    Unavailable,
    UpdateResult,
)
from datastore.confirm import WRITE_ID, confirmed_create, confirmed_update, confirmed_updates
from datastore.interface import Update
from datastore.json_body import spoken
from datastore.value import Value

log = structlog.get_logger(__name__)

_LEASE_FIELDS = frozenset({"lease", "updated_ms"})
INDEXES = ("state", "open")
"""Fields the sweep and the listings search by: a job's state, and whether the document of a run has no end yet."""


class Updated(Value, frozen=True):
    """Written: the job as it stands now."""

    job: Job
    room: tuple[Room, ...] = ()
    """Of a claim, see `settlement.Change`."""


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
    patch = as_stored(changes)
    found = confirmed_update(store, job.id, job.id, Expected.of(job.document), patch, write_id=write_id)
    return _updated(job, changes, found)


def _updated(job: Job, changes: Mapping[str, Any], found: UpdateResult) -> JobUpdate:
    if isinstance(found, Ok):
        return Updated(job.written(changes, found.document))
    if isinstance(found, Conflict):
        return Stale(None if found.current is None else Job.from_document(found.current))
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
    if not changes.keys() <= _LEASE_FIELDS:
        raise ValueError(f"a lease update must not change {sorted(changes.keys() - _LEASE_FIELDS)}")
    return rev_update_job(store, job, changes, write_id=write_id)


def rev_update_each(
    store: Datastore, leased: Sequence[tuple[Job, Mapping[str, Any]]], *, mark: str
) -> list[JobUpdate | DatastoreError]:
    """Apply these changes to each job, a lease among them. What `rev_update_job` would raise is given back.

    All text in them was stored before or is ASCII. The write ids are made of `mark`, which nothing else has.
    """
    patches = leasing_as_stored([changes for _, changes in leased])
    updates: list[Update] = []
    for number, ((job, _), patch) in enumerate(zip(leased, patches, strict=True)):
        patch[WRITE_ID] = f"{mark}-{number}"
        updates.append(Update(job.id, job.id, job.document, patch, ready=True))
    became: list[JobUpdate | DatastoreError] = []
    for (job, changes), found in zip(leased, confirmed_updates(store, updates), strict=True):
        try:
            if isinstance(found, Ok):
                became.append(Updated(job.written(changes, found.document)))
            else:
                became.append(found if isinstance(found, DatastoreError) else _updated(job, changes, found))
        except Corrupt as error:  # who came first has left no job behind, which concerns no other lease
            became.append(error)
    return became


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
    """What a grant carries of the spec: `payload` and `labels`, as they are stored, ready to be written as JSON.

    Raises:
      Unavailable: as `read_spec`.
    """
    fields = spoken(_spec_document(store, job_id).body)
    return {"payload": fields.get("payload"), "labels": fields.get("labels", {})}


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


PAGE_DOCUMENTS = 500
"""Documents asked for at once when all of them are wanted."""


def find_page(store: Datastore, filter: Filter, *, limit: int, cursor: str | None) -> Page:
    """One page; what of it does not parse is logged, for whoever runs the store."""
    return _reported(search(store, filter, limit=limit, cursor=cursor))


def find_documents(store: Datastore, filter: Filter) -> Iterator[Document]:
    """All documents that match, page by page; a proposal, since the search may be stale."""
    for page in pages(store, filter, limit=PAGE_DOCUMENTS):
        yield from _reported(page).documents


def _reported(page: Page) -> Page:
    for what in page.unreadable:
        log.error("document_unreadable", error=what)
    return page


def readable(documents: Iterable[Document]) -> Iterator[Job]:
    """The jobs in these documents. One that does not parse is reported and left alone: it hides no other."""
    for document in documents:
        try:
            yield Job.from_document(document)
        except Corrupt as error:
            log.error("job_corrupt", job=document.id, error=str(error))


def leased_by(store: Datastore, factory_id: str) -> Iterator[Job]:
    """What a factory holds. A job that does not parse is reported and left alone: nobody could end its lease."""
    yield from readable(find_documents(store, {"kind": "job", "state": "leased", "lease.factory_id": factory_id}))


def leased_jobs(store: Datastore) -> Iterator[Job]:
    """Every job that is leased, as far as a search shows; without those that don't parse."""
    for found in find_documents(store, {"kind": "job", "state": "leased"}):
        with suppress(Corrupt):
            yield Job.from_document(found)
