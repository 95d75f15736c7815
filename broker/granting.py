"""Grants at once what is simply granted: the claims of a batch for jobs that nobody holds, without locks and limits,
whose earlier runs are on record. They are nearly all.

Each is judged by the rule that it would be judged by alone, and written on the version that was judged.
"""

from collections.abc import Sequence
from typing import TypeAlias

import structlog

from broker import claiming, repository, runs, transitions
from broker.controls import Controls
from broker.documents import Job
from broker.failures import trace
from broker.limits import Limits, applying
from broker.messages import Claim
from broker.repository import Updated
from broker.settle import claimant, failed
from broker.settlement import Change, Context, Settlement
from broker.transitions import Claimant, Write
from broker.wire_types import is_job_id
from datastore import DatastoreError

log = structlog.get_logger(__name__)

Asked: TypeAlias = tuple[Claim, str | None]
"""A claim and, for a claim-next, the job it is to try."""


def granted(context: Context, claims: Sequence[Asked], *, now_ms: int) -> list[Settlement | None]:
    """What became of those that are simply granted; None of the others, for which nothing was done: they are to be
    settled alone, with all that may stand in their way. Each is for a job of its own.
    """
    try:
        return _granted(context, claims, now_ms)
    except DatastoreError:  # limits can't be read now
        return [None] * len(claims)
    except Exception:
        # A mistake of ours must not undo the batch of the others; alone, each finds out what became of it.
        log.error("grants_failed", claims=len(claims), exception=trace())
        return [None] * len(claims)


def _granted(context: Context, claims: Sequence[Asked], now_ms: int) -> list[Settlement | None]:
    settled: list[Settlement | None] = [None] * len(claims)
    controls = context.heeded()
    limits = controls.limits()
    judged = [
        (position, *found)
        for position, asked in enumerate(claims)
        if (found := _simply_granted(context, controls, limits, asked, now_ms)) is not None
    ]
    written_ms = now_ms if context.clock is None else context.clock.now_ms()  # the store may have been slow (I7)
    judged = [each for each in judged if not each[1].late(written_ms)]
    changed = [(job, write.changes) for _, _, job, write in judged]
    updates = repository.rev_update_each(context.store, changed, mark=context.entropy.write_id())
    for (position, _, job, write), update in zip(judged, updates, strict=True):
        if isinstance(update, Updated):
            settled[position] = claiming.with_spec(context, write.answer, (Change(job, update.job),))
        elif isinstance(update, DatastoreError):
            candidate = claims[position][1]
            settled[position] = failed(context, update, () if candidate is None else (candidate,))
    return settled


def _simply_granted(
    context: Context, controls: Controls, limits: Limits, asked: Asked, now_ms: int
) -> tuple[Claimant, Job, Write] | None:
    """Who asks, the job that was asked for, and its grant, if one write is all that this takes."""
    claim, candidate = asked
    body = claim.body
    job_id = body.job_id if candidate is None else candidate
    if job_id is None or body.expected_etag is not None:
        return None
    if candidate is not None and not is_job_id(candidate):  # out of the index, where somebody else has written it
        return None
    try:
        job = repository.read_job(context.store, job_id)
        if job is None or job.locks or job.lease is not None:  # what ends with a dead lease is more than one write
            return None
        factory_id = claim.factory_id
        if limits and applying(limits, job, factory_id):
            return None
        around = controls.around(job.queue, factory_id)
        who = claimant(context, claim, body.offers or around.factory.offers)
        if who.late(now_ms):
            return None
        decision = transitions.claim(job, who, now_ms=now_ms, rules=context.rules, around=around)
        if not isinstance(decision, Write):
            return None
        # The next end takes the place of the last one in the job: one that is not on record is put there first.
        recorded = runs.last_end_recorded(context.store, job)
    except DatastoreError:
        return None
    return (who, job, decision) if recorded else None
