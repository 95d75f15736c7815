"""Tells who stands in the way of a job's locks and limits, with the lease behind each entry. Reads only."""

from collections.abc import Mapping
from typing import Any

from broker import quotas, repository
from broker.answers import Reason
from broker.controls import Controls
from broker.documents import Job
from broker.exclusion import Slots
from broker.limits import applying
from broker.obstacles import Obstacle
from broker.settlement import Context

HOLDERS_TOLD_MAX = 8


def standing(context: Context, controls: Controls, job: Job, *, factory_id: str | None, now_ms: int) -> list[Obstacle]:
    """Every lock and limit that keeps this job from being claimed now. `factory_id`: by whom, for that one's limit."""
    met: list[Obstacle] = []
    if job.locks:
        slots = Slots.of(context.store, context.entropy, job, epoch=job.epoch + 1, request_id="")
        for busy in slots.busy(now_ms=now_ms):
            holders = [quotas.shown(holder) for holder in busy.holders[:HOLDERS_TOLD_MAX]]
            met.append(Obstacle(Reason.LOCK_BUSY, {"key": busy.key, "holders": holders}))
    limits = controls.limits()
    for name in applying(limits, job, factory_id or ""):
        full = quotas.standing(context.store, context.entropy, name, limits[name], now_ms=now_ms, job_id=job.id)
        met += [] if full is None else [full]
    return [_with_time_left(context, each, now_ms) for each in met]


def _with_time_left(context: Context, met: Obstacle, now_ms: int) -> Obstacle:
    """For how long each holder still has its lease."""
    holders = met.detail.get("holders")
    if not holders:
        return met
    return Obstacle(met.reason, {**met.detail, "holders": [_occupant(context, each, now_ms) for each in holders]})


def _occupant(context: Context, holder: Mapping[str, Any], now_ms: int) -> dict[str, Any]:
    job = repository.read_job(context.store, holder["job_id"])
    lease = job.lease if job is not None and job.epoch == holder["epoch"] else None
    remaining = {} if lease is None else {"remaining_ms": max(0, lease.expires_ms - now_ms)}
    return {**holder, **remaining}
