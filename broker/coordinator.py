"""The operations on jobs: each binds a rule to its request and has it carried out."""

from typing import Any

from broker import repository, transitions
from broker.answers import Answer, Word
from broker.claiming import try_claim_job
from broker.documents import Job, State
from broker.fence import Fence
from broker.settlement import Change, Context, Judge, Settlement, judge_and_write
from broker.transitions import Decision, Refuse, Write


def renew(context: Context, job_id: str, fence: Fence, *, now_ms: int, ttl_ms: int | None = None) -> Settlement:
    """Extend the caller's lease by its ttl, counted from `now_ms`."""
    judge: Judge = lambda job: transitions.renew(job, fence, now_ms=now_ms, ttl_ms=ttl_ms)  # noqa: E731  # a rule, bound
    return judge_and_write(context, job_id, judge, write=repository.rev_update_lease)


def complete(context: Context, job_id: str, fence: Fence, *, now_ms: int, result: Any = None) -> Settlement:
    """End the job as succeeded; `result` goes into the run record."""
    return judge_and_write(context, job_id, lambda job: transitions.complete(job, fence, now_ms=now_ms, result=result))


def fail(
    context: Context,
    job_id: str,
    fence: Fence,
    *,
    now_ms: int,
    error: str = "",
    result: Any = None,
    retryable: bool = True,
) -> Settlement:
    """Report a failed try; it is scheduled again with backoff unless it is final or at the cap."""
    jitter = context.entropy.jitter()

    def judge(job: Job) -> Decision:
        return transitions.fail(
            job,
            fence,
            now_ms=now_ms,
            rules=context.rules,
            error=error,
            result=result,
            retryable=retryable,
            jitter=jitter,
        )

    return judge_and_write(context, job_id, judge)


def release(context: Context, job_id: str, fence: Fence, *, now_ms: int, reason: str | None = None) -> Settlement:
    """Give the job back unharmed."""
    return judge_and_write(context, job_id, lambda job: transitions.release(job, fence, now_ms=now_ms, reason=reason))


def report_progress(context: Context, job_id: str, fence: Fence, *, now_ms: int, progress: Any) -> Settlement:
    """Write progress to the run of the caller's epoch. The job, and the etag a renewal needs, stay as they are."""

    def judge(job: Job) -> Decision:
        # The same fence as a renewal, whose write is then not made.
        decision = transitions.renew(job, fence, now_ms=now_ms)
        return Refuse(Answer(Word.OK, body={"job_id": job_id})) if isinstance(decision, Write) else decision

    settled = judge_and_write(context, job_id, judge)
    if settled.answer.word is Word.OK:
        changes = {"progress": progress, "progress_ms": now_ms}
        write_id = context.entropy.write_id()
        repository.update_open_run(context.store, job_id, fence.epoch, changes, write_id=write_id)
    return settled


def cancel(context: Context, job_id: str, *, request_id: str, now_ms: int, reason: str | None = None) -> Settlement:
    """Cancel a waiting job, or ask the holder of a running one to stop."""
    rules = context.rules
    return judge_and_write(
        context,
        job_id,
        lambda job: transitions.cancel(job, request_id=request_id, now_ms=now_ms, rules=rules, reason=reason),
    )


def redrive(context: Context, job_id: str, *, request_id: str, now_ms: int) -> Settlement:
    """Make a failed or cancelled job ready again, at the epoch it had."""
    return judge_and_write(context, job_id, lambda job: transitions.redrive(job, request_id=request_id, now_ms=now_ms))


def revoke(
    context: Context,
    job_id: str,
    *,
    request_id: str,
    now_ms: int,
    reason: str | None = None,
    and_hold: bool = False,
) -> Settlement:
    """Take the lease from whoever holds it."""

    def judge(job: Job) -> Decision:
        return transitions.revoke(job, request_id=request_id, now_ms=now_ms, reason=reason, and_hold=and_hold)

    return judge_and_write(context, job_id, judge)


def reap(context: Context, job: Job, *, now_ms: int) -> Settlement:
    """Do what time demands of `job`: enforce a cancel, a deadline, an expiry, a schedule. A lost race is a skip."""

    def judge(read: Job) -> Decision:
        attempts: tuple[Decision, ...] = (
            transitions.enforce_cancel(read, now_ms=now_ms),
            transitions.time_out(read, now_ms=now_ms),
            transitions.reap(read, now_ms=now_ms, rules=context.rules),
            transitions.due(read, now_ms=now_ms),
        )
        return next((decision for decision in attempts if isinstance(decision, Write)), attempts[-1])

    return judge_and_write(context, job.id, judge, job=job, attempts_max=1)


def unblock(context: Context, job: Job, *, parents: dict[str, State], now_ms: int) -> Settlement:
    """Free a blocked job whose parents have all succeeded. A lost race is a skip."""
    judge: Judge = lambda read: transitions.unblock(read, parents=parents, now_ms=now_ms)  # noqa: E731  # a rule, bound
    return judge_and_write(context, job.id, judge, job=job, attempts_max=1)


__all__ = [
    "Change",
    "Context",
    "Settlement",
    "cancel",
    "complete",
    "fail",
    "reap",
    "redrive",
    "release",
    "renew",
    "report_progress",
    "revoke",
    "try_claim_job",
    "unblock",
]
