"""What an operator sets for the whole fleet: limits, and pauses of queues."""

from collections.abc import Callable, Sequence
from typing import Any

import msgspec
import structlog

from broker import quotas, repository, shared_document
from broker.answers import Answer, Reason, Word
from broker.asked import has_done, remembering, who_asks
from broker.controls import FLEET_ID, Controls, FleetControl, Pause, parsed
from broker.documents import Job, State
from broker.limits import LIMITS_MAX, Limit, Limits, Rate, applying, limit_key, limited_queue, queue_limit, units
from broker.messages import (
    ListLimits,
    ListQueues,
    PauseQueue,
    RemoveLimit,
    Request,
    ResumeQueue,
    SetLimit,
)
from broker.settlement import Context, Settlement
from broker.slots import Holder
from datastore import Corrupt, DatastoreError

log = structlog.get_logger(__name__)

OPENED_MAX = 256
"""Jobs and claims that are let through at once where an operator opens something; the sweep finds the rest."""


def set_limit(context: Context, request: SetLimit, now_ms: int) -> Settlement:
    """Set a limit, or one half of it. Leases that stand go on, and count; nobody new is admitted above it.

    `outcome_unknown` where it is set and what runs could not be counted: the same request again does, or the sweep.
    """
    body = request.body
    name = body.limit
    given: dict[str, Any] = {field: getattr(body, field) for field in body.model_fields_set - {"limit"}}
    if given.get("rate") is not None:
        given["rate"] = Rate(count=given["rate"].count, per_ms=given["rate"].per_ms)
    merged: Limit | None = None

    def with_limit(fleet: FleetControl) -> FleetControl | None:
        nonlocal merged
        known = fleet.limits.get(name)
        merged = msgspec.structs.replace(known or Limit(since_ms=now_ms), **given)
        if merged.rate is not None and (known is None or known.rate is None):
            merged = msgspec.structs.replace(merged, rate_set_ms=now_ms)
        if merged == known:
            return fleet
        if merged.capacity is None and merged.rate is None:
            return None
        if known is None and len(fleet.limits) >= LIMITS_MAX:
            return None
        return msgspec.structs.replace(fleet, limits={**fleet.limits, name: merged})

    fleet, word = _change(context, request, name, with_limit)
    if word is Word.OK and fleet.limits.get(name) != merged:
        too_many = name not in fleet.limits and len(fleet.limits) >= LIMITS_MAX
        detail = f"{LIMITS_MAX} limits are the most" if too_many else "a limit needs a capacity or a rate"
        return Settlement(Answer(Word.INVALID, body={"limit": name, "detail": detail}))
    try:
        count_running(context, fleet.limits, list(repository.leased_jobs(context.store)), now_ms=now_ms)
        stands = fleet.limits.get(name, Limit(since_ms=now_ms))  # a late copy may come once it is removed
        answer = Answer(word, body=_shown(context, name, stands))
    except DatastoreError as error:
        log.warning("running_jobs_not_counted", limit=name, error=str(error))
        answer = Answer(Word.OUTCOME_UNKNOWN, Reason.STORE)
    return Settlement(answer, freed=_opened(name))


def remove_limit(context: Context, request: RemoveLimit, _now_ms: int) -> Settlement:
    """Take a limit away."""
    name = request.body.limit
    found = False

    def without(fleet: FleetControl) -> FleetControl | None:
        nonlocal found
        found = found or name in fleet.limits
        kept = {other: limit for other, limit in fleet.limits.items() if other != name}
        return msgspec.structs.replace(fleet, limits=kept) if name in fleet.limits else None

    _, word = _change(context, request, name, without)
    if word is Word.OK and not found:
        word = Word.NOT_FOUND
    return Settlement(Answer(word, body={"limit": name}), freed=_opened(name))


def list_limits(context: Context, _request: ListLimits, _now_ms: int) -> Settlement:
    """Every limit, with who uses it."""
    limits = Controls(context.store).limits()
    shown = [_shown(context, name, limits[name]) for name in sorted(limits)]
    return Settlement(Answer(Word.OK, body={"limits": shown}))


def pause_queue(context: Context, request: PauseQueue, now_ms: int) -> Settlement:
    """Hand out no more work of a queue. Holders go on."""
    queue = request.body.queue
    pause = Pause(reason=request.body.reason, since_ms=now_ms)

    def paused(fleet: FleetControl) -> FleetControl:
        known = fleet.pauses.get(queue)
        if known is not None and pause.reason in (None, known.reason):
            return fleet  # paused since then, for that reason
        since_ms = now_ms if known is None else known.since_ms
        renewed = msgspec.structs.replace(pause, since_ms=since_ms)
        return msgspec.structs.replace(fleet, pauses={**fleet.pauses, queue: renewed})

    fleet, word = _change(context, request, queue, paused)
    stands = fleet.pauses.get(queue)  # a late copy may come once it is resumed
    why, since_ms = (None, None) if stands is None else (stands.reason, stands.since_ms)
    return Settlement(
        Answer(word, body={"queue": queue, "paused": stands is not None, "why": why, "since_ms": since_ms})
    )


def resume_queue(context: Context, request: ResumeQueue, _now_ms: int) -> Settlement:
    """Hand out its work again."""
    queue = request.body.queue

    def resumed(fleet: FleetControl) -> FleetControl:
        kept = {other: pause for other, pause in fleet.pauses.items() if other != queue}
        return msgspec.structs.replace(fleet, pauses=kept)

    fleet, word = _change(context, request, queue, resumed)
    body = {"queue": queue, "paused": queue in fleet.pauses}
    return Settlement(Answer(word, body=body), freed=_opened(queue_limit(queue)))


def list_queues(context: Context, _request: ListQueues, _now_ms: int) -> Settlement:
    """Every queue an operator has said something of: whether it is paused, and its limit."""
    fleet = Controls(context.store).fleet()
    limited = {queue for name in fleet.limits if (queue := limited_queue(limit_key(name)))}
    queues = []
    for queue in sorted({*fleet.pauses, *limited}):
        pause, limit = fleet.pauses.get(queue), fleet.limits.get(queue_limit(queue))
        queues.append(
            {
                "queue": queue,
                "paused": pause is not None,
                "why": pause.reason if pause else None,
                "since_ms": pause.since_ms if pause else None,
                "capacity": limit.capacity if limit else None,
                "rate": limit.rate.plain() if limit and limit.rate else None,
            }
        )
    return Settlement(Answer(Word.OK, body={"queues": queues}))


def count_running(context: Context, limits: Limits, jobs: list[Job], *, now_ms: int) -> int:
    """Count leases that were granted before a limit was set; how many there were."""
    uncounted: list[tuple[Job, list[str]]] = []
    for job in jobs:
        lease = job.lease
        if job.state is not State.LEASED or lease is None:
            continue
        missing = [name for name in units(limits, applying(limits, job, lease.factory_id)) if name not in lease.limits]
        if missing:
            uncounted.append((job, missing))
    quotas.adopt(context.store, context.entropy, uncounted, now_ms=now_ms)
    return len(uncounted)


def _change(
    context: Context, request: Request, about: str, change: Callable[[FleetControl], FleetControl | None]
) -> tuple[FleetControl, Word]:
    """Change what holds for the fleet by one conditional write, once for each request: what stands then, `ok` or
    `replayed`. A change that is None is not made, and not remembered.
    `about`: the queue, or the limit.

    Where there is nothing to change it is written on all the same: a stale read may only show it so.
    """
    stands, word, asked = FleetControl(), Word.OK, who_asks(request, about)

    def judge(body: Any) -> dict[str, Any]:
        nonlocal stands, word
        stands = parsed(FLEET_ID, body, FleetControl)
        word = Word.REPLAYED if has_done(stands.recent_requests, asked) else Word.OK
        changed = None if word is Word.REPLAYED else change(stands)
        if changed is None:
            return {}
        stands = msgspec.structs.replace(changed, recent_requests=remembering(stands.recent_requests, asked))
        return stands.plain()

    shared_document.change(context.store, context.entropy, FLEET_ID, judge, empty={"kind": "controls"})
    return stands, word


def _opened(name: str) -> tuple[str, ...]:
    return (limit_key(name),) * OPENED_MAX


def _shown(context: Context, name: str, limit: Limit) -> dict[str, Any]:
    holders = _holders(context, name)
    return {
        "limit": name,
        "capacity": limit.capacity,
        "rate": limit.rate.plain() if limit.rate else None,
        "since_ms": limit.since_ms,
        "used": None if holders is None else len(holders),
        "holders": [quotas.shown(holder) for holder in (holders or ())[: quotas.HOLDERS_SHOWN_MAX]],
    }


def _holders(context: Context, name: str) -> Sequence[Holder] | None:
    """Who has a unit of a limit; None where that makes no sense as it is stored, which hides no other limit."""
    try:
        return quotas.holders_of(context.store, name)
    except Corrupt as error:
        log.error("limit_corrupt", limit=name, error=str(error))
        return None
