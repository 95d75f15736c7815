"""Looks whether blocked jobs still have to wait: what whoever ended a parent has missed, and hints that were lost."""

from collections import deque
from collections.abc import Iterator
from functools import partial

import structlog
from redis import Redis

from broker import coordinator, repository
from broker.clock import Steady
from broker.documents import Job
from broker.index import INDEXED
from broker.parents import Parents
from broker.settlement import Change, Context
from datastore import DatastoreError
from workers import together
from workers.rounds import Round

log = structlog.get_logger(__name__)

PARENTS_READ = 20_000
"""Parents read in one sweep: half a second on SQLite."""
LOOK_MS = 2_000
"""Nor is another job looked at in that sweep after as long, whatever a read takes: dead leases and schedules are not to
wait for this, and the sweep has its lock for 15 s."""
PAGE = 64


class Blocked:
    """Goes over the blocked jobs, as many in each sweep as it has reads and time for, and goes on there in the next."""

    def __init__(self, context: Context, connection: Redis, *, steady_ms: Steady) -> None:
        self._context = context
        self._redis = connection
        self._steady_ms = steady_ms
        self._round = Round(context.store, "blocked")
        self._page: deque[Job] = deque()
        """Those of the last page that are still to be looked at."""

    def go_on(self, now_ms: int) -> Iterator[Change]:
        """Free or cancel those that wait no more. Of the others the hint that they wait is written again.

        After Redis has lost everything the hints come first, all of them, which takes no look at any parent.
        """
        lost = not self._redis.exists(INDEXED)
        if lost:
            search = {"kind": "job", "state": "blocked"}
            found = repository.find_documents(self._context.store, search)
            yield from (Change(None, job) for job in repository.readable(found))
        known, until_ms = Parents(), self._steady_ms() + LOOK_MS
        while True:
            if not self._page:
                page = self._round.next_page(PAGE)
                self._page.extend(repository.readable(page.documents))
                self._round.gone_over(page)
                yield from [] if lost else [Change(None, job) for job in self._page]
            yield from self._look(known, until_ms, now_ms)
            if self._page or self._round.over or self._spent(known, until_ms):
                return

    def _look(self, known: Parents, until_ms: int, now_ms: int) -> Iterator[Change]:
        """At those of a page for which there is time, at one at least."""
        over: list[Job] = []
        while self._page:
            job = self._page.popleft()
            if self._waits_no_more(job, known, now_ms):
                over.append(job)
            if self._spent(known, until_ms):
                break
        for change in together.each(self._context, over, partial(_unblock, known=known, now_ms=now_ms)):
            known.forget(change.after.id)
            yield change

    def _spent(self, known: Parents, until_ms: int) -> bool:
        return known.reads >= PARENTS_READ or self._steady_ms() >= until_ms

    def _waits_no_more(self, job: Job, known: Parents, now_ms: int) -> bool:
        """Whether a blocked job is worth a write, as reads show its parents."""
        try:
            return coordinator.waits_no_more(self._context, job, now_ms=now_ms, known=known)
        except DatastoreError as error:
            log.warning("sweep_skips", job=job.id, error=str(error))
            return False


def _unblock(context: Context, job: Job, *, known: Parents, now_ms: int) -> coordinator.Settlement:
    """It is read once more: it may have been found a sweep ago."""
    return coordinator.unblock(context, job.id, now_ms=now_ms, known=known)
