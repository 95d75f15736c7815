"""Parents and children: a hint of who waits for whom, so that a job that ends frees its children at once.

A child's hint is written before its parents are looked at, and a parent is written before its hint is read:
whichever comes second sees the other. The sweep rebuilds the hint and finds what it missed.
"""

from collections.abc import Collection, Iterable, Sequence
from itertools import chain, islice

import structlog
from redis import Redis
from redis.client import Pipeline

from broker import coordinator
from broker.documents import BLOCKED, TERMINAL, Job
from broker.index import names
from broker.settlement import Change, Context, seen_to_stand
from datastore import DatastoreError, OutcomeUnknown

log = structlog.get_logger(__name__)

PORTION = 64
"""Children looked at in one go. They are written together, and whoever asks for something waits for no more of them."""
PARENTS_MAX = 10_000
"""Ended jobs that a worker keeps in mind; whom the others leave waiting, the sweep finds."""
CHILDREN_TTL_S = 86_400
"""What a crash has left in a hint ends with it. Where children wait, the sweep writes it again."""


def children_key(parent: str) -> str:
    """The set of jobs that are blocked by a parent."""
    return f"broker:children:{parent}"


def note(pipe: Pipeline, changes: Iterable[Change]) -> None:
    """Keep the hint in step with these jobs."""
    for change in changes:
        before, after = change.before, change.after
        if after.state is BLOCKED:
            for parent in after.depends_on:
                pipe.sadd(key := children_key(parent), after.id)
                pipe.expire(key, CHILDREN_TTL_S)
        elif before is not None and before.state is BLOCKED:
            for parent in after.depends_on:
                pipe.srem(children_key(parent), after.id)


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

    A family may be of thousands, and those who hold leases are not to wait for it. What is in mind goes with its
    worker; the sweep finds those children.
    """

    def __init__(self) -> None:
        self._parents: dict[str, None] = {}

    def __bool__(self) -> bool:
        """Whether there may be children to look at."""
        return bool(self._parents)

    def add(self, parents: Iterable[str]) -> None:
        """Keep them in mind."""
        for parent in parents:
            if len(self._parents) >= PARENTS_MAX:
                break
            self._parents[parent] = None

    def go_on(self, context: Context, connection: Redis, *, now_ms: int) -> list[Change]:
        """Free or cancel some of the children. Their hints are to follow what became of them before the next go."""
        parents = list(islice(self._parents, PORTION))
        for parent in parents:
            del self._parents[parent]
        with connection.pipeline(transaction=False) as pipe:
            for parent in parents:
                pipe.srandmember(children_key(parent), PORTION)
            found = pipe.execute()
        children: dict[str, None] = {}
        full: set[str] = set()
        for parent, members in zip(parents, found, strict=True):
            if len(children) >= PORTION:
                self.add([parent])
                continue
            children |= dict.fromkeys(names(members))
            if len(members) == PORTION:
                full.add(parent)
        changes = _look_together(context, children, now_ms=now_ms)
        self.add(parent.id for parent in ended(changes))
        # Where some have gone, others of that parent may be found now. Those that none could be freed of wait for more.
        self.add(full.intersection(chain.from_iterable(change.after.depends_on for change in changes)))
        return changes


def _look_together(context: Context, children: Collection[str], *, now_ms: int) -> list[Change]:
    """As `look`, with one group of writes. Where that fails, the sweep looks at each."""
    if not children:  # as of most: others are not to wait for a group of nothing
        return []
    changes: list[Change] = []
    try:
        with context.store.batch():
            changes += look(context, children, now_ms=now_ms)
    except DatastoreError as error:
        log.warning("children_not_looked_at", error=str(error))
        return seen_to_stand(context.store, changes) if isinstance(error, OutcomeUnknown) else []
    return changes


def look(context: Context, children: Iterable[str], *, now_ms: int) -> list[Change]:
    """Free or cancel every child whose parents have ended."""
    changes: list[Change] = []
    for child in children:
        try:
            changes += coordinator.unblock(context, child, now_ms=now_ms).changes
        except DatastoreError as error:
            log.warning("child_not_looked_at", job=child, error=str(error))  # the sweep will
    return changes
