"""What time does to a job: due schedules, dead leases, deadlines, runs that take too long or get nowhere."""

from typing import Any

from msgspec import structs

from broker.answers import Answer, Reason, Word
from broker.clock import SET_BACK_MS
from broker.controls import FactoryRecord
from broker.documents import TERMINAL, Job, Lease, OnParentFailure, OnStuck, Outcome, State
from broker.transitions.decision import (
    Decision,
    Refuse,
    Rules,
    Write,
    counted,
    end_lease,
    failure,
    held_by,
    stamp_ms,
    without_lease,
)


def expired(lease: Lease, *, now_ms: int, rules: Rules) -> bool:
    """Whether a lease may be taken over. Before that its holder may still believe in it."""
    return now_ms > lease.expires_ms + rules.skew_ms


def expire(job: Job, lease: Lease, *, now_ms: int) -> dict[str, Any]:
    """The changes a dead lease leads to: cancelled if that was asked, failed at the cap, else ready again."""
    changes = {**end_lease(lease, now_ms=now_ms, outcome=Outcome.EXPIRED), **counted(job, "expiries")}
    capped = job.counters.expiries + 1 >= job.max_expiries
    changes |= without_lease(job, State.FAILED if capped else State.READY)
    if changes["state"] is State.FAILED:
        changes["why"] = f"leases expired: {job.counters.expiries + 1}"
    return changes


def reap(job: Job, *, now_ms: int, rules: Rules) -> Decision:
    """Take a dead lease away."""
    if job.lease is None or not expired(job.lease, now_ms=now_ms, rules=rules):
        return _nothing_to_do(job, now_ms)
    return _write(expire(job, job.lease, now_ms=now_ms), job, now_ms)


def anchor(job: Job, *, now_ms: int) -> Decision:
    """Let what was to last for a while from a moment in the future last as long from now: a lease and its run, a
    cancel's grace, a reservation, the pause before a retry. Broker time was set back since.

    A lease stands as it was to stand from its last write: its holder counts from before that, on a clock of its own
    (I9). What was submitted to begin at some time begins then.
    """
    if job.updated_ms <= now_ms + SET_BACK_MS:
        return _nothing_to_do(job, now_ms)
    changes: dict[str, Any] = {}
    if job.lease is not None:
        lease, cancel = job.lease, job.cancel
        expires_ms = _anchored(lease.expires_ms, job.updated_ms, now_ms)
        run_deadline_ms = lease.run_deadline_ms and _anchored(lease.run_deadline_ms, lease.granted_ms, now_ms)
        changes["lease"] = structs.replace(lease, expires_ms=expires_ms, run_deadline_ms=run_deadline_ms)
        if cancel is not None:
            enforce_ms = _anchored(cancel.enforce_ms, cancel.asked_ms, now_ms)
            changes["cancel"] = structs.replace(cancel, enforce_ms=enforce_ms)
    elif job.state is State.SCHEDULED and job.epoch and job.not_before_ms is not None:
        changes["not_before_ms"] = _anchored(job.not_before_ms, job.updated_ms, now_ms)
    elif job.state is State.READY and job.reserved is not None:
        until_ms = _anchored(job.reserved.until_ms, job.updated_ms, now_ms)
        changes["reserved"] = structs.replace(job.reserved, until_ms=until_ms)
    return _write({**changes, "state": job.state}, job, now_ms) if changes else _nothing_to_do(job, now_ms)


def _anchored(end_ms: int, since_ms: int, now_ms: int) -> int:
    """The end of what began at `since_ms`; of what began in the future as if it began now."""
    return end_ms if since_ms <= now_ms else now_ms + max(0, end_ms - since_ms)


def outlive(job: Job, factory_id: str, factory: FactoryRecord, *, now_ms: int) -> Decision:
    """End a lease of a start of this factory that is over, as an expired one, without waiting for its expiry.

    Another factory's lease is none of it: the job may have changed hands since it was found.
    """
    lease = job.lease
    theirs = lease is not None and lease.factory_id == factory_id
    if lease is None or not (theirs and factory.outlived(lease.incarnation, lease.granted_ms)):
        return _nothing_to_do(job, now_ms)
    return _write(expire(job, lease, now_ms=now_ms), job, now_ms)


def enforce_cancel(job: Job, *, now_ms: int) -> Decision:
    """Cancel a running job whose holder did not acknowledge within the grace."""
    if job.lease is None or job.cancel is None or now_ms <= job.cancel.enforce_ms:
        return _nothing_to_do(job, now_ms)
    ended = end_lease(job.lease, now_ms=now_ms, outcome=Outcome.CANCELLED, error=job.cancel.reason)
    return _write({**ended, "state": State.CANCELLED}, job, now_ms)


def time_out(job: Job, *, now_ms: int) -> Decision:
    """Fail a job whose deadline is over, whether it runs or still waits."""
    if job.state.terminal or job.deadline_ms is None or now_ms <= job.deadline_ms:
        return _nothing_to_do(job, now_ms)
    changes: dict[str, Any] = {"state": State.FAILED, "why": "its deadline was over"}
    if job.lease is not None:
        changes |= end_lease(job.lease, now_ms=now_ms, outcome=Outcome.TIMED_OUT) | counted(job, "failures")
    return _write(changes, job, now_ms)


def end_run(job: Job, *, now_ms: int, rules: Rules, jitter: float) -> Decision:
    """Take the lease of a run whose own deadline is over: a failure, tried again with backoff below the cap."""
    lease = job.lease
    if lease is None or lease.run_deadline_ms is None or now_ms <= lease.run_deadline_ms:
        return _nothing_to_do(job, now_ms)
    took_ms = lease.run_deadline_ms - lease.granted_ms
    ended = end_lease(lease, now_ms=now_ms, outcome=Outcome.TIMED_OUT, error=f"its run took more than {took_ms} ms")
    return _write({**ended, **failure(job, now_ms=now_ms, rules=rules, jitter=jitter)}, job, now_ms)


def heed_progress(job: Job, *, progress_ms: int | None, now_ms: int, rules: Rules, jitter: float) -> Decision:
    """Flag a run that renews without getting on, or take its lease where the job says so; unflag one that does again.

    `progress_ms`: when this run last reported progress. A revoked run counts as a failure, so that it is capped.
    """
    lease = job.lease
    if lease is None or job.stuck_after_ms is None:
        return _nothing_to_do(job, now_ms)
    since_ms = max(progress_ms or 0, lease.granted_ms)
    stuck = now_ms > since_ms + job.stuck_after_ms
    if stuck and job.on_stuck is OnStuck.REVOKE:
        error = f"stuck: no progress for {now_ms - since_ms} ms"
        ended = end_lease(lease, now_ms=now_ms, outcome=Outcome.REVOKED, error=error)
        return _write({**ended, **failure(job, now_ms=now_ms, rules=rules, jitter=jitter)}, job, now_ms)
    if stuck == (lease.stuck_ms is not None):
        return _nothing_to_do(job, now_ms)
    flagged = structs.replace(lease, stuck_ms=since_ms if stuck else None)
    return _write({"lease": flagged, "state": job.state, "updated_ms": stamp_ms(job, now_ms)}, job, now_ms)


def due(job: Job, *, now_ms: int) -> Decision:
    """Make a scheduled job ready once its time has come."""
    if job.state is not State.SCHEDULED or (job.not_before_ms is not None and now_ms < job.not_before_ms):
        return _nothing_to_do(job, now_ms)
    return _write({"state": State.READY, "not_before_ms": None, "ready_ms": now_ms}, job, now_ms)


def unblock(job: Job, *, parents: dict[str, State], now_ms: int) -> Decision:
    """Free a blocked job whose parents are done; cancel it for one that failed, where it says so.

    A parent without a state in `parents` does not exist yet, and is waited for.
    """
    if job.state is not State.BLOCKED:
        return _nothing_to_do(job, now_ms)
    if job.on_parent_failure is OnParentFailure.CANCEL:
        for parent in job.depends_on:
            if (state := parents.get(parent)) in (State.FAILED, State.CANCELLED):
                return _write({"state": State.CANCELLED, "why": f"its parent {parent} {_ended(state)}"}, job, now_ms)
    done = TERMINAL if job.on_parent_failure is OnParentFailure.IGNORE else {State.SUCCEEDED}
    if any(parents.get(parent) not in done for parent in job.depends_on):
        return _nothing_to_do(job, now_ms)
    waits = job.not_before_ms is not None and now_ms < job.not_before_ms
    return _write({"state": State.SCHEDULED} if waits else {"state": State.READY, "ready_ms": now_ms}, job, now_ms)


def _ended(state: State) -> str:
    return "was cancelled" if state is State.CANCELLED else state.value


def _write(changes: dict[str, Any], job: Job, now_ms: int) -> Decision:
    return Write(
        {"updated_ms": now_ms, **changes}, Answer(Word.OK, body={"job_id": job.id, "state": changes["state"].value})
    )


def _nothing_to_do(job: Job, now_ms: int) -> Decision:
    return Refuse(Answer(Word.CONFLICT, Reason.RACED, held_by(job, now_ms)))
