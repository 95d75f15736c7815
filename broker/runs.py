"""Runs: what became of each epoch of a job (I3). The job itself is the record of the latest ones.

Its lease is the run that goes on, and its `last_end` the one that ended last: each is written by the compare-and-set
that grants or ends it. A run gets a document of its own as it ends, or as it reports progress, and always before its
job forgets it.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from broker.documents import Job, Lease, Outcome, Run, RunEnd, run_id
from broker.entropy import Entropy
from broker.repository import JobUpdate, rev_update_job
from datastore import UNSET, Datastore, Expected, NotFound, Ok, OutcomeUnknown
from datastore.confirm import confirmed_create, confirmed_update

RUN_WRITES_MAX = 4
"""Tries to end a run against its own holder's progress reports."""


def read_run(store: Datastore, job_id: str, epoch: int) -> Run | None:
    """The document of the run at `epoch`, or None.

    Raises:
      Corrupt: the stored document is not a run.
    """
    found = store.read(run_id(job_id, epoch), job_id)
    return Run.from_document(found.document) if isinstance(found, Ok) else None


def told_by(job: Job) -> Iterator[dict[str, Any]]:
    """The runs that the job is the record of, as their documents would say it: that which ended last, the open one."""
    if job.last_end is not None:
        yield {"job_id": job.id, **job.last_end.plain()}
    if job.lease is not None:
        yield {**_begun(job.id, job.lease), "renewals": job.lease.renewals}


def write_open_run(
    store: Datastore, entropy: Entropy, job_id: str, lease: Lease, changes: Mapping[str, Any]
) -> Run | None:
    """Change the document of a lease's run, and make it where there is none: the run as it stands. None: it has ended.

    Raises:
      OutcomeUnknown: others kept writing it.
    """
    run = run_id(job_id, lease.epoch)
    for _ in range(RUN_WRITES_MAX):
        match store.read(run, job_id):
            case Ok(document) if document.body.get("ended_ms") is None:
                expected = Expected(etag=document.etag, known=document)
                written = confirmed_update(store, run, job_id, expected, changes, write_id=entropy.write_id())
            case Ok(_):
                return None
            case NotFound():
                opened = {"kind": "run", "open": True, **_begun(job_id, lease), **changes}
                written = confirmed_create(store, run, job_id, opened, write_id=entropy.write_id())
        if isinstance(written, Ok):
            return Run.from_document(written.document)
    raise OutcomeUnknown(f"{run!r}: {RUN_WRITES_MAX} writes in a row lost their race")


def end_run(store: Datastore, entropy: Entropy, job_id: str, end: RunEnd) -> None:
    """Put a run that is over on record, unless it is.

    Raises:
      OutcomeUnknown: it may not be; whoever asked repeats the request.
    """
    run, ended = run_id(job_id, end.epoch), {"job_id": job_id, **end.plain()}
    for _ in range(RUN_WRITES_MAX):
        written = confirmed_create(store, run, job_id, {"kind": "run", **ended}, write_id=entropy.write_id())
        if isinstance(written, Ok):
            return
        opened = written.current  # it has reported progress, or its end is on record
        if opened is not None:
            if opened.body.get("ended_ms") is not None:
                return
            expected, changes = Expected(etag=opened.etag, known=opened), {"open": UNSET, **ended}
            changed = confirmed_update(store, run, job_id, expected, changes, write_id=entropy.write_id())
            if isinstance(changed, Ok):
                return
    raise OutcomeUnknown(f"{run!r}: {RUN_WRITES_MAX} writes in a row lost their race")


def record_last_end(store: Datastore, entropy: Entropy, job: Job) -> None:
    """Put the run of the lease that ended last on record, unless it is: the job is about to forget it, or is read by
    whoever makes up for a crash.
    """
    if job.last_end is not None and not last_end_recorded(store, job):
        end_run(store, entropy, job.id, job.last_end)


def last_end_recorded(store: Datastore, job: Job) -> bool:
    """Whether there is nothing to put on record of the lease that ended last.

    Raises:
      Corrupt: what is stored for it is not a run.
    """
    if job.last_end is None:
        return True
    run = read_run(store, job.id, job.last_end.epoch)
    return run is not None and run.ended_ms is not None


def end_unasked(
    entropy: Entropy, store: Datastore, job: Job, changes: Mapping[str, Any], *, write_id: str
) -> JobUpdate:
    """`rev_update_job`, where nobody is sure to repeat a request that ends this lease: not time, not an operator.

    What ends a job for good is made up for by no later grant. So its run is opened first: where this process dies
    between the two, the sweep finds a run without an end.
    """
    state = changes.get("state")
    if job.lease is not None and state is not None and state.terminal:
        write_open_run(store, entropy, job.id, job.lease, {})
    return rev_update_job(store, job, changes, write_id=write_id)


def superseded_end(run: Run, job: Job, now_ms: int) -> RunEnd:
    """The end of an open run whose job is over it: as the job says, or where it says nothing, only that it is over."""
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


def _begun(job_id: str, lease: Lease) -> dict[str, Any]:
    return {
        "job_id": job_id,
        "epoch": lease.epoch,
        "factory_id": lease.factory_id,
        "incarnation": lease.incarnation,
        "request_id": lease.request_id,
        "started_ms": lease.granted_ms,
    }
