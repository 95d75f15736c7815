"""Parents and children: a hint of who waits for whom, so that a job that ends frees its children at once.

A child's hint is written before its parents are looked at, and a parent is written before its hint is read:
whichever comes second sees the other. The sweep rebuilds the hint and finds what it missed.
"""

from collections.abc import Collection, Iterable, Sequence
from itertools import islice

import structlog
from redis import Redis
from redis.client import Pipeline

from broker import coordinator
from broker.documents import BLOCKED, TERMINAL, Job
from broker.index import names
from broker.parents import Parents
from broker.settlement import Change, Context, read_known, seen_to_stand
from datastore import DatastoreError, OutcomeUnknown

log = structlog.get_logger(__name__)

PORTION = 64
"""Children looked at in one go. They are written together, and whoever asks for something waits for no more of them."""
READS = 256
"""Reads in one go, give or take those of the last child: as many as one job has parents."""
SCANS = 8
"""Looks for more children in one go, where most who have ended have none."""
PARENTS_MAX = 10_000
"""Ended jobs that a worker keeps in mind; whom the others leave waiting, the sweep finds."""
CHILDREN_TTL_S = 86_400
"""What a crash has left in a hint ends with it. Where children wait, the sweep writes it again."""


def children_key(parent: str) -> str:
    """The set of jobs that are blocked by a parent."""
    return f"broker:children:{parent}"


def note(pipe: Pipeline, changes: Iterable[Change]) -> None:
    """Keep the hint in step with these jobs: one command for all siblings, of whom thousands may come at once."""
    waits: dict[str, dict[str, bool]] = {}
    for change in changes:
        before, after = change.before, change.after
        if after.state is BLOCKED or (before is not None and before.state is BLOCKED):
            for parent in after.depends_on:
                waits.setdefault(parent, {})[after.id] = after.state is BLOCKED  # the last change of a job counts
    for parent, children in waits.items():
        key = children_key(parent)
        if blocked := [child for child, still in children.items() if still]:
            pipe.sadd(key, *blocked)
            pipe.expire(key, CHILDREN_TTL_S)
        if free := [child for child, still in children.items() if not still]:
            pipe.srem(key, *free)


def ended(changes: Iterable[Change]) -> list[Job]:
    """Jobs that have just become terminal, for whom others may wait."""
    return [
        change.after
        for change in changes
        if change.after.state in TERMINAL and not (change.before and change.before.state in TERMINAL)
    ]


def ask(pipe: Pipeline, parents: Sequence[Job]) -> None:
    """Add the command that asks whether any of these has children, as most have none; its answer is the pipe's last."""
    if parents:
        pipe.exists(*(children_key(parent.id) for parent in parents))


class Descent:
    """Jobs that have ended and whose children are still to be looked at: some now, more between two batches.

    A family may be of thousands, and those who hold leases are not to wait for it. All children are looked at once,
    whoever has submitted them and whatever else they wait for: where a family is in its set, the scan's cursor says.
    The families take turns. What is in mind goes with its worker; the sweep finds those children.
    """

    def __init__(self) -> None:
        self._parents: dict[str, int] = {}
        """Each with the cursor at which the scan of its children goes on."""
        self._children: dict[str, list[str]] = {}
        """Those that were found and not looked at yet, each with the parents it was found by."""

    def __bool__(self) -> bool:
        """Whether there may be children to look at."""
        return bool(self._parents or self._children)

    def add(self, parents: Iterable[str]) -> None:
        """Keep them in mind. A scan of one that goes on begins anew: it may have ended again."""
        for parent in parents:
            if len(self._parents) >= PARENTS_MAX:
                break
            self._parents[parent] = 0

    def go_on(self, context: Context, connection: Redis, *, now_ms: int) -> list[Change]:
        """Look at a portion of the children: free or cancel those that wait for nobody any more."""
        for _ in range(SCANS):
            if len(self._children) < PORTION and self._parents:
                self._find(connection)
        known = Parents()
        free: list[tuple[Job, list[str]]] = []
        for looked, (child, parents) in enumerate(list(islice(self._children.items(), PORTION))):
            if looked + known.reads >= READS:
                break
            del self._children[child]
            job = _waits_no_more(context, child, known, parents, now_ms=now_ms)
            if job is not None:
                free.append((job, parents))
        changes = _write_together(context, free, known, now_ms=now_ms)
        self.add(parent.id for parent in ended(changes))
        return changes

    def _find(self, connection: Redis) -> None:
        """Scan for more children. Those who have had a turn stand behind the others."""
        scanned = dict(islice(self._parents.items(), PORTION))
        for parent in scanned:
            del self._parents[parent]  # whatever comes of it: a set that can't be read is not met again and again
        with connection.pipeline(transaction=False) as pipe:
            for parent, cursor in scanned.items():
                pipe.sscan(children_key(parent), cursor, count=PORTION)
            found = pipe.execute()
        waiting: dict[str, int] = {}
        for parent, (cursor, members) in zip(scanned, found, strict=True):
            if len(self._children) >= PORTION:
                waiting[parent] = scanned[parent]
                continue
            for child in names(members):
                self._children.setdefault(child, []).append(parent)
            if cursor:
                self._parents[parent] = cursor
        self._parents = waiting | self._parents


def _waits_no_more(
    context: Context, child: str, known: Parents, parents: Collection[str], *, now_ms: int
) -> Job | None:
    """The child if it is worth a write, as reads show it and its parents. Most of a family may wait for others, too."""
    try:
        job = read_known(context, child)
        if job is not None and coordinator.waits_no_more(context, job, now_ms=now_ms, known=known, ended=parents):
            return job
    except DatastoreError as error:
        log.warning("child_not_looked_at", job=child, error=str(error))  # the sweep will
    return None


def _write_together(
    context: Context, free: Sequence[tuple[Job, Collection[str]]], known: Parents, *, now_ms: int
) -> list[Change]:
    """Free or cancel these, with one group of writes. Where that fails, the sweep looks at each."""
    if not free:  # as of most: others are not to wait for a group of nothing
        return []
    changes: list[Change] = []
    try:
        with context.store.batch():
            for job, parents in free:
                changes += _unblocked(context, job.id, now_ms=now_ms, job=job, known=known, ended=parents)
    except DatastoreError as error:
        log.warning("children_not_looked_at", error=str(error))
        return seen_to_stand(context.store, changes) if isinstance(error, OutcomeUnknown) else []
    return changes


def look(context: Context, children: Iterable[str], *, now_ms: int) -> list[Change]:
    """Free or cancel every one of these whose parents have ended."""
    known = Parents()
    return [change for child in children for change in _unblocked(context, child, now_ms=now_ms, known=known)]


def _unblocked(
    context: Context,
    child: str,
    *,
    now_ms: int,
    known: Parents,
    job: Job | None = None,
    ended: Collection[str] = (),
) -> Sequence[Change]:
    try:
        return coordinator.unblock(context, child, now_ms=now_ms, job=job, known=known, ended=ended).changes
    except DatastoreError as error:
        log.warning("child_not_looked_at", job=child, error=str(error))  # the sweep will
        return ()
