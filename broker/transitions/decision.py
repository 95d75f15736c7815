"""What a rule says: write this if the job is still the version that was judged, or answer without a write."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

from msgspec import structs

from broker.answers import Answer, Reason, Word, used_for
from broker.clock import SET_BACK_MS
from broker.documents import CLAIM, RECENT_REQUESTS_MAX, WAITING, Job, Lease, Outcome, Recent, RunEnd, State
from broker.fence import Fence, FenceLost, FenceOk, Impossible, Loss, Replayed, UsedToClaim, check
from datastore.value import Value

BACKOFF_DOUBLINGS_MAX = 16
"""Beyond this the cap of every sensible setting is long reached."""


@dataclass(frozen=True, slots=True)
class Rules:
    """The timing of design §9, in milliseconds, and what one factory may ask for."""

    ttl_ms: int = 60_000
    skew_ms: int = 2_000
    """A lease is taken over only this long after its expiry."""
    cancel_grace_ms: int = 30_000
    backoff_base_ms: int = 1_000
    backoff_max_ms: int = 300_000
    ageing_step_ms: int = 600_000
    """How long a job waits to count as one priority higher."""
    waiting_max: int = 1_024
    """Claims of one factory that may wait at once, about."""


class Write(Value, frozen=True):
    """Store `changes` (a job's values) with a conditional write on the version judged; `answer` holds if it lands."""

    changes: Mapping[str, Any]
    answer: Answer


class Refuse(Value, frozen=True):
    """Change nothing."""

    answer: Answer


class Replay(Value, frozen=True):
    """The request had its effect before; change nothing and say so again."""

    answer: Answer


Decision: TypeAlias = Write | Refuse | Replay


def held_by(job: Job, now_ms: int) -> dict[str, Any]:
    """Who holds a job, at which epoch and for how long still. Never a token."""
    body: dict[str, Any] = {"job_id": job.id, "state": job.state.value, "epoch": job.epoch}
    if job.lease is not None:
        body["holder"] = job.lease.factory_id
        body["remaining_ms"] = max(0, job.lease.expires_ms - now_ms)
    return body


def end_lease(lease: Lease, *, now_ms: int, outcome: Outcome, **details: Any) -> dict[str, Any]:
    """The changes that take a lease away; `last_end` is what the run record is made of."""
    ended = RunEnd(
        epoch=lease.epoch,
        factory_id=lease.factory_id,
        incarnation=lease.incarnation,
        request_id=lease.request_id,
        started_ms=lease.granted_ms,
        ended_ms=now_ms,
        outcome=outcome,
        renewals=lease.renewals,
        **details,
    )
    return {"lease": None, "cancel": None, "last_end": ended}


def stamp_ms(job: Job, now_ms: int) -> int:
    """`updated_ms` of a write that leaves times of a job as they are. Of one from the future it stays, until the sweep
    has anchored these by it: broker time was set back since they were set.
    """
    return job.updated_ms if job.updated_ms > now_ms + SET_BACK_MS else now_ms


def remember(job: Job, *, request_id: str, by: str, op: str, state: State) -> dict[str, Any]:
    """The change that makes a resend of `request_id` from factory `by` a replay."""
    recent = Recent(request_id=request_id, factory_id=by, op=op, epoch=job.epoch, state=state)
    return {"recent_requests": (*job.recent_requests[-(RECENT_REQUESTS_MAX - 1) :], recent)}


def counted(job: Job, name: str) -> dict[str, Any]:
    """The change that raises one of the counters."""
    return {"counters": structs.replace(job.counters, **{name: getattr(job.counters, name) + 1})}


def without_lease(job: Job, state: State) -> dict[str, Any]:
    """The changes of a job that lost its lease and would be in `state`: cancelled if that was asked, or if it would
    wait again beside a newer job of its key.
    """
    if job.cancel is not None:
        return {"state": State.CANCELLED}
    if job.superseded_by is not None and state in WAITING:
        return superseded(job.superseded_by)
    return {"state": state}


def superseded(by: str) -> dict[str, Any]:
    """The changes of a job that a newer one of its key ends."""
    return {"state": State.CANCELLED, "why": f"superseded by {by}"}


def failure(job: Job, *, now_ms: int, rules: Rules, jitter: float, retryable: bool = True) -> dict[str, Any]:
    """The changes of a failed try: cancelled if that was asked, failed for good or at the cap, else tried again later.

    `jitter`, in [0, 1), is the share of the full backoff that is waited (full jitter).
    """
    final = not retryable or job.counters.failures + 1 >= job.max_failures
    changes = {**counted(job, "failures"), **without_lease(job, State.FAILED if final else State.SCHEDULED)}
    if changes["state"] is State.SCHEDULED:
        changes["not_before_ms"] = now_ms + backoff_ms(job.counters.failures, rules=rules, jitter=jitter)
    return changes


def backoff_ms(failures: int, *, rules: Rules, jitter: float) -> int:
    """Wait before the next try after `failures` earlier ones: full jitter below a doubling, capped bound."""
    bound = min(rules.backoff_max_ms, rules.backoff_base_ms << min(failures, BACKOFF_DOUBLINGS_MAX))
    return int(bound * jitter)


def at_the_fence(job: Job, fence: Fence, now_ms: int, op: str) -> Decision | Lease:
    """The caller's own lease, or the decision that turns it away. `op`: what it asks for."""
    match check(job, fence):
        case FenceOk():
            assert job.lease is not None, "the fence passes holders only"
            return job.lease
        case Replayed():
            return replay(job, fence.request_id, by=fence.factory_id, op=op)
        case UsedToClaim():
            return _used(job, CLAIM)
        case FenceLost(Loss.TERMINAL):
            return Refuse(Answer(Word.ALREADY_TERMINAL, body={"job_id": job.id, "outcome": job.state.value}))
        case FenceLost(loss):
            return Refuse(Answer(Word.LEASE_LOST, Reason(loss.value), held_by(job, now_ms)))
        case Impossible():
            return Refuse(Answer(Word.INVALID, Reason.EPOCH_FROM_THE_FUTURE, held_by(job, now_ms)))


def known(job: Job, request_id: str, *, by: str, op: str) -> Decision | None:
    """What an operator, `by`, is told whose request id did something here before; None where it did not.

    A claim counts as long as its lease stands.
    """
    if job.recent(request_id, by):
        return replay(job, request_id, by=by, op=op)
    lease = job.lease
    claimed = lease is not None and (lease.request_id, lease.factory_id) == (request_id, by)
    return _used(job, CLAIM) if claimed else None


def replay(job: Job, request_id: str, *, by: str, op: str) -> Decision:
    """The answer to a resend of an operation the job remembers; to another one, `op`, that it was not carried out.

    `by`: the factory that asks.
    """
    entry = job.recent(request_id, by)
    assert entry is not None, "only a remembered request is a replay"
    if entry.op != op:
        return _used(job, entry.op)
    body = {"job_id": job.id, "op": entry.op, "epoch": entry.epoch, "state": entry.state.value}
    return Replay(Answer(Word.REPLAYED, body=body))


def _used(job: Job, op: str) -> Decision:
    answer = used_for(op)
    return Refuse(structs.replace(answer, body={"job_id": job.id, **answer.body}))
