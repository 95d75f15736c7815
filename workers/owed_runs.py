"""Writes the runs of jobs that have ended, whose end could not be put on record."""

import structlog
from redis import Redis

from broker import owed, repository, runs
from broker.documents import Job
from broker.settlement import Context, read_known
from datastore import DatastoreError

log = structlog.get_logger(__name__)


def write(context: Context, connection: Redis, *, now_ms: int) -> int:
    """Write those that have waited longest; how many were written.

    Nothing keeps the others waiting: a job that nobody knows is forgotten, and one whose run can't be written now
    stands behind.
    """
    written = 0
    for job_id in owed.jobs(connection):
        try:
            job = read_known(context, job_id)
            recorded = job is not None and _recorded(context, job)
        except DatastoreError as error:
            log.error("run_not_mended", id=job_id, error=str(error))
            owed.put_behind(connection, job_id, now_ms)
            continue
        if recorded or job is None:
            owed.forget(connection, job_id)
        else:
            owed.put_behind(connection, job_id, now_ms)
        written += recorded
    return written


def _recorded(context: Context, job: Job) -> bool:
    """Of the job as it stands: as it was before it says nothing of the run that is owed."""
    if not repository.stands(context.store, job, write_id=context.entropy.write_id()):
        return False
    runs.record_last_end(context.store, context.entropy, job)
    return True
