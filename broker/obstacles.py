"""Everything that can stand between a claim and a job: one list, which refusals and explanations are read from."""

from collections.abc import Mapping, Sequence
from typing import Any

from msgspec import field

from broker.answers import Answer, Reason, Word
from broker.controls import UNCONTROLLED, UNREGISTERED, FactoryRecord, Pause, QueueControl
from broker.documents import BLOCKED, TERMINAL, Job, RunEnd, State
from broker.matching import unmet
from datastore.value import Value

ERROR_CHARS_MAX = 500
"""Of the error a job ended with; `broker runs` shows all of it."""


class Obstacle(Value, frozen=True):
    """One reason why a claim can't have a job now, with who and until when, where that is known."""

    reason: Reason
    detail: Mapping[str, Any] = field(default_factory=dict)

    @property
    def until_ms(self) -> int | None:
        """When it ends by itself, broker time; None where that is not known."""
        return self.detail.get("until_ms")

    def plain(self) -> dict[str, Any]:
        """As an answer carries it."""
        return {"reason": self.reason.value, **self.detail}


class Situation(Value, frozen=True):
    """A job as it would be claimed: the job, its state once a dead lease is gone, and what holds around it."""

    job: Job
    state: State
    offers: tuple[str, ...] | None
    """None: nobody in particular asks."""
    now_ms: int
    queue: QueueControl = UNCONTROLLED
    factory: FactoryRecord = UNREGISTERED
    parents: tuple[Mapping[str, Any], ...] = ()
    """What is known of the jobs it depends on. They are read to explain; a claim does not read them."""
    claimant: str = ""
    """The factory that asks."""


def obstacles(it: Situation) -> list[Obstacle]:
    """Every obstacle that stands, the most lasting first.

    A new one is a question here; locks and quotas, which others race for, are `slots`.
    """
    job = it.job
    standing: list[Obstacle] = []
    overdue = job.deadline_ms is not None and it.now_ms > job.deadline_ms
    if overdue or it.state in TERMINAL:
        standing.append(Obstacle(Reason.TERMINAL, _over(it, {"deadline_ms": job.deadline_ms} if overdue else {})))
    if job.hold is not None:
        standing.append(Obstacle(Reason.HELD, {"why": job.hold.reason, "since_ms": job.hold.since_ms}))
    if it.state is BLOCKED:
        parents = {"parents": [dict(parent) for parent in it.parents]} if it.parents else {}
        standing.append(Obstacle(Reason.BLOCKED, {"depends_on": list(job.depends_on), **parents}))
    if job.not_before_ms is not None and it.now_ms < job.not_before_ms:
        standing.append(Obstacle(Reason.SCHEDULED, {"until_ms": job.not_before_ms}))
    if it.queue.pause is not None:
        standing.append(Obstacle(Reason.PAUSED, paused(job.queue, it.queue.pause)))
    kept = job.reserved
    if kept is not None and it.now_ms < kept.until_ms and it.claimant != kept.factory_id:
        detail = {"factory": kept.factory_id, "by": kept.by, "until_ms": kept.until_ms}
        standing.append(Obstacle(Reason.RESERVED, detail))
    if job.requires and it.offers is not None and (missing := unmet(it.offers, job.requires)):
        standing.append(Obstacle(Reason.REQUIREMENTS, {"missing": list(missing)}))
    return standing


def _over(it: Situation, overdue: Mapping[str, Any]) -> Mapping[str, Any]:
    if it.state not in TERMINAL:
        return overdue
    end = it.job.last_end
    how = _ending(end) if end is not None and end.epoch == it.job.epoch else {}
    return {"state": it.state.value, "why": it.job.why, **how, **overdue}


def _ending(end: RunEnd) -> dict[str, Any]:
    return {
        "outcome": end.outcome.value,
        "error": end.error[:ERROR_CHARS_MAX] if end.error else None,
        "ended_ms": end.ended_ms,
        "factory_id": end.factory_id,
    }


def paused(queue: str, pause: Pause) -> Mapping[str, Any]:
    """The details of a pause."""
    return {"queue": queue, "why": pause.reason, "since_ms": pause.since_ms}


def told(standing: Sequence[Obstacle]) -> dict[str, Any]:
    """What an answer says of the obstacles: their names, and each with its details."""
    return {
        "reasons": [obstacle.reason.value for obstacle in standing],
        "obstacles": [obstacle.plain() for obstacle in standing],
    }


def not_claimable(standing: Sequence[Obstacle], now_ms: int, facts: Mapping[str, Any]) -> Answer:
    """The refusal of a claim: the first reason, every obstacle with details, and when to ask again if it is known."""
    until = [obstacle.until_ms for obstacle in standing]
    known = [moment for moment in until if moment is not None]
    body = {**facts, **told(standing)}
    retry_after_ms = max(known) - now_ms if len(known) == len(until) else None
    return Answer(Word.NOT_CLAIMABLE, standing[0].reason, body, retry_after_ms)
