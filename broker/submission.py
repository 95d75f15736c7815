"""Submitting a job: the spec first, then the job made from it, so that a cut in between can be finished by anyone."""

from typing import Any

from broker import repository
from broker.answers import Answer, Reason, Word
from broker.coordinator import Change, Context, Settlement
from broker.documents import Spec, State
from broker.matching import canonical
from broker.messages import Submit, SubmitBody


def submit(context: Context, request: Submit, *, now_ms: int) -> Settlement:
    """Create a job once. Acknowledged means: it stays claimable until it is terminal (I5).

    The same request id again is a replay; another request for the same job id is `conflict {exists}`.

    Raises:
      NotApplied: the job was not created; the same request may be sent again.
      OutcomeUnknown: it may have been; the same request id tells.
    """
    body = request.body
    job_id = body.job_id or f"j-{request.request_id}"
    spec = Spec(
        job_id=job_id,
        request_id=request.request_id,
        payload=body.payload,
        labels=body.labels,
        submitted_by=request.factory_id,
        created_ms=now_ms,
        job=first_version(body, now_ms=now_ms),
    )
    stored = repository.create_spec(context.store, spec, write_id=context.entropy.write_id())
    # The stored spec may be another request's, cut off before its job was made: then that one is finished here.
    job, created = repository.create_job(context.store, job_id, stored.job, write_id=context.entropy.write_id())
    # Not only where it was created here: the worker that did may have died before the job was findable.
    changes = (Change(None, job),)
    facts = {"job_id": job_id, "state": job.state.value, "etag": job.document.etag}
    if stored.request_id != request.request_id:
        return Settlement(Answer(Word.CONFLICT, Reason.EXISTS, facts), changes)
    return Settlement(Answer(Word.OK if created else Word.REPLAYED, body=facts), changes)


def first_version(body: SubmitBody, *, now_ms: int) -> dict[str, Any]:
    """The job document a submission begins with."""
    if body.depends_on:
        state = State.BLOCKED
    elif body.not_before_ms is not None and body.not_before_ms > now_ms:
        state = State.SCHEDULED
    else:
        state = State.READY
    return {
        "kind": "job",
        "queue": body.queue,
        "state": state.value,
        "priority": body.priority,
        "requires": list(canonical(body.requires)),
        "locks": list(canonical(body.locks)),
        "depends_on": list(body.depends_on),
        "not_before_ms": body.not_before_ms,
        "deadline_ms": None if body.timeout_ms is None else now_ms + body.timeout_ms,
        "timeout_ms": body.timeout_ms,
        "ttl_ms": body.ttl_ms,
        "max_failures": body.max_failures,
        "max_expiries": body.max_expiries,
        "counters": {"failures": 0, "expiries": 0, "releases": 0},
        "epoch": 0,
        "lease": None,
        "recent_requests": [],
        "created_ms": now_ms,
        "updated_ms": now_ms,
    }
