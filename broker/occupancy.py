"""Tells who stands in the way of a job's locks and quotas, with the lease behind each entry."""

from typing import Any

from broker.answers import Reason
from broker.documents import Job
from broker.exclusion import Busy, Slots
from broker.obstacles import Obstacle
from broker.settlement import Context
from broker.slots import Holder

HOLDERS_TOLD_MAX = 8


def busy_obstacle(busy: Busy, *, now_ms: int) -> Obstacle:
    """The obstacle that a busy slot is: which key, and which jobs hold it where and for how long still."""
    told = [_occupant(holder, busy.jobs.get(holder.job_id), now_ms) for holder in busy.holders[:HOLDERS_TOLD_MAX]]
    return Obstacle(Reason.LOCK_BUSY, {"key": busy.key, "holders": told})


def standing(context: Context, job: Job, *, now_ms: int) -> list[Obstacle]:
    """Every slot that keeps this job from being claimed now. Reads only."""
    slots = Slots.of(context.store, context.entropy, job, epoch=job.epoch + 1, request_id="")
    return [] if slots is None else [busy_obstacle(busy, now_ms=now_ms) for busy in slots.busy(now_ms=now_ms)]


def _occupant(holder: Holder, job: Job | None, now_ms: int) -> dict[str, Any]:
    told: dict[str, Any] = {"job_id": holder.job_id, "epoch": holder.epoch, "mode": holder.mode.value}
    if job is not None and job.lease is not None and job.epoch == holder.epoch:
        told |= {"factory": job.lease.factory_id, "remaining_ms": max(0, job.lease.expires_ms - now_ms)}
    return told
