"""Jobs that share a key: one at most is not terminal (`unique`), or the newest alone waits (`supersedes`).

The document of a key names one job. To make job X live: name X in it, then write X on the version read before that.
To name another: see that X is terminal, write on X, then change the key on the version read first. So of two who
race, one finds its version gone. A named job that was never made (its submission died half-way) is made from its spec.
To join X: see that X is not terminal, write on X, then write the request down with the key, on the version read first.
"""

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any, cast

import structlog

from broker import repository, transitions
from broker.asked import Asked
from broker.documents import WAITING, Job
from broker.settlement import Change, Context, Judge, judge_and_write
from datastore import Conflict, Corrupt, Document, Expected, NotFound, Ok, OutcomeUnknown, Unavailable
from datastore.confirm import confirmed_create, confirmed_update

log = structlog.get_logger(__name__)

KEY_WRITES_MAX = 16
"""Tries to change a key that others change too."""
KEY_PAUSE_MS = 20
"""Bound of the jittered pause between them."""
REDRIVEN_MAX = 64
"""Jobs of one superseding key that were redriven, and that the next newer one supersedes with the one before it."""
SAME_MS_MAX = 64
"""Jobs of one superseding key that are known to have been the newest within the millisecond of the newest one, whether
they have given way yet or not."""
JOINED_MAX = 32
"""Requests that a key remembers to have pointed to a job of it: a resend is pointed there again (I6)."""


def key_id(use: str, key: str) -> str:
    """The document of a key. A digest: keys hold characters and lengths that ids can't."""
    return f"{use}:{hashlib.sha256(key.encode()).hexdigest()[:40]}"


def live_owner(context: Context, key: str, job_id: str, *, join: Asked | None = None) -> Job | None:
    """Another job that has this unique key and is not terminal, as it looks now. Nothing is written, but for a `join`.

    Raises:
      NotApplied, OutcomeUnknown: whether it was joined is not known; the same request again is harmless.
    """
    name = key_id("unique", key)
    for _ in range(KEY_WRITES_MAX):
        found = context.store.read(name, name)
        if isinstance(found, NotFound):
            return None
        if join is not None and (before := _joined_before(context, found.document, join)) is not None:
            return before
        owner_id = _owner(found.document)
        owner = None if owner_id is None or owner_id == job_id else repository.read_job(context.store, owner_id)
        if owner is None or owner.state.terminal:
            return None
        if join is None:
            return owner
        if (joined := _joined(context, found.document, owner, join)) is not None:
            return joined
    raise Unavailable(f"key {key!r}: {KEY_WRITES_MAX} tries in a row lost")


def joined_before(context: Context, key: str, join: Asked) -> Job | None:
    """The job of this key that the request has joined, if it has, whatever became of the job.

    Raises:
      OutcomeUnknown: it has joined one, and no read shows that.
    """
    name = key_id("unique", key)
    found = context.store.read(name, name)
    return None if isinstance(found, NotFound) else _joined_before(context, found.document, join)


def take(
    context: Context,
    key: str,
    job_id: str,
    changes: list[Change],
    *,
    replace: bool = False,
    join: Asked | None = None,
    now_ms: int,
) -> Job | None:
    """Make a unique key `job_id`'s, unless a live job has it, or this request has joined one before: that job.

    `replace` cancels one that waits; `join` joins it. `changes`: what else is changed is added there, whatever fails.

    Raises:
      NotApplied: it was not taken; jobs may have been cancelled for it.
      OutcomeUnknown: it may have been; asking again is harmless.
    """
    for _ in range(KEY_WRITES_MAX):
        document = _read(context, key_id("unique", key), {"key": key, "job_id": None})
        # Another copy of this request may have joined a job meanwhile.
        if join is not None and (before := _joined_before(context, document, join)) is not None:
            return before
        owner_id = _owner(document)
        if owner_id is not None and owner_id != job_id:
            live = _alive(context, owner_id, job_id, changes, replace=replace, now_ms=now_ms)
            if live is not None and join is not None and (live := _joined(context, document, live, join)) is None:
                continue
            if live is not None:
                return live
        if _changed(context, document, {"job_id": job_id, "since_ms": now_ms}):
            return None
    raise Unavailable(f"key {key!r}: {KEY_WRITES_MAX} swaps in a row lost")


def supersede(context: Context, job: Job, changes: list[Change], *, now_ms: int) -> None:
    """Make `job` the newest of its key; those before it give way, or itself where a newer one is there.

    Newer is what was taken later; within one millisecond, what is named later. Once only: what an operator has redriven
    since is left alone, however often this is asked again. `changes`: what is changed is added there, whatever fails.

    Raises:
      NotApplied, OutcomeUnknown: some may still wait; the same request again is harmless.
    """
    assert job.supersedes is not None, "only for a job with the key"
    name = key_id("newest", job.supersedes)
    for _ in range(KEY_WRITES_MAX):
        document = _read(context, name, _no_newest(job.supersedes))
        body: Mapping[str, Any] = document.body
        newest: str = body["job_id"]
        # What the newest one began is finished first, whoever asks: it may have died, and the key may forget it now.
        _all_superseded(context, _older(body), newest, changes, now_ms)
        if newest == job.id:
            return
        same_ms = _same_ms(body, job.created_ms)
        if job.created_ms < body["since_ms"] or job.id in same_ms or job.gave_way_to is not None:
            changes += _superseded(context, job.id, newest, now_ms, anew=False)
            return
        named = {
            "job_id": job.id,
            "since_ms": job.created_ms,
            "before": newest,
            "also": _redriven(body),
            "redriven": [],
            "same_ms": [*same_ms, job.id][-SAME_MS_MAX:],
        }
        if _changed(context, document, named):
            # The one before last too, which whoever named the last one may have left waiting.
            _all_superseded(context, [body["before"], *_older(named)], job.id, changes, now_ms)
            return
    raise Unavailable(f"key {job.supersedes!r}: {KEY_WRITES_MAX} swaps in a row lost")


def note_redriven(context: Context, key: str, job_id: str) -> None:
    """Write down with a key of jobs that supersede each other that one of them is to wait again, before it does: the
    next newer job supersedes it too.

    Raises:
      NotApplied, OutcomeUnknown: it may not be written down. Asking again is harmless.
    """
    for _ in range(KEY_WRITES_MAX):
        document = _read(context, key_id("newest", key), _no_newest(key))
        others = [each for each in _redriven(document.body) if each != job_id]
        if _changed(context, document, {"redriven": [*others[-(REDRIVEN_MAX - 1) :], job_id]}):
            return
    raise Unavailable(f"key {key!r}: {KEY_WRITES_MAX} swaps in a row lost")


def _no_newest(key: str) -> Mapping[str, Any]:
    """What a key begins with, whose newest job has not been named yet."""
    return {"key": key, "job_id": "", "since_ms": 0, "before": ""}


def _redriven(body: Mapping[str, Any]) -> tuple[str, ...]:
    """Jobs that were redriven since the newest one was named."""
    return tuple(body.get("redriven", ()))


def _same_ms(body: Mapping[str, Any], created_ms: int) -> tuple[str, ...]:
    """Jobs taken at `created_ms` that were the newest of their key once: a resend does not make them so again."""
    return tuple(body.get("same_ms", ())) if body["since_ms"] == created_ms else ()


def _older(body: Mapping[str, Any]) -> tuple[str, ...]:
    """Jobs that have to give way to the newest one: the one before, and those that had been redriven by then."""
    return (body["before"], *body.get("also", ()))


def _all_superseded(context: Context, older: Sequence[str], by: str, changes: list[Change], now_ms: int) -> None:
    """Have each of these give way, once."""
    for each in dict.fromkeys(older):
        if each != by:
            changes += _superseded(context, each, by, now_ms)


def _superseded(context: Context, job_id: str, by: str, now_ms: int, *, anew: bool = True) -> tuple[Change, ...]:
    """Have a job give way to a newer one; unless `anew`, only if it has given way to none so far. Empty: it is none, or
    makes no sense, so that nobody is granted it: it is not to keep the newer ones out.

    Raises:
      Unavailable: others kept writing, or no read shows a job that is there. To ask again is harmless.
    """
    if not job_id:
        return ()
    judge: Judge = lambda job: transitions.supersede(job, by=by, now_ms=now_ms, anew=anew)  # noqa: E731  # a rule, bound
    try:
        settled = judge_and_write(context, job_id, judge, attempts_max=KEY_WRITES_MAX)
    except Corrupt as error:
        log.error("job_corrupt", job=job_id, error=str(error))
        return ()
    if not settled.changes:
        raise Unavailable(f"{job_id!r} has to give way to {by!r}, and can't be written now")
    return settled.changes


def _alive(
    context: Context, owner_id: str, job_id: str, changes: list[Change], *, replace: bool, now_ms: int
) -> Job | None:
    """The owner while it is not terminal; None once it is, and can't be redriven without asking for its key again."""
    for _ in range(KEY_WRITES_MAX):
        owner = repository.read_job(context.store, owner_id) or _made(context, owner_id, changes)
        if replace and owner.state in WAITING:
            changes += _cancel_waiting(context, owner_id, f"replaced by {job_id}", now_ms)
            continue
        if not owner.state.terminal:
            return owner
        passed_on = {"key_passed_to": job_id}
        update = repository.rev_update_job(context.store, owner, passed_on, write_id=context.entropy.write_id())
        if isinstance(update, repository.Updated):
            return None
    raise Unavailable(f"{owner_id!r}: {KEY_WRITES_MAX} swaps in a row lost")


def _joined(context: Context, document: Document, owner: Job, join: Asked) -> Job | None:
    """The owner, once it is sure that it was not over, and written down who joined it. None: look again."""
    update = repository.rev_update_job(context.store, owner, {}, write_id=context.entropy.write_id())
    if not isinstance(update, repository.Updated):  # a stale read would show one that is over as it was
        context.pause(KEY_PAUSE_MS * context.entropy.jitter())
        return None
    noted = {**join.plain(), "job_id": owner.id}
    joined = (*_noted(document)[-(JOINED_MAX - 1) :], noted)
    return update.job if _changed(context, document, {"joined": joined}) else None


def _joined_before(context: Context, document: Document, join: Asked) -> Job | None:
    """The job that this request has joined, whatever became of it.

    Raises:
      OutcomeUnknown: it has joined one, and no read shows that.
    """
    for noted in _noted(document):
        if (noted["request_id"], noted["factory_id"]) == (join.request_id, join.factory_id):
            job = repository.read_job(context.store, noted["job_id"])
            if job is None:
                raise OutcomeUnknown(f"{noted['job_id']!r} was joined, and no read shows it")
            return job
    return None


def _made(context: Context, job_id: str, changes: list[Change]) -> Job:
    """The job of a submission that was cut off after it took the key."""
    spec = repository.read_spec(context.store, job_id)
    job, created = repository.create_job(context.store, job_id, spec.job, write_id=context.entropy.write_id())
    changes.append(Change(None, job, new=created))
    return job


def _cancel_waiting(context: Context, job_id: str, why: str, now_ms: int) -> tuple[Change, ...]:
    return judge_and_write(context, job_id, lambda job: transitions.give_way(job, why=why, now_ms=now_ms)).changes


def _noted(document: Document) -> tuple[Mapping[str, Any], ...]:
    return tuple(cast("Sequence[Mapping[str, Any]]", document.body.get("joined", ())))


def _owner(document: Document) -> str | None:
    return cast("str | None", document.body["job_id"])


def _read(context: Context, name: str, body: Mapping[str, Any]) -> Document:
    found = context.store.read(name, name)
    if isinstance(found, Ok):
        return found.document
    write_id = context.entropy.write_id()
    match confirmed_create(context.store, name, name, {"kind": "key", **body}, write_id=write_id):
        case Ok(document):
            return document
        case Conflict(current):
            if current is None:
                raise Unavailable(f"{name!r} exists, but a read does not show it yet")
            return current


def _changed(context: Context, document: Document, patch: Mapping[str, Any]) -> bool:
    """Whether the key was changed; else another came first."""
    expected = Expected(etag=document.etag, known=document)
    name, write_id = document.id, context.entropy.write_id()
    match confirmed_update(context.store, name, name, expected, patch, write_id=write_id):
        case Ok(_):
            return True
        case Conflict(_) | NotFound():
            context.pause(KEY_PAUSE_MS * context.entropy.jitter())
            return False
