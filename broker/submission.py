"""Submitting a job: the spec first, then the job made from it, so that a cut in between can be finished by anyone."""

from collections.abc import Mapping
from typing import Any

import structlog

from broker import coordinator, keys, repository
from broker.answers import Answer, Reason, Word, used_for
from broker.asked import Asked, who_asks
from broker.coordinator import Change, Context, Settlement
from broker.documents import WAITING, Job, Spec, State
from broker.matching import canonical
from broker.messages import Submit, SubmitBody
from datastore import DatastoreError, NotApplied, OutcomeUnknown

log = structlog.get_logger(__name__)

RARELY_SAID = {
    "fairness_key",
    "depends_on",
    "not_before_ms",
    "timeout_ms",
    "ttl_ms",
    "run_timeout_ms",
    "stuck_after_ms",
    "on_stuck",
    "on_parent_failure",
    "supersedes",
}
"""Fields that go into the job as they are, if they are given."""


def submit(context: Context, request: Submit, *, now_ms: int) -> Settlement:
    """Create a job once. Acknowledged means: it stays claimable until it is terminal (I5).

    The same request id from the same factory again is a replay, or `invalid {request_id_used}` where it brings another
    payload, labels or queue; another request for the same job id is `conflict {exists}`: who guesses the id of a
    request must not have another job taken for the one it names.
    Where it is cut off once its spec is stored, it is `outcome_unknown`: the same request again finishes it. What it
    has changed until then is told.

    Raises:
      NotApplied: nothing was stored.
      OutcomeUnknown: it may have been; the same request id tells.
    """
    body = request.body
    job_id = job_named(request)
    spec = Spec(
        job_id=job_id,
        request_id=request.request_id,
        payload=body.payload,
        labels=body.labels,
        submitted_by=request.factory_id,
        created_ms=now_ms,
        job=first_version(body, now_ms=now_ms),
    )
    if body.unique is not None:
        joiner = _joiner(request)
        if repository.read_job(context.store, job_id) is None:
            # The usual refusal leaves nothing behind. Whoever passes here may still lose the race below.
            owner = keys.live_owner(context, body.unique.key, job_id, join=joiner)
        else:  # perhaps made by another request, after this one had joined a job
            owner = None if joiner is None else keys.joined_before(context, body.unique.key, joiner)
        if owner is not None and not (_replaces(body) and owner.state in WAITING):
            return Settlement(_has_the_key(body, owner))
    stored = repository.create_spec(context.store, spec, write_id=context.entropy.write_id())
    changes: list[Change] = []
    try:
        answer = _made_of(context, stored, request, changes, now_ms)
    except (NotApplied, OutcomeUnknown):
        # Its spec is there: under another id it would meet that, and take the job of it for somebody else's.
        answer = Answer(Word.OUTCOME_UNKNOWN, Reason.STORE)
    return Settlement(answer, tuple(changes))


def _made_of(context: Context, stored: Spec, request: Submit, changes: list[Change], now_ms: int) -> Answer:
    """Make the job of a stored spec, once its key is free; perhaps it is made already. `changes`: what that changes."""
    body, job_id = request.body, stored.job_id
    key = stored.job.get("unique")
    if key is not None and repository.read_job(context.store, job_id) is None:
        replace, join = _replaces(body), _joiner(request)
        owner = keys.take(context, key, job_id, changes, replace=replace, join=join, now_ms=now_ms)
        # Another copy of this request may have had the key, and made the job, meanwhile.
        if owner is not None and repository.read_job(context.store, job_id) is None:
            return _has_the_key(body, owner)
    # The stored spec may be another request's, cut off before its job was made: then that one is finished here.
    job, created = repository.create_job(context.store, job_id, stored.job, write_id=context.entropy.write_id())
    # Not only where it was created here: the worker that did may have died before the job was findable.
    changes.append(Change(None, job, new=created))
    if job.supersedes is not None:
        try:
            keys.supersede(context, job, changes, now_ms=now_ms)
        except DatastoreError as error:  # whatever it is, the job is there: nobody may submit it under another id
            log.warning("older_jobs_not_told", job=job_id, error=str(error))
            return Answer(Word.OUTCOME_UNKNOWN, Reason.STORE)
        job = next(change.after for change in reversed(changes) if change.after.id == job_id)  # it may have given way
    facts = {"job_id": job_id, "state": job.state.value, "etag": job.document.etag}
    if (stored.request_id, stored.submitted_by) != (request.request_id, request.factory_id):
        return Answer(Word.CONFLICT, Reason.EXISTS, facts)
    if not _same(stored, body):
        return used_for("submit", "another submission")
    return Answer(Word.OK if created else Word.REPLAYED, body=facts)


def _same(stored: Spec, body: SubmitBody) -> bool:
    """Whether a submission asks for what is stored. Of what else a job says, some follows the clock of the host."""
    return stored.labels == body.labels and stored.job["queue"] == body.queue and _alike(stored.payload, body.payload)


def _alike(one: object, other: object) -> bool:
    """Whether two JSON values are equal. Python takes `true` for 1; as to 1.0, a store may give 1 back for it."""
    if one is other:
        return True
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        return one.keys() == other.keys() and all(_alike(value, other[name]) for name, value in one.items())
    if isinstance(one, list | tuple) and isinstance(other, list | tuple):
        return len(one) == len(other) and all(map(_alike, one, other))
    return isinstance(one, bool) == isinstance(other, bool) and one == other


def job_named(request: Submit) -> str:
    """The id of the job that a request submits: as it says, else derived from its own."""
    return request.body.job_id or f"j-{request.request_id}"


def _replaces(body: SubmitBody) -> bool:
    return body.unique is not None and body.unique.policy == "replace"


def _joiner(request: Submit) -> Asked | None:
    """Who joins the job that has the key; None: nobody does, who submits is turned away."""
    unique = request.body.unique
    joins = unique is not None and unique.policy == "join"
    return who_asks(request) if joins else None


def _has_the_key(body: SubmitBody, owner: Job) -> Answer:
    """The answer where a live job has the key: a refusal, or that job where the caller joins it."""
    if body.unique is None or body.unique.policy != "join":
        return coordinator.not_unique(owner)
    facts = {"job_id": owner.id, "state": owner.state.value, "etag": owner.document.etag, "joined": True}
    return Answer(Word.OK, body=facts)


def first_version(body: SubmitBody, *, now_ms: int) -> dict[str, Any]:
    """The job document a submission begins with. It leaves out what is empty or zero, but the epoch."""
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
        "max_failures": body.max_failures,
        "max_expiries": body.max_expiries,
        "epoch": 0,
        "lease": None,
        "created_ms": now_ms,
        "updated_ms": now_ms,
        **_said(body, now_ms),
    }


def _said(body: SubmitBody, now_ms: int) -> dict[str, Any]:
    """What few jobs say. Left out where it is not said: a document is read and written several times for each claim."""
    said = body.model_dump(mode="json", include=RARELY_SAID, exclude_defaults=True)
    others = {
        "requires": list(canonical(body.requires)),
        "prefers": [list(each) for each in sorted(body.prefers.items())],
        "locks": list(canonical(body.locks)),
        "concurrency": list(canonical(body.concurrency)),
        "deadline_ms": None if body.timeout_ms is None else now_ms + body.timeout_ms,
        "unique": None if body.unique is None else body.unique.key,
    }
    return said | {name: value for name, value in others.items() if value}
