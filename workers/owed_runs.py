"""Writes the runs of jobs that have ended, whose end could not be put on record.

That they are owed is a note in Redis. Where that may have been lost, since another server answers than the sweep knew,
every job that has ended lately is looked at.
"""

from contextlib import suppress

import structlog
from redis import Redis

from broker import owed, repository, runs
from broker.documents import Job, State
from broker.settlement import Context, read_known
from datastore import AtLeast, Corrupt, DatastoreError, Filter

log = structlog.get_logger(__name__)

LOOKED = "broker:owed:server"
"""The server for which the look at ended jobs is done: its run id, which a restart and a promoted replica change."""
ENDED = tuple(state.value for state in State if state.terminal)
"""States of jobs that no later grant makes up for."""
LATELY_MS = 86_400_000
"""What ended longer ago had a day for the sweep to write its run."""
LANDING_MS = 60_000
"""What was on its way as the server went may end a job for as long, and a search may not show it yet."""
PAGE = 100
"""Jobs of a state looked at in one sweep; each costs a read."""


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


class Look:
    """Goes over the jobs that have ended, a page of each state in a sweep, and notes what is owed."""

    def __init__(self, context: Context, connection: Redis) -> None:
        self._context = context
        self._redis = connection
        self._server: str | None = None
        """The one for which a look goes on, and since when."""
        self._since_ms = 0
        self._last = False
        """Whether this is the second and last round: what has landed meanwhile is seen, too."""
        self._left: dict[str, str | None] = {}
        """States that this round has not gone over, each with the page that is next."""

    def go_on(self, now_ms: int) -> None:
        """Look at the next ones, unless that is done for this server.

        Raises:
          DatastoreError: one of them can't be read now; the next sweep goes on from there.
        """
        server = str(self._redis.info("server").get("run_id"))
        if self._redis.get(LOOKED) == server.encode():
            self._server = None  # done, maybe by another sweep: should the mark be lost, a look begins anew
            return
        if server != self._server:
            self._server, self._since_ms, self._last, self._left = server, now_ms, False, dict.fromkeys(ENDED)
        elif not self._left and now_ms - self._since_ms >= LANDING_MS:
            self._last, self._left = True, dict.fromkeys(ENDED)
        for state, cursor in list(self._left.items()):
            if (following := self._page(state, cursor, now_ms)) is None:
                del self._left[state]
            else:
                self._left[state] = following
        if self._last and not self._left:
            self._redis.set(LOOKED, server)
            self._server = None

    def _page(self, state: str, cursor: str | None, now_ms: int) -> str | None:
        """Look at a page of jobs; where the next one begins."""
        store = self._context.store
        search: Filter = {"kind": "job", "state": state, "updated_ms": AtLeast(self._since_ms - LATELY_MS)}
        page = repository.find_page(store, search, limit=PAGE, cursor=cursor)
        for document in page.documents:
            with suppress(Corrupt):  # as every listing says of it
                if not runs.last_end_recorded(store, Job.from_document(document)):
                    owed.note_again(self._redis, document.id, now_ms)
        return page.cursor
