"""Does the same with many jobs, so many of them in one group of writes: thousands may come due at the same moment."""

from collections.abc import Callable, Iterable, Iterator
from functools import partial

import structlog
from msgspec import structs

from broker.documents import Job
from broker.exclusion import Slots, give_back_together
from broker.repository import read_job
from broker.settlement import Change, Context, Settlement, seen_to_stand
from datastore import DatastoreError, OutcomeUnknown

log = structlog.get_logger(__name__)

GROUP = 64
"""Jobs whose changes are written together: as many as a batch of requests has, after which others have their turn."""


def each(context: Context, jobs: Iterable[Job], act: Callable[[Context, Job], Settlement]) -> Iterator[Change]:
    """What `act` changes of each.

    Where a group can't be written they are tried one by one: the others are not to wait for the one that can't be.
    Where nobody knows whether it was, what is seen of it counts.
    """
    for group in _groups(jobs):
        leaving: list[Slots] = []
        together = structs.replace(context, leaving=leaving)
        changes: list[Change] = []
        try:
            with context.store.batch():
                changes += [change for job in group for change in attempt(partial(act, together, job))]
                give_back_together(context.store, context.entropy, leaving)
        except DatastoreError as error:
            log.warning("written_one_by_one", error=str(error))
            changes = seen_to_stand(context.store, changes) if isinstance(error, OutcomeUnknown) else []
            written = {change.after.id for change in changes}
            changes += [
                change for job in group if job.id not in written for change in attempt(partial(act, context, job))
            ]
        yield from changes


def attempt(act: Callable[[], Settlement]) -> tuple[Change, ...]:
    """What it changes; nothing where it fails, which holds up nothing else."""
    try:
        return act().changes
    except DatastoreError as error:
        log.warning("sweep_skips", error=str(error))
    except Exception:  # of one document, or a mistake of ours about it: the others are not to wait for that
        log.exception("sweep_skips")
    return ()


def read(context: Context, job_id: str) -> Job | None:
    """A job; None where there is none, or where it can't be read now, which holds up nothing else."""
    try:
        return read_job(context.store, job_id)
    except DatastoreError as error:
        log.warning("sweep_skips", job=job_id, error=str(error))
        return None


def _groups(jobs: Iterable[Job]) -> Iterator[list[Job]]:
    """So many at a time. What came before a failure comes before it here, too."""
    group: list[Job] = []
    failure: DatastoreError | None = None
    try:
        for job in jobs:
            group.append(job)
            if len(group) == GROUP:
                yield group
                group = []
    except DatastoreError as error:
        failure = error
    if group:
        yield group
    if failure is not None:
        raise failure
