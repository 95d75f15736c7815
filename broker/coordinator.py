"""Carries a rule's decision into the store: read, judge, write conditionally; judge again where another came first."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import structlog

from broker import repository, transitions
from broker.answers import Answer, Reason, Word
from broker.documents import Job, State
from broker.entropy import Entropy
from broker.fence import Fence
from broker.repository import JobUpdate, Missing, Stale, Updated
from broker.transitions import Claimant, Decision, Refuse, Replay, Rules, Write
from broker.transitions.decision import held_by
from datastore import Datastore, DatastoreError, NotApplied, OutcomeUnknown

log = structlog.get_logger(__name__)

CAS_ATTEMPTS_MAX = 4
"""The first try and three more (design §8.7)."""
CAS_PAUSE_MS = 20
"""Bound of the jittered pause before a lost race is judged again."""


@dataclass(frozen=True, slots=True)
class Context:
    """What every operation needs: the store, the rules, randomness and a way to pause (milliseconds)."""

    store: Datastore
    rules: Rules
    entropy: Entropy
    pause: Callable[[float], None]


@dataclass(frozen=True, slots=True)
class Change:
    """One job before and after a write; run records and hints are derived from it. `before` is None for a new job."""

    before: Job | None
    after: Job


@dataclass(frozen=True, slots=True)
class Settlement:
    """The answer to a request, and what it changed."""

    answer: Answer
    changes: tuple[Change, ...] = field(default=())


Judge: TypeAlias = Callable[[Job], Decision]


def try_claim_job(
    context: Context, job_id: str, who: Claimant, *, now_ms: int, job: Job | None = None, etag: str | None = None
) -> Settlement:
    """Claim one job for one claimant; of any number at once, one is granted.

    `job`: a version that was just read, judged without a second read. `etag`: claim exactly this
    version; any other is `conflict {etag_mismatch}`. Losers write nothing.

    Raises:
      NotApplied: nothing was granted.
      OutcomeUnknown: the caller repeats its request id, and gets the grant if it was written.
    """

    def judge(read: Job) -> Decision:
        decision = transitions.claim(read, who, now_ms=now_ms, rules=context.rules)
        if etag is not None and etag != read.document.etag and not isinstance(decision, Replay):
            return Refuse(Answer(Word.CONFLICT, Reason.ETAG_MISMATCH, held_by(read, now_ms)))
        return decision

    return _with_spec(context, _settle(context, job_id, judge, job=job))


def renew(context: Context, job_id: str, fence: Fence, *, now_ms: int, ttl_ms: int | None = None) -> Settlement:
    """Extend the caller's lease by its ttl, counted from `now_ms`."""
    judge: Judge = lambda job: transitions.renew(job, fence, now_ms=now_ms, ttl_ms=ttl_ms)  # noqa: E731  # a rule, bound
    return _settle(context, job_id, judge, write=repository.rev_update_lease)


def complete(context: Context, job_id: str, fence: Fence, *, now_ms: int, result: Any = None) -> Settlement:
    """End the job as succeeded; `result` goes into the run record."""
    return _settle(context, job_id, lambda job: transitions.complete(job, fence, now_ms=now_ms, result=result))


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

    return _settle(context, job_id, judge)


def release(context: Context, job_id: str, fence: Fence, *, now_ms: int, reason: str | None = None) -> Settlement:
    """Give the job back unharmed."""
    return _settle(context, job_id, lambda job: transitions.release(job, fence, now_ms=now_ms, reason=reason))


def report_progress(context: Context, job_id: str, fence: Fence, *, now_ms: int, progress: Any) -> Settlement:
    """Write progress to the run of the caller's epoch. The job, and the etag a renewal needs, stay as they are."""

    def judge(job: Job) -> Decision:
        # The same fence as a renewal, whose write is then not made.
        decision = transitions.renew(job, fence, now_ms=now_ms)
        return Refuse(Answer(Word.OK, body={"job_id": job_id})) if isinstance(decision, Write) else decision

    settled = _settle(context, job_id, judge)
    if settled.answer.word is Word.OK:
        changes = {"progress": progress, "progress_ms": now_ms}
        write_id = context.entropy.write_id()
        repository.update_open_run(context.store, job_id, fence.epoch, changes, write_id=write_id)
    return settled


def cancel(context: Context, job_id: str, *, request_id: str, now_ms: int, reason: str | None = None) -> Settlement:
    """Cancel a waiting job, or ask the holder of a running one to stop."""
    rules = context.rules
    return _settle(
        context,
        job_id,
        lambda job: transitions.cancel(job, request_id=request_id, now_ms=now_ms, rules=rules, reason=reason),
    )


def redrive(context: Context, job_id: str, *, request_id: str, now_ms: int) -> Settlement:
    """Make a failed or cancelled job ready again, at the epoch it had."""
    return _settle(context, job_id, lambda job: transitions.redrive(job, request_id=request_id, now_ms=now_ms))


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

    return _settle(context, job_id, judge)


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

    return _settle(context, job.id, judge, job=job, attempts_max=1)


def unblock(context: Context, job: Job, *, parents: dict[str, State], now_ms: int) -> Settlement:
    """Free a blocked job whose parents have all succeeded. A lost race is a skip."""
    judge: Judge = lambda read: transitions.unblock(read, parents=parents, now_ms=now_ms)  # noqa: E731  # a rule, bound
    return _settle(context, job.id, judge, job=job, attempts_max=1)


def _settle(
    context: Context,
    job_id: str,
    judge: Judge,
    *,
    job: Job | None = None,
    write: Callable[..., JobUpdate] = repository.rev_update_job,
    attempts_max: int = CAS_ATTEMPTS_MAX,
) -> Settlement:
    """Read, judge, write if still so. The guard is evaluated anew on each version; the caller's fence never is."""
    for attempt in range(attempts_max):
        if job is None:
            job = repository.read_job(context.store, job_id)
        if job is None:
            break
        decision = judge(job)
        if isinstance(decision, Replay):
            # Written before, perhaps by a worker that died before it moved the hints: they are moved again.
            return Settlement(decision.answer, (Change(None, job),))
        if isinstance(decision, Refuse):
            return Settlement(decision.answer)
        match write(context.store, job, decision.changes, write_id=context.entropy.write_id()):
            case Updated(after):
                _record_runs(context, job, after)
                return Settlement(decision.answer, (Change(job, after),))
            case Missing():
                break
            case Stale(current):
                job = current
        if attempt + 1 < attempts_max:
            context.pause(CAS_PAUSE_MS * context.entropy.jitter())
    else:
        return Settlement(Answer(Word.CONFLICT, Reason.RACED, {"job_id": job_id}))
    return Settlement(Answer(Word.NOT_FOUND, body={"job_id": job_id}))


def _record_runs(context: Context, before: Job, after: Job) -> None:
    """Write what the job says onto its runs.

    The job is written and decides; where a run can't be, or a crash comes in between, the sweep does the same.
    """
    try:
        _write_runs(context, before, after)
    except DatastoreError as error:
        log.warning("run_not_recorded", job=after.id, epoch=after.epoch, error=str(error))


def _write_runs(context: Context, before: Job, after: Job) -> None:
    if after.last_end is not None and after.last_end != before.last_end:
        repository.end_run(context.store, after.id, after.last_end, write_id=context.entropy.write_id())
    if after.lease is not None and after.epoch != before.epoch:
        repository.start_run(context.store, after.id, after.lease, write_id=context.entropy.write_id())


def _with_spec(context: Context, settled: Settlement) -> Settlement:
    """A grant carries what was submitted."""
    answer = settled.answer
    if "token" not in answer.body:
        return settled
    try:
        spec = repository.read_spec(context.store, answer.body["job_id"])
    except NotApplied as error:
        # The grant stands; only its answer can't be given. The same request id will get it.
        raise OutcomeUnknown(f"{answer.body['job_id']}: granted, but its spec can't be read now") from error
    body = {**answer.body, "payload": spec.payload, "labels": spec.labels}
    return Settlement(Answer(answer.word, answer.reason, body), settled.changes)


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
