"""One request, one settlement: the table from operation to coordinator, and what failures are answered with."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import structlog

from broker import (
    claim_next,
    coordinator,
    explain,
    factories,
    listing,
    operating,
    registration,
    schedules,
    side_by_side,
    submission,
)
from broker.answers import Answer, Reason, Word, past_deadline, plain, used_for
from broker.asked import UsedForAnother
from broker.coordinator import Context, Settlement
from broker.documents import spec_id
from broker.failures import trace
from broker.fence import Fence
from broker.messages import (
    Cancel,
    ChangeSchedule,
    Claim,
    Complete,
    DrainFactory,
    Explain,
    Fail,
    FencedRequest,
    GetFactory,
    GetJob,
    HandOver,
    Hold,
    Lift,
    ListFactories,
    ListJobs,
    ListLimits,
    ListQueues,
    ListRuns,
    ListSchedules,
    PauseQueue,
    Progress,
    PutSchedule,
    Redrive,
    RegisterFactory,
    Release,
    RemoveFactory,
    RemoveLimit,
    Renew,
    RenewMany,
    Request,
    ResumeFactory,
    ResumeQueue,
    Revoke,
    SetLimit,
    Submit,
)
from broker.renewing import Held, Renewing
from broker.repository import read_job
from broker.settlement import Change
from broker.transitions import Claimant
from broker.wire_types import is_job_id
from datastore import Corrupt, DatastoreError, NotApplied, OutcomeUnknown, Rejected, Throttled, UnknownCursor
from datastore.interface import DocumentName

log = structlog.get_logger(__name__)

Handler: TypeAlias = Callable[[Context, Any, int], Settlement]


HEED_CONTROLS: frozenset[type] = frozenset({Claim, Renew, RenewMany})
"""Requests that look at what operators and factories have said."""


def settle(context: Context, request: Request, *, now_ms: int, candidate: str | None = None) -> Settlement:
    """Carry out one request and say what became of it. `candidate`: the job a claim-next is to try.

    Nothing is raised for what a caller or a store can cause: failures become answers that claim no
    more than is known.
    """
    proposed = () if candidate is None else (candidate,)
    if request.deadline_ms is not None and now_ms > request.deadline_ms:
        return _offered_again(context, past_deadline(request.deadline_ms), proposed)
    try:
        if candidate is not None:
            assert isinstance(request, Claim), "only a claim has a candidate"
            return _claim(context, request, now_ms, candidate)
        return HANDLERS[type(request)](context, request, now_ms)
    except DatastoreError as error:
        return failed(context, error, proposed)
    except UsedForAnother as used:
        return Settlement(used_for(used.op))
    except Exception:
        # A mistake of ours must not stop the worker, nor undo the batch of the others.
        log.error("settle_failed", op=request.op, request_id=request.request_id, exception=trace())
        return Settlement(Answer(Word.OUTCOME_UNKNOWN))


def looked_at(request: Request, candidates: Sequence[str]) -> list[DocumentName]:
    """The documents that settling it reads in any case: jobs, and where they may be granted what was submitted."""
    if type(request) is Claim:
        job_id = request.body.job_id
        if job_id is not None:
            return [(job_id, job_id), (spec_id(job_id), job_id)]
        named = filter(is_job_id, candidates)
        return [name for job_id in named for name in ((job_id, job_id), (spec_id(job_id), job_id))]
    if type(request) is RenewMany:
        return [(lease.job_id, lease.job_id) for lease in request.body.leases]
    if isinstance(request, Renew | Complete | Fail | Release | HandOver | Progress):
        return [(request.body.job_id, request.body.job_id)]
    return []


def failed(context: Context, error: DatastoreError, proposed: Sequence[str]) -> Settlement:
    """The answer where the store failed. What was proposed goes back if nothing was written; where it is unknown what
    became of it, the sweep does that.
    """
    return _offered_again(context, failure(error), proposed if isinstance(error, NotApplied) else ())


def _offered_again(context: Context, answer: Answer, proposed: Sequence[str]) -> Settlement:
    """This answer to a claim that did nothing. What it was proposed is out of the index, and goes back.

    Where a job can't be read now, the sweep does that.
    """
    try:
        jobs = [read_job(context.store, job_id) for job_id in proposed if is_job_id(job_id)]
    except DatastoreError:
        jobs = []
    return Settlement(answer, tuple(Change(job, job) for job in jobs if job is not None))


def failure(error: DatastoreError) -> Answer:
    """What a caller is told where the store failed. `granted` and `lost` are claims; this makes neither."""
    match error:
        case Throttled(retry_after_ms=pause):
            return Answer(Word.THROTTLED, Reason.STORE, retry_after_ms=pause)
        case NotApplied():  # also where it does not let this worker in: another may be let in, or this one later
            return Answer(Word.THROTTLED, Reason.STORE)
        case UnknownCursor():
            return Answer(Word.INVALID, Reason.MALFORMED, {"detail": str(error)})
        case Rejected():
            return Answer(Word.INVALID, Reason.STORE, {"detail": str(error)})
        case Corrupt():
            return Answer(Word.INVALID, Reason.CORRUPT, {"detail": "the stored document does not parse"})
        case OutcomeUnknown() | DatastoreError():
            return Answer(Word.OUTCOME_UNKNOWN, Reason.STORE)


def claimant(context: Context, request: Claim, offers: tuple[str, ...]) -> Claimant:
    """Who asks, and offers what, with a fresh token to hand out if it wins."""
    body = request.body  # asked for once: an attribute of a pydantic model takes ten times as long as another's
    return Claimant(
        factory_id=request.factory_id,
        incarnation=request.incarnation,
        request_id=request.request_id,
        token=context.entropy.token(),
        instance=request.instance,
        waited=claim_next.waited(body),
        offers=offers,
        ttl_ms=body.ttl_ms,
        deadline_ms=request.deadline_ms,
    )


def fence(request: FencedRequest) -> Fence:
    """What the caller says about itself."""
    body = request.body
    return Fence(factory_id=request.factory_id, epoch=body.epoch, token=body.token, request_id=request.request_id)


def _claim(context: Context, request: Claim, now_ms: int, job_id: str | None = None) -> Settlement:
    wanted = request.body.job_id if job_id is None else job_id
    if wanted is None:
        return Settlement(Answer(Word.NONE_AVAILABLE))
    if job_id is not None and not is_job_id(job_id):  # out of the index, where somebody else has written it
        return Settlement(Answer(Word.NOT_FOUND, body={"job_id": job_id}))
    offers = registration.offers(context.heeded(), request.factory_id, request.body.offers)
    who = claimant(context, request, offers)
    return coordinator.try_claim_job(context, wanted, who, now_ms=now_ms, etag=request.body.expected_etag)


def _renew(context: Context, request: Renew, now_ms: int) -> Settlement:
    body = request.body
    return coordinator.renew(context, body.job_id, fence(request), now_ms=now_ms, ttl_ms=body.ttl_ms)


def _renew_many(context: Context, request: RenewMany, now_ms: int) -> Settlement:
    """Each lease by itself: one that is lost, or that the store fails on, leaves the others alone."""
    factory_id, request_id = request.factory_id, request.request_id
    leases = [  # by the entries of each: an attribute of a pydantic model takes ten times as long
        Held(its["job_id"], Fence(factory_id, its["epoch"], its["token"], request_id), its["ttl_ms"])
        for its in map(vars, request.body.leases)
    ]
    renewing, at_once_max = Renewing(context, factory_id, now_ms=now_ms), context.store.concurrency
    if at_once_max > 1:
        settled = side_by_side.each(renewing.alone, leases, at_once_max=at_once_max)
    else:
        settled = renewing.each(leases)
    became = [Settlement(failure(each)) if isinstance(each, DatastoreError) else each for each in settled]
    results = [plain(each.answer) for each in became]
    for held, result in zip(leases, results, strict=True):
        result.setdefault("job_id", held.job_id)
    changes = tuple([change for each in became for change in each.changes])
    extended = tuple([job for each in became for job in each.extended])
    return Settlement(Answer(Word.OK, body={"results": results}), changes, extended=extended)


def _complete(context: Context, request: Complete, now_ms: int) -> Settlement:
    body = request.body
    return coordinator.complete(context, body.job_id, fence(request), now_ms=now_ms, result=body.result)


def _fail(context: Context, request: Fail, now_ms: int) -> Settlement:
    body = request.body
    return coordinator.fail(
        context,
        body.job_id,
        fence(request),
        now_ms=now_ms,
        error=body.error,
        result=body.result,
        retryable=body.retryable,
    )


def _release(context: Context, request: Release, now_ms: int) -> Settlement:
    body = request.body
    unread_by = request.instance if body.unread else None
    return coordinator.release(
        context, body.job_id, fence(request), now_ms=now_ms, reason=body.reason, unread_by=unread_by
    )


def _hand_over(context: Context, request: HandOver, now_ms: int) -> Settlement:
    body = request.body
    return coordinator.hand_over(context, body.job_id, fence(request), now_ms=now_ms, to=body.to, reason=body.reason)


def _progress(context: Context, request: Progress, now_ms: int) -> Settlement:
    body = request.body
    return coordinator.report_progress(context, body.job_id, fence(request), now_ms=now_ms, progress=body.progress)


def _submit(context: Context, request: Submit, now_ms: int) -> Settlement:
    return submission.submit(context, request, now_ms=now_ms)


def _cancel(context: Context, request: Cancel, now_ms: int) -> Settlement:
    body = request.body
    return coordinator.cancel(
        context, body.job_id, request_id=request.request_id, by=request.factory_id, now_ms=now_ms, reason=body.reason
    )


def _redrive(context: Context, request: Redrive, now_ms: int) -> Settlement:
    return coordinator.redrive(
        context, request.body.job_id, request_id=request.request_id, by=request.factory_id, now_ms=now_ms
    )


def _revoke(context: Context, request: Revoke, now_ms: int) -> Settlement:
    body = request.body
    return coordinator.revoke(
        context,
        body.job_id,
        request_id=request.request_id,
        by=request.factory_id,
        now_ms=now_ms,
        reason=body.reason,
        and_hold=body.hold,
    )


def _hold(context: Context, request: Hold, now_ms: int) -> Settlement:
    body = request.body
    return coordinator.hold(
        context, body.job_id, request_id=request.request_id, by=request.factory_id, now_ms=now_ms, reason=body.reason
    )


def _lift(context: Context, request: Lift, now_ms: int) -> Settlement:
    return coordinator.lift(
        context, request.body.job_id, request_id=request.request_id, by=request.factory_id, now_ms=now_ms
    )


PUT_BACK = Settlement(Answer(Word.THROTTLED, Reason.OVERLOADED), told_elsewhere=True, put_back=True)
"""Of a request that comes again: nobody is told so."""


def _while_there_is_room(handler: Handler) -> Handler:
    """The same, while its batch has room for those who only look. For what changes nothing: it may come later."""

    def look(context: Context, request: Any, now_ms: int) -> Settlement:
        looks, clock = context.looks, context.clock
        if looks is None or clock is None:
            return handler(context, request, now_ms)
        if looks.over:
            return PUT_BACK
        settlement = handler(context, request, now_ms)
        looks.spend(settlement.answer, clock.now_ms() - now_ms)
        return settlement

    return look


LOOKS: Mapping[type, Handler] = {
    ListLimits: operating.list_limits,
    ListQueues: operating.list_queues,
    GetJob: listing.get_job,
    ListJobs: listing.list_jobs,
    ListRuns: listing.list_runs,
    ListSchedules: schedules.listed,
    Explain: explain.explain,
    GetFactory: factories.show,
    ListFactories: factories.list_all,
}
"""Operations that change nothing. A batch has room for so much of them."""
HANDLERS: Mapping[type, Handler] = {
    Claim: _claim,
    Renew: _renew,
    RenewMany: _renew_many,
    Complete: _complete,
    Fail: _fail,
    Release: _release,
    Progress: _progress,
    Submit: _submit,
    Cancel: _cancel,
    Redrive: _redrive,
    Revoke: _revoke,
    Hold: _hold,
    Lift: _lift,
    SetLimit: operating.set_limit,
    RemoveLimit: operating.remove_limit,
    PauseQueue: operating.pause_queue,
    ResumeQueue: operating.resume_queue,
    PutSchedule: schedules.put,
    ChangeSchedule: schedules.change,
    HandOver: _hand_over,
    RegisterFactory: factories.register,
    DrainFactory: factories.drain,
    ResumeFactory: factories.resume,
    RemoveFactory: factories.remove,
    **{kind: _while_there_is_room(handler) for kind, handler in LOOKS.items()},
}
"""Every operation of the protocol; a new one is a row here and a model in `messages`."""
