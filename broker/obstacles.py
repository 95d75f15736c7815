"""Everything that can stand between a claim and a job: one table, which refusals and explanations are read from."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

from msgspec import field

from broker.answers import Answer, Reason, Word
from broker.controls import UNCONTROLLED, UNREGISTERED, FactoryRecord, QueueControl
from broker.documents import BLOCKED, Job, RunEnd, State
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


Check: TypeAlias = Callable[[Situation], Mapping[str, Any] | None]
"""The details of an obstacle that stands, or None."""


def _terminal(it: Situation) -> Mapping[str, Any] | None:
    if it.state.terminal:
        end = it.job.last_end
        ended = end is not None and end.epoch == it.job.epoch
        how = _ending(end) if end is not None and ended else {}
        return {"state": it.state.value, "why": it.job.why, **how, **_overdue(it)}
    return _overdue(it) or None


def _overdue(it: Situation) -> dict[str, Any]:
    late = it.job.deadline_ms is not None and it.now_ms > it.job.deadline_ms
    return {"deadline_ms": it.job.deadline_ms} if late else {}


def _ending(end: RunEnd) -> dict[str, Any]:
    return {
        "outcome": end.outcome.value,
        "error": end.error[:ERROR_CHARS_MAX] if end.error else None,
        "ended_ms": end.ended_ms,
        "factory_id": end.factory_id,
    }


def _held(it: Situation) -> Mapping[str, Any] | None:
    hold = it.job.hold
    return None if hold is None else {"why": hold.reason, "since_ms": hold.since_ms}


def _blocked(it: Situation) -> Mapping[str, Any] | None:
    if it.state is not BLOCKED:
        return None
    parents = {"parents": [dict(parent) for parent in it.parents]} if it.parents else {}
    return {"depends_on": list(it.job.depends_on), **parents}


def _scheduled(it: Situation) -> Mapping[str, Any] | None:
    due_ms = it.job.not_before_ms
    return {"until_ms": due_ms} if due_ms is not None and it.now_ms < due_ms else None


def paused(queue: str, control: QueueControl) -> Mapping[str, Any] | None:
    """The details of a pause, or None."""
    pause = control.pause
    return None if pause is None else {"queue": queue, "why": pause.reason, "since_ms": pause.since_ms}


def _reserved(it: Situation) -> Mapping[str, Any] | None:
    kept = it.job.reserved
    if kept is None or it.now_ms >= kept.until_ms or it.claimant == kept.factory_id:
        return None
    return {"factory": kept.factory_id, "by": kept.by, "until_ms": kept.until_ms}


def _requirements(it: Situation) -> Mapping[str, Any] | None:
    missing = () if it.offers is None else unmet(it.offers, it.job.requires)
    return {"missing": list(missing)} if missing else None


CHECKS: tuple[tuple[Reason, Check], ...] = (
    (Reason.TERMINAL, _terminal),
    (Reason.HELD, _held),
    (Reason.BLOCKED, _blocked),
    (Reason.SCHEDULED, _scheduled),
    (Reason.PAUSED, lambda it: paused(it.job.queue, it.queue)),
    (Reason.RESERVED, _reserved),
    (Reason.REQUIREMENTS, _requirements),
)
"""The most lasting first. A new obstacle is a row here; locks and quotas, which others race for, are `slots`."""


def obstacles(situation: Situation) -> list[Obstacle]:
    """Every obstacle that stands."""
    return [Obstacle(reason, detail) for reason, check in CHECKS if (detail := check(situation)) is not None]


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
