"""The operations on jobs: each binds a rule to its request and has it carried out."""

from collections.abc import Collection, Mapping
from functools import partial
from typing import Any

import structlog

from broker import keys, parents, repository, runs, transitions
from broker.answers import Answer, Reason, Word
from broker.claiming import try_claim_job
from broker.controls import FactoryRecord, standing_factory
from broker.documents import Job, Run, State
from broker.fence import Fence
from broker.parents import Parents
from broker.renewing import renew
from broker.repository import JobUpdate
from broker.settlement import (
    Change,
    Context,
    Denied,
    Judge,
    Settlement,
    Writer,
    judge_and_write,
)
from broker.transitions import Decision, Refuse, Write
from datastore import Datastore

log = structlog.get_logger(__name__)

PROGRESS_TRIES_MAX = 3
"""How often a job is read anew where its run can't be written."""


def complete(context: Context, job_id: str, fence: Fence, *, now_ms: int, result: Any = None) -> Settlement:
    """End the job as succeeded; `result` goes into the run record."""
    judge: Judge = lambda job: transitions.complete(job, fence, now_ms=now_ms, result=result)  # noqa: E731  # a rule, bound
    return judge_and_write(context, job_id, judge, seen_epoch=fence.epoch)


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

    return judge_and_write(context, job_id, judge, seen_epoch=fence.epoch)


def release(
    context: Context,
    job_id: str,
    fence: Fence,
    *,
    now_ms: int,
    reason: str | None = None,
    unread_by: str | None = None,
) -> Settlement:
    """Give the job back unharmed. `unread_by`: as far as Redis knows, this client has not read its grant."""

    def judge(job: Job) -> Decision:
        return transitions.release(job, fence, now_ms=now_ms, reason=reason, unread_by=unread_by)

    return judge_and_write(context, job_id, judge, seen_epoch=fence.epoch)


def hand_over(
    context: Context, job_id: str, fence: Fence, *, now_ms: int, to: str, reason: str | None = None
) -> Settlement:
    """Give the job back for factory `to`, unless that one would be turned away: then the lease stands."""
    read = context.heeded().factory(to)

    def judge(job: Job) -> Decision:
        rules = context.rules
        decision = transitions.hand_over(job, fence, now_ms=now_ms, rules=rules, to=to, reason=reason)
        if not isinstance(decision, Write) or job.cancel or read.draining(read.incarnation or "", now_ms) is None:
            return decision
        # The refusal is final, and the drain that was read may be over.
        stands = standing_factory(context.store, context.entropy, to)
        drain = stands.draining(stands.incarnation or "", now_ms)
        if drain is None:
            return decision
        body = {"job_id": job_id, "factory": to, **transitions.draining(drain, now_ms=now_ms).body}
        return Refuse(Answer(Word.NOT_CLAIMABLE, Reason.DRAINING, body))

    return judge_and_write(context, job_id, judge, seen_epoch=fence.epoch)


def report_progress(context: Context, job_id: str, fence: Fence, *, now_ms: int, progress: Any) -> Settlement:
    """Write progress to the run of the caller's epoch. The job, and the etag a renewal needs, stay as they are.

    Only a run that was flagged as stuck is unflagged, which the job says.
    """
    seen: Job | None = None

    def judge(job: Job) -> Decision:
        nonlocal seen
        seen = job
        # The same fence as a renewal, whose write is then not made.
        decision = transitions.renew(job, fence, now_ms=now_ms)
        return Refuse(Answer(Word.OK, body={"job_id": job_id})) if isinstance(decision, Write) else decision

    changes = {"progress": progress, "progress_ms": now_ms}
    for _ in range(PROGRESS_TRIES_MAX):
        settled = judge_and_write(context, job_id, judge, seen_epoch=fence.epoch)
        if settled.answer.word is not Word.OK or seen is None or seen.lease is None:
            return settled
        if runs.write_open_run(context.store, context.entropy, job_id, seen.lease, changes) is not None:
            return _unflagged(context, seen, settled, now_ms=now_ms)
        # It has ended: a stale read showed the job as it was before.
    return Settlement(Answer(Word.OUTCOME_UNKNOWN, Reason.STORE))


def _unflagged(context: Context, job: Job, settled: Settlement, *, now_ms: int) -> Settlement:
    """Take the flag off a run that was taken for stuck: it has just made progress."""
    if job.lease is None or job.lease.stuck_ms is None:
        return settled
    unflagged = judge_and_write(context, job.id, partial(_heed, context, job.epoch, now_ms, now_ms))
    return Settlement(settled.answer, unflagged.changes)


def cancel(
    context: Context, job_id: str, *, request_id: str, by: str, now_ms: int, reason: str | None = None
) -> Settlement:
    """Cancel a waiting job, or ask the holder of a running one to stop."""
    rules = context.rules
    return judge_and_write(
        context,
        job_id,
        lambda job: transitions.cancel(job, request_id=request_id, by=by, now_ms=now_ms, rules=rules, reason=reason),
        sure=True,
    )


def redrive(context: Context, job_id: str, *, request_id: str, by: str, now_ms: int) -> Settlement:
    """Make a failed or cancelled job ready again, at the epoch it had; a unique one only if its key is free."""

    def write(store: Datastore, job: Job, changes: Mapping[str, Any], *, write_id: str) -> JobUpdate | Denied:
        if changes:  # otherwise a refusal is only made sure of, which is about no key
            if job.unique is not None:
                made: list[Change] = []
                if (owner := keys.take(context, job.unique, job_id, made, now_ms=now_ms)) is not None:
                    return Denied(not_unique(owner), changes=tuple(made))
            if job.supersedes is not None:
                keys.note_redriven(context, job.supersedes, job_id)
        return repository.rev_update_job(store, job, changes, write_id=write_id)

    judge: Judge = lambda job: transitions.redrive(job, request_id=request_id, by=by, now_ms=now_ms)  # noqa: E731  # a rule, bound
    return judge_and_write(context, job_id, judge, write=write, sure=True)


def not_unique(owner: Job) -> Answer:
    """The refusal that names the job which has the key."""
    body = {"job_id": owner.id, "state": owner.state.value, "key": owner.unique}
    return Answer(Word.CONFLICT, Reason.NOT_UNIQUE, body)


def revoke(
    context: Context,
    job_id: str,
    *,
    request_id: str,
    by: str,
    now_ms: int,
    reason: str | None = None,
    and_hold: bool = False,
) -> Settlement:
    """Take the lease from whoever holds it."""

    def judge(job: Job) -> Decision:
        return transitions.revoke(job, request_id=request_id, by=by, now_ms=now_ms, reason=reason, and_hold=and_hold)

    return judge_and_write(context, job_id, judge, write=_unasked(context), sure=True)


def hold(
    context: Context, job_id: str, *, request_id: str, by: str, now_ms: int, reason: str | None = None
) -> Settlement:
    """Keep a job from being claimed until it is lifted; a lease that stands is not touched."""

    def judge(job: Job) -> Decision:
        return transitions.hold(job, request_id=request_id, by=by, now_ms=now_ms, reason=reason)

    return judge_and_write(context, job_id, judge)


def lift(context: Context, job_id: str, *, request_id: str, by: str, now_ms: int) -> Settlement:
    """End an operator's hold."""
    return judge_and_write(
        context, job_id, lambda job: transitions.lift(job, request_id=request_id, by=by, now_ms=now_ms)
    )


def reap(context: Context, job: Job, *, now_ms: int) -> Settlement:
    """Do what time demands of `job`: enforce a cancel, deadlines, an expiry, a schedule; where it was set back, a lease
    stands no longer for that. A lost race is a skip.
    """

    def judge(read: Job) -> Decision:
        attempts: tuple[Decision, ...] = (
            transitions.enforce_cancel(read, now_ms=now_ms),
            transitions.time_out(read, now_ms=now_ms),
            transitions.end_run(read, now_ms=now_ms, rules=context.rules, jitter=context.entropy.jitter()),
            transitions.reap(read, now_ms=now_ms, rules=context.rules),
            transitions.anchor(read, now_ms=now_ms),
            transitions.due(read, now_ms=now_ms),
        )
        return next((decision for decision in attempts if isinstance(decision, Write)), attempts[-1])

    return judge_and_write(context, job.id, judge, job=job, write=_unasked(context), attempts_max=1)


def outlive(context: Context, job: Job, factory_id: str, factory: FactoryRecord, *, now_ms: int) -> Settlement:
    """End the lease of a start of this factory that is over. The guard is judged anew on each version."""
    judge: Judge = lambda read: transitions.outlive(read, factory_id, factory, now_ms=now_ms)  # noqa: E731  # a rule, bound
    return judge_and_write(context, job.id, judge, job=job, write=_unasked(context))


def watch(context: Context, job: Job, *, now_ms: int) -> Settlement:
    """See whether a leased job gets on, by the progress of its run. A lost race is a skip."""
    run = runs.read_run(context.store, job.id, job.epoch)
    if job.lease is not None and _is_to_change(context, job, run, now_ms=now_ms):
        # What a read shows may be as it was before: it has got on, unless it can be written on. And where its lease is
        # to end, the sweep finds this run, should this process die before that is on record.
        run = runs.write_open_run(context.store, context.entropy, job.id, job.lease, {})
    judge = partial(_heed, context, job.epoch, now_ms, None if run is None else run.progress_ms)
    return judge_and_write(context, job.id, judge, job=job, attempts_max=1)


def _is_to_change(context: Context, job: Job, run: Run | None, *, now_ms: int) -> bool:
    made_ms = None if run is None else run.progress_ms
    return isinstance(_heed(context, job.epoch, now_ms, made_ms, job), Write)


def _heed(context: Context, epoch: int, now_ms: int, progress_ms: int | None, job: Job) -> Decision:
    """Progress counts for the run that made it."""
    jitter = context.entropy.jitter()
    made_ms = progress_ms if job.epoch == epoch else None
    return transitions.heed_progress(job, progress_ms=made_ms, now_ms=now_ms, rules=context.rules, jitter=jitter)


def _unasked(context: Context) -> Writer:
    """How the end of a lease is written where its holder did not ask for it, and repeats nothing."""
    return partial(runs.end_unasked, context.entropy)


def unblock(
    context: Context,
    job_id: str,
    *,
    now_ms: int,
    job: Job | None = None,
    known: Parents | None = None,
    ended: Collection[str] = (),
) -> Settlement:
    """Free or cancel a blocked job as its parents stand now. `job`: a version just read.

    `known`: what was just read of parents. `ended`: as `parents.deciding`.
    """
    read_so_far = known or Parents()

    def judge(read: Job) -> Decision:
        blocked = read.state is State.BLOCKED
        states = parents.deciding(context, read, read_so_far, sure=True, ended=ended) if blocked else {}
        return transitions.unblock(read, parents=states, now_ms=now_ms)

    return judge_and_write(context, job_id, judge, job=job)


def waits_no_more(
    context: Context, job: Job, *, now_ms: int, known: Parents | None = None, ended: Collection[str] = ()
) -> bool:
    """Whether this job is blocked no more, or not to be, as reads show its parents. Nothing is written."""
    if job.state is not State.BLOCKED:
        return False
    states = parents.deciding(context, job, known or Parents(), ended=ended)
    return isinstance(transitions.unblock(job, parents=states, now_ms=now_ms), Write)


__all__ = [
    "Change",
    "Context",
    "Settlement",
    "cancel",
    "complete",
    "fail",
    "hand_over",
    "hold",
    "lift",
    "not_unique",
    "outlive",
    "reap",
    "redrive",
    "release",
    "renew",
    "report_progress",
    "revoke",
    "try_claim_job",
    "unblock",
    "waits_no_more",
    "watch",
]
