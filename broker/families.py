"""Parents and children: a hint of who waits for whom, so that a job that ends frees its children at once.

A child's hint is written before its parents are looked at, and a parent is written before its hint is read:
whichever comes second sees the other. The sweep rebuilds the hint and finds what it missed.
"""

from collections.abc import Iterable, Sequence
from itertools import chain
from typing import Any

import structlog
from redis import Redis
from redis.client import Pipeline

from broker import coordinator
from broker.documents import BLOCKED, Job
from broker.index import names
from broker.settlement import Change, Context
from datastore import DatastoreError

log = structlog.get_logger(__name__)

CHILDREN_MAX = 256
"""Children of one parent looked at in one round."""
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
        if change.after.state.terminal and not (change.before and change.before.state.terminal)
    ]


def ask(pipe: Pipeline, parents: Sequence[Job]) -> None:
    """Add the command that asks whether any of these has children; its answer, the pipe's last, goes to `found`."""
    if parents:
        pipe.exists(*(children_key(parent.id) for parent in parents))


def found(connection: Redis, parents: Sequence[Job], answer: Any) -> list[str]:
    """The ids of the children, where the answer to `ask` says that there are some: most jobs have none."""
    if not parents or not answer:
        return []
    with connection.pipeline(transaction=False) as pipe:
        for parent in parents:
            pipe.srandmember(children_key(parent.id), CHILDREN_MAX)
        return sorted(set(names(chain.from_iterable(pipe.execute()))))


def look(context: Context, children: Iterable[str], *, now_ms: int) -> list[Change]:
    """Free or cancel every child whose parents have ended."""
    changes: list[Change] = []
    for child in children:
        try:
            changes += coordinator.unblock(context, child, now_ms=now_ms).changes
        except DatastoreError as error:
            log.warning("child_not_looked_at", job=child, error=str(error))  # the sweep will
    return changes
