"""Jobs that stand aside, as the sweep finds them: they stay there for as long as the slot they wait at admits nobody.

Offered again with each sweep, a thousand of them would stand at the head of the index for a while, and hide every other
job of their queue from claims that give up after a few.
"""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import cast

import structlog
from redis import Redis

from broker import claiming, lock_waits
from broker.controls import Controls
from broker.documents import Job
from broker.limits import applying, limit_key, limit_name, sets_aside
from broker.settlement import Context, Wait
from broker.slots import SHARING, Mode, wants
from datastore import DatastoreError
from datastore.value import Value

log = structlog.get_logger(__name__)

SHARERS_MAX = 256
"""Jobs let through for a page of jobs that show one slot free to all who share it: the first may suit nobody who asks.
"""
LOOKS_MAX = 64
"""Slots that are read for one page of jobs. Of further ones some jobs are let through unseen: claims find out."""


class Aside(Value, frozen=True):
    """What of some jobs stands aside."""

    job_ids: frozenset[str]
    free: list[str]
    """Keys of slots at which one of these waits, and that admit somebody: whoever freed them has told nobody."""
    room: dict[tuple[str, Mode], int]
    """Where more may be had at once: slots and modes that one shares with others."""


def found(context: Context, connection: Redis, jobs: Iterable[Job], *, now_ms: int) -> Aside:
    """Which of these ready jobs stand aside, and where some are to be let through."""
    waiting = _waiting(connection, _slots_of(context, jobs), step_ms=context.rules.ageing_step_ms)
    ids = frozenset(job.id for _, job in waiting)
    free, unseen = _free(context, waiting, now_ms=now_ms)
    modes = {(each.key, lock_waits.mode_of(each.key, each.job)) for each in free if each.job is not None}
    room = {slot: SHARERS_MAX for slot in modes if slot[1] in SHARING}
    return Aside(ids, sorted({each.key for each in (*free, *unseen)}), room)


def _slots_of(context: Context, jobs: Iterable[Job]) -> dict[str, list[Job]]:
    """Where each may wait: at its locks, and at the limits on its keys."""
    slots: defaultdict[str, list[Job]] = defaultdict(list)
    choosy = [job for job in jobs if job.locks or job.concurrency]
    limits = Controls(context.store).limits() if any(job.concurrency for job in choosy) else {}
    for job in choosy:
        names = filter(sets_aside, applying(limits, job, ""))
        for key in {*(want.key for want in wants(job.locks)), *map(limit_key, names)}:
            slots[key].append(job)
    return slots


def _waiting(connection: Redis, slots: dict[str, list[Job]], *, step_ms: int) -> list[tuple[str, Job]]:
    """Who does wait at these, and where."""
    if not slots:
        return []
    modes: defaultdict[tuple[str, Mode], list[Job]] = defaultdict(list)
    for key, jobs in slots.items():
        for job in jobs:
            modes[key, lock_waits.mode_of(key, job)].append(job)
    with connection.pipeline(transaction=False) as pipe:
        for slot, jobs in modes.items():
            pipe.zmscore(lock_waits.waits_key(*slot), [lock_waits.entry(job, step_ms=step_ms) for job in jobs])
        shown = cast(list[list[float | None]], pipe.execute())
    return [
        (key, job)
        for ((key, _), jobs), scores in zip(modes.items(), shown, strict=True)
        for job, score in zip(jobs, scores, strict=True)
        if score is not None
    ]


def _free(
    context: Context, waiting: Sequence[tuple[str, Job]], *, now_ms: int
) -> tuple[Sequence[Wait], Sequence[Wait]]:
    """Who of these is admitted, and who perhaps: not looked at, or it can't be read. They are let through, and told."""
    ways = {(key, job.locks if limit_name(key) is None else ()): Wait(key, job) for key, job in waiting}
    looked, unseen = list(ways.values())[:LOOKS_MAX], list(ways.values())[LOOKS_MAX:]
    try:
        return claiming.now_free(context, looked, now_ms=now_ms), unseen
    except DatastoreError as error:
        log.warning("slots_not_read", error=str(error))
        return (), [*looked, *unseen]
