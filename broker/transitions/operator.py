"""What an operator may do with a job, whoever holds it. `by`: the factory whose request id it is; empty: not known."""

from typing import Any

from msgspec import structs

from broker.answers import Answer, Reason, Word
from broker.documents import WAITING, CancelRequest, Counters, Hold, Job, Outcome, State
from broker.transitions.decision import (
    Decision,
    Refuse,
    Replay,
    Rules,
    Write,
    counted,
    end_lease,
    held_by,
    known,
    remember,
    stamp_ms,
    superseded,
    without_lease,
)


def cancel(job: Job, *, request_id: str, by: str, now_ms: int, rules: Rules, reason: str | None) -> Decision:
    """Cancel a waiting job; ask the holder of a running one to stop, and enforce it after the grace."""
    if (earlier := known(job, request_id, by=by, op="cancel")) is not None:
        return earlier
    if job.state in WAITING:
        return _write(job, request_id, "cancel", State.CANCELLED, {"why": reason}, now_ms, by=by)
    if job.state is State.LEASED:
        asked = CancelRequest(reason=reason, asked_ms=now_ms, enforce_ms=now_ms + rules.cancel_grace_ms)
        if job.cancel is not None:  # the grace runs since it was asked first
            asked = structs.replace(job.cancel, reason=reason or job.cancel.reason)
        return _write(job, request_id, "cancel", State.LEASED, {"cancel": asked}, now_ms, by=by)
    return Refuse(Answer(Word.ALREADY_TERMINAL, body={"job_id": job.id, "outcome": job.state.value}))


def give_way(job: Job, *, why: str, now_ms: int) -> Decision:
    """Cancel a job for a newer one, if it still waits. One that runs is left alone."""
    if job.state not in WAITING:
        return Refuse(Answer(Word.CONFLICT, Reason.NOT_CANCELLABLE, held_by(job, now_ms)))
    changes = {"state": State.CANCELLED, "why": why, "updated_ms": now_ms}
    return Write(changes, Answer(Word.OK, body={"job_id": job.id, "state": State.CANCELLED.value}))


def supersede(job: Job, *, by: str, now_ms: int, anew: bool = True) -> Decision:
    """Cancel a job for a newer one of its key, if it waits. One that runs may end, but does not wait again.

    One that is over is written on too: a stale read may show it as it was. One that gave way to the same job before
    is left alone, or, unless `anew`, to any: if it waits, it was redriven since.
    """
    if job.gave_way_to is not None and (job.gave_way_to == by or not anew):
        return Replay(Answer(Word.REPLAYED, body={"job_id": job.id, "state": job.state.value}))
    waits = job.state in WAITING
    changes = {**superseded(by), "updated_ms": now_ms} if waits else {"superseded_by": by}
    state = State.CANCELLED if waits else job.state
    return Write({**changes, "gave_way_to": by}, Answer(Word.OK, body={"job_id": job.id, "state": state.value}))


def redrive(job: Job, *, request_id: str, by: str, now_ms: int) -> Decision:
    """Make a failed or cancelled job ready again. Its epoch goes on; its failures and expiries start at 0.

    Also one that was superseded: whoever asks for it wants both.
    """
    if (earlier := known(job, request_id, by=by, op="redrive")) is not None:
        return earlier
    if job.state not in (State.FAILED, State.CANCELLED):
        return Refuse(Answer(Word.CONFLICT, Reason.NOT_REDRIVABLE, held_by(job, now_ms)))
    changes = {
        "counters": Counters(releases=job.counters.releases),
        "deadline_ms": None if job.timeout_ms is None else now_ms + job.timeout_ms,
        "not_before_ms": None,
        "why": None,
        "superseded_by": None,
        "ready_ms": now_ms,
    }
    return _write(job, request_id, "redrive", State.READY, changes, now_ms, by=by)


def revoke(job: Job, *, request_id: str, by: str, now_ms: int, reason: str | None, and_hold: bool = False) -> Decision:
    """Take the lease away from its holder; with `and_hold` nobody gets the job until it is lifted."""
    if (earlier := known(job, request_id, by=by, op="revoke")) is not None:
        return earlier
    if job.lease is None:
        return Refuse(Answer(Word.CONFLICT, Reason.NOT_LEASED, held_by(job, now_ms)))
    changes = {**end_lease(job.lease, now_ms=now_ms, outcome=Outcome.REVOKED, error=reason), **counted(job, "releases")}
    if and_hold:
        changes["hold"] = _held(job, reason, now_ms)
    changes |= without_lease(job, State.READY)
    return _write(job, request_id, "revoke", changes["state"], changes, now_ms, by=by)


def hold(job: Job, *, request_id: str, by: str, now_ms: int, reason: str | None) -> Decision:
    """Keep a job from being granted; a lease that stands is not touched."""
    if (earlier := known(job, request_id, by=by, op="hold")) is not None:
        return earlier
    return _write(job, request_id, "hold", job.state, {"hold": _held(job, reason, now_ms)}, now_ms, by=by)


def _held(job: Job, reason: str | None, now_ms: int) -> Hold:
    """The hold from now on. One that says nothing new leaves that which stands as it is."""
    if job.hold is not None and reason in (None, job.hold.reason):
        return job.hold
    return Hold(reason=reason, since_ms=now_ms)


def lift(job: Job, *, request_id: str, by: str, now_ms: int) -> Decision:
    """End an operator's hold."""
    if (earlier := known(job, request_id, by=by, op="lift")) is not None:
        return earlier
    return _write(job, request_id, "lift", job.state, {"hold": None}, now_ms, by=by)


def _write(
    job: Job, request_id: str, op: str, state: State, changes: dict[str, Any], now_ms: int, *, by: str
) -> Decision:
    remembered = remember(job, request_id=request_id, by=by, op=op, state=state)
    body = {"job_id": job.id, "epoch": job.epoch, "state": state.value}
    return Write(
        {**changes, **remembered, "state": state, "updated_ms": stamp_ms(job, now_ms)}, Answer(Word.OK, body=body)
    )
