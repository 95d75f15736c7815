"""What a holder may do with its lease. Each rule passes the fence first, with the caller's own epoch and token."""

from typing import Any

from msgspec import structs

from broker.answers import Answer, Reason, Word
from broker.controls import UNREGISTERED, FactoryRecord
from broker.documents import Job, Lease, Outcome, Reservation, State
from broker.fence import Fence
from broker.transitions.decision import (
    Decision,
    Refuse,
    Rules,
    Write,
    at_the_fence,
    counted,
    end_lease,
    failure,
    held_by,
    remember,
    stamp_ms,
    without_lease,
)

_RENEWED = Word.RENEWED  # a name of its own: docs/decisions/0039


def renew(
    job: Job,
    fence: Fence,
    *,
    now_ms: int,
    ttl_ms: int | None = None,
    paused: bool = False,
    factory: FactoryRecord = UNREGISTERED,
) -> Decision:
    """Extend the caller's own lease; never someone else's. `paused`: its queue is, which a holder may heed.

    Late is fine while nobody has taken over: the epoch, not the clock, decides. A lease is never shortened: a copy that
    was held up may be judged by a time before that of a later renewal, on which its holder counts (I9).
    """
    match at_the_fence(job, fence, now_ms, "renew"):
        case Lease() as lease:
            ttl = ttl_ms or lease.ttl_ms
            written_ms = now_ms if job.updated_ms <= now_ms else stamp_ms(job, now_ms)
            expires_ms = written_ms + ttl
            if expires_ms < lease.expires_ms:
                expires_ms = lease.expires_ms
            extended = structs.replace(lease, ttl_ms=ttl, expires_ms=expires_ms, renewals=lease.renewals + 1)
            directives = [] if job.cancel is None else ["cancel"]
            if paused:
                directives.append("pause")
            if factory.drain is not None and factory.draining(lease.incarnation, now_ms) is not None:
                directives.append("drain")
            told = {
                "job_id": job.id,
                "epoch": lease.epoch,
                "ttl_ms": ttl,
                "expires_ms": expires_ms,
                "directives": directives,
            }
            return Write({"lease": extended, "updated_ms": written_ms}, Answer(_RENEWED, None, told))
        case Refuse(answer) if answer.word is Word.ALREADY_TERMINAL:
            return Refuse(Answer(Word.LEASE_LOST, Reason.TERMINAL, {**held_by(job, now_ms), **answer.body}))
        case refusal:
            return refusal


def complete(job: Job, fence: Fence, *, now_ms: int, result: Any) -> Decision:
    """End the job as succeeded."""
    match at_the_fence(job, fence, now_ms, "complete"):
        case Lease() as lease:
            ended = end_lease(lease, now_ms=now_ms, outcome=Outcome.SUCCEEDED, result=result)
            return _write(job, fence, "complete", {**ended, "state": State.SUCCEEDED}, now_ms)
        case refusal:
            return refusal


def fail(
    job: Job, fence: Fence, *, now_ms: int, rules: Rules, error: str, result: Any, retryable: bool, jitter: float
) -> Decision:
    """Report a failed try: scheduled again with backoff, or failed for good where final or at the cap.

    `jitter`, in [0, 1), is the share of the full backoff that is waited (full jitter).
    """
    match at_the_fence(job, fence, now_ms, "fail"):
        case Lease() as lease:
            outcome = Outcome.CANCELLED if job.cancel else Outcome.FAILED
            ended = end_lease(lease, now_ms=now_ms, outcome=outcome, error=error, result=result)
            failed = failure(job, now_ms=now_ms, rules=rules, jitter=jitter, retryable=retryable)
            return _write(job, fence, "fail", {**ended, **failed}, now_ms)
        case refusal:
            return refusal


def release(
    job: Job,
    fence: Fence,
    *,
    now_ms: int,
    reason: str | None = None,
    unread_by: str | None = None,
    op: str = "release",
) -> Decision:
    """Give the job back unharmed; where a cancel was asked, this acknowledges it, and the reason is that cancel's.

    `unread_by`: the broker asks for it, since this client has not read its grant. Only Redis says so, and Redis may be
    wrong (I8): a lease that was renewed, or that this client or another was told of since, has somebody who reads.
    `op`: what its holder asked for.
    """
    match at_the_fence(job, fence, now_ms, op):
        case Lease() as lease if unread_by is not None and _has_a_reader(lease, unread_by):
            return Refuse(Answer(Word.CONFLICT, Reason.HELD, held_by(job, now_ms)))
        case Lease() as lease:
            outcome = Outcome.CANCELLED if job.cancel else Outcome.RELEASED
            why = (job.cancel.reason if job.cancel else None) or reason
            changes = {**end_lease(lease, now_ms=now_ms, outcome=outcome, error=why), **counted(job, "releases")}
            return _write(job, fence, op, changes | without_lease(job, State.READY), now_ms)
        case refusal:
            return refusal


def _has_a_reader(lease: Lease, unread_by: str) -> bool:
    return bool(lease.renewals) or lease.asked_again or lease.instance != unread_by


def hand_over(job: Job, fence: Fence, *, now_ms: int, rules: Rules, to: str, reason: str | None = None) -> Decision:
    """Give the job back for another factory, which alone may claim it for a while: at the next epoch, with a token
    of its own. Where a cancel was asked this acknowledges it, and where a newer job has the key nobody gets it.

    The while is the rules' ttl, not the lease's: where that is hours, a name that was mistyped, or a factory that has
    died, would keep the job for as long.
    """
    match at_the_fence(job, fence, now_ms, "hand_over"):
        case Lease() as lease:
            back = without_lease(job, State.READY)
            if back["state"] is not State.READY:
                return release(job, fence, now_ms=now_ms, reason=reason, op="hand_over")
            ended = end_lease(lease, now_ms=now_ms, outcome=Outcome.RELEASED, error=reason, handed_to=to)
            ended["reserved"] = Reservation(factory_id=to, by=lease.factory_id, until_ms=now_ms + rules.ttl_ms)
            return _write(job, fence, "hand_over", {**ended, **counted(job, "releases"), **back}, now_ms)
        case refusal:
            return refusal


def undo(job: Job, *, epoch: int, request_id: str, now_ms: int) -> Decision:
    """Take back a grant nobody was told of, because its slots were lost meanwhile. The epoch stays used (I1)."""
    lease = job.lease
    if lease is None or (lease.epoch, lease.request_id) != (epoch, request_id):
        return Refuse(Answer(Word.CONFLICT, Reason.RACED, held_by(job, now_ms)))
    changes = {**end_lease(lease, now_ms=now_ms, outcome=Outcome.RELEASED), **without_lease(job, State.READY)}
    return Write({**changes, "updated_ms": now_ms}, Answer(Word.CONFLICT, Reason.RACED, {"job_id": job.id}))


def _write(job: Job, fence: Fence, op: str, changes: dict[str, Any], now_ms: int) -> Decision:
    state: State = changes["state"]
    body: dict[str, Any] = {"job_id": job.id, "epoch": job.epoch, "state": state.value}
    if changes.get("not_before_ms") is not None:
        body["not_before_ms"] = changes["not_before_ms"]
    remembered = remember(job, request_id=fence.request_id, by=fence.factory_id, op=op, state=state)
    return Write({**changes, **remembered, "updated_ms": now_ms}, Answer(Word.OK, body=body))
