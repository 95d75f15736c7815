"""The life of a factory: each start registers; an operator drains, resumes and removes. One conditional write each."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import islice
from typing import Any

import structlog
from msgspec import structs

from broker import coordinator, pages, shared_document
from broker.answers import Answer, Reason, Word
from broker.asked import Asked, has_done, remembering, who_asks
from broker.clock import SET_BACK_MS
from broker.controls import FACTORY, REPLACED_MAX, Drain, FactoryRecord, factory_doc_id, parsed
from broker.documents import Job, Lease
from broker.exclusion import Slots, give_back_together
from broker.matching import canonical
from broker.messages import DrainFactory, GetFactory, ListFactories, RegisterFactory, RemoveFactory, ResumeFactory
from broker.repository import find_documents, leased_by, leased_jobs
from broker.settlement import Change, Context, Settlement
from datastore import Corrupt, Datastore, DatastoreError, Document, Filter, Ok

log = structlog.get_logger(__name__)

LEASES_SHOWN_MAX = 500
ENDED_MAX = 256
"""Leases that one request ends: everybody's renewals wait meanwhile. Beyond it they are the sweep's."""
CONTROL_STATE = "control"
"""The `state` of these documents: searches by state are indexed, and no job has this one."""
_KIND = "factory"
_EVERY: Filter = {"kind": _KIND, "state": CONTROL_STATE}


def register(context: Context, request: RegisterFactory, now_ms: int) -> Settlement:
    """Note this start of the factory, and end the leases of every earlier one at once.

    The same start again changes what it registered. A start that another has replaced is refused for good; so is one
    that another has come after, by the time it asked: its request was settled late (by a slow worker, or by one that
    took it over from a dead one), and must not end the living start.
    """
    name, start, body = request.factory_id, request.incarnation, request.body
    asked_ms = now_ms if body.asked_ms is None else min(body.asked_ms, now_ms)
    offered = {"capacity": body.capacity, "version": body.version, "offers": list(canonical(body.offers))}
    refused = False

    def judge(known: FactoryRecord) -> dict[str, Any] | None:
        nonlocal refused
        # A start from the future registered before the clock was set back: that says nothing of which came later.
        after_ms = known.since_ms if known.since_ms is not None and known.since_ms <= now_ms + SET_BACK_MS else 0
        refused = (known.incarnation not in (None, start) and after_ms > asked_ms) or known.has_replaced(start)
        if refused:
            return None
        if known.incarnation == start:
            return offered
        drain = known.drain
        if drain is not None and drain.incarnation not in (None, start):
            drain = None  # it was for an earlier start only
        plain = None if drain is None else drain.plain()
        return {**offered, "incarnation": start, "since_ms": asked_ms, "replaced": _with_last(known), "drain": plain}

    record, word = _change(context, name, judge, who_asks(request))
    if refused or record.has_replaced(start):
        body_of_now = {"factory": name, "incarnation": record.incarnation, "since_ms": record.since_ms}
        return Settlement(Answer(Word.CONFLICT, Reason.RESTARTED, body_of_now))
    return _with_leases_ended(context, name, record, Answer(word, body=_facts(name, record, now_ms)), now_ms)


def drain(context: Context, request: DrainFactory, now_ms: int) -> Settlement:
    """Give the factory no new work; what it holds it renews and finishes.

    One that would be over already is refused. A copy of one that has had its effect is not: it is told so.
    """
    body = request.body
    until_ms = body.until_ms if body.for_ms is None else now_ms + body.for_ms
    is_over = until_ms is not None and until_ms <= now_ms
    asked = Drain(reason=body.reason, since_ms=now_ms, until_ms=until_ms, incarnation=body.incarnation)

    def judge(known: FactoryRecord) -> dict[str, Any] | None:
        if is_over:
            return None  # another drain, which may stand, is not to end with it
        # A start that stops must not shorten what an operator asked for.
        stands = None if asked.incarnation is None else known.draining("", now_ms)
        return {"drain": asked.plain()} if stands is None else {}

    record, word = _change(context, body.factory, judge, who_asks(request), create=not is_over)
    if is_over and word is not Word.REPLAYED:
        detail = "until_ms is past: nothing was changed; to end a drain, resume the factory"
        return Settlement(Answer(Word.INVALID, body={"factory": body.factory, "detail": detail}))
    return Settlement(Answer(word, body=_facts(body.factory, record, now_ms)))


def resume(context: Context, request: ResumeFactory, now_ms: int) -> Settlement:
    """End a drain. Harmless where none stands."""
    name = request.body.factory
    known_here = False

    def judge(known: FactoryRecord) -> dict[str, Any] | None:
        nonlocal known_here
        known_here = not _removed(known)
        return {"drain": None} if known_here else None

    record, word = _change(context, name, judge, who_asks(request), create=False)
    if word is Word.OK and not known_here:
        return _unknown(name)
    return Settlement(Answer(word, body=_facts(name, record, now_ms)))


def remove(context: Context, request: RemoveFactory, now_ms: int) -> Settlement:
    """Forget a factory: it comes back by registering a new start. With leases only where forced, which end then."""
    name, force = request.body.factory, request.body.force
    judged, refusal = False, None

    def judge(known: FactoryRecord) -> dict[str, Any] | None:
        nonlocal judged, refusal
        judged, refusal = True, _kept(context, name, known, now_ms, force=force)
        if refusal is not None:
            return None
        return {**FactoryRecord(since_ms=now_ms).plain(), "replaced": _with_last(known)}

    record, word = _change(context, name, judge, who_asks(request), create=False)
    if word is Word.OK and not judged:  # there is no record, which a factory need not have to hold leases
        refusal = _kept(context, name, None, now_ms, force=force)
        if refusal is None:
            record, word = _change(context, name, judge, who_asks(request))
    if word is Word.OK and refusal is not None:
        return refusal
    return _with_leases_ended(context, name, record, Answer(word, body={"factory": name}), now_ms)


def _kept(context: Context, name: str, known: FactoryRecord | None, now_ms: int, *, force: bool) -> Settlement | None:
    """The refusal to forget a factory: it holds leases, or nothing is there to be forgotten."""
    is_there = known is not None and not _removed(known)
    if is_there and force:
        return None
    if held := _held(context, name, now_ms):
        return None if force else Settlement(Answer(Word.CONFLICT, Reason.HELD, {"factory": name, "leases": held}))
    return None if is_there else _unknown(name)


def _held(context: Context, name: str, now_ms: int) -> list[dict[str, Any]]:
    """The first leases of a factory, as they are shown."""
    leased = islice(leased_by(context.store, name), LEASES_SHOWN_MAX)
    return [_shown(job, job.lease, now_ms) for job in leased if job.lease is not None]


def show(context: Context, request: GetFactory, now_ms: int) -> Settlement:
    """One factory and the leases it holds. Never a token."""
    name = request.body.factory
    record = _read(context.store, name)
    leases = _held(context, name, now_ms)
    seen_ms = context.last_seen([name]).get(name)
    if record is not None and _removed(record):
        if seen_ms is not None and record.since_ms is not None and seen_ms <= record.since_ms:
            seen_ms = None  # that was before it was removed
        record = None
    if record is None and not leases and seen_ms is None:
        return _unknown(name)
    facts = _facts(name, record or FactoryRecord(), now_ms)
    return Settlement(Answer(Word.OK, body={**facts, "last_seen_ms": seen_ms, "leases": leases}))


def list_all(context: Context, request: ListFactories, now_ms: int) -> Settlement:
    """One page of the factories that registered or were drained, each with how many leases it holds."""
    body = request.body

    def there(document: Document) -> Iterator[dict[str, Any]]:
        yield from (_facts(name, known, now_ms) for name, known in _records([document]) if not _removed(known))

    found, cursor = pages.page(context.store, _EVERY, there, limit=body.limit, cursor=body.cursor)
    names = [facts["factory"] for facts in found]
    seen_ms = context.last_seen(names)
    held = _held_by_each(context.store) if names else {}
    rows = [
        {**facts, "last_seen_ms": seen_ms.get(name), "leases": held.get(name, 0)}
        for name, facts in zip(names, found, strict=True)
    ]
    return Settlement(Answer(Word.OK, body={"factories": rows, "cursor": cursor}))


def registered(store: Datastore) -> Iterator[tuple[str, FactoryRecord]]:
    """Every factory with a document, also one that was removed. One that does not parse is reported and left alone."""
    yield from _records(find_documents(store, _EVERY))


def _records(documents: Iterable[Document]) -> Iterator[tuple[str, FactoryRecord]]:
    for document in documents:
        try:
            yield document.id.removeprefix(FACTORY), parsed(document.id, document.body, FactoryRecord)
        except Corrupt as error:
            log.error("factory_corrupt", document=document.id, error=str(error))


def _change(
    context: Context,
    name: str,
    judge: Callable[[FactoryRecord], Mapping[str, Any] | None],
    asked: Asked,
    *,
    create: bool = True,
) -> tuple[FactoryRecord, Word]:
    """The record once what `judge` made of it was written; `judge` saw the version that was changed last.

    Where it is to stay as it is (None, which is not remembered) it is written on all the same: a stale read may only
    show it so. `asked`: has its effect once; a copy of it is `replayed`. Unless `create`, a missing one stays missing.
    """
    id = factory_doc_id(name)
    record, word = FactoryRecord(), Word.OK

    def seen(body: Mapping[str, Any]) -> dict[str, Any]:
        nonlocal record, word
        record = parsed(id, body, FactoryRecord)
        word = Word.REPLAYED if has_done(record.recent_requests, asked) else Word.OK
        changes = None if word is Word.REPLAYED else judge(record)
        if changes is None:
            return {}
        remembered = remembering(record.recent_requests, asked)
        changed = {**changes, "recent_requests": [each.plain() for each in remembered]}
        record = parsed(id, {**body, **changed}, FactoryRecord)
        return changed

    empty = {"kind": _KIND, "state": CONTROL_STATE, **FactoryRecord().plain()} if create else None
    shared_document.change(context.store, context.entropy, id, seen, empty=empty)
    if context.controls is not None:
        context.controls.forget_factories()
    return record, word


def _with_last(known: FactoryRecord) -> list[str]:
    """The starts that are over once the one that is known is over too."""
    over = [*known.replaced, *([known.incarnation] if known.incarnation is not None else [])]
    return over[-REPLACED_MAX:]


def _with_leases_ended(context: Context, name: str, record: FactoryRecord, answer: Answer, now_ms: int) -> Settlement:
    """The answer, once what earlier starts hold has ended. Whatever that misses, because it is too much for one request
    or a claim was on its way, the sweep ends.

    The record is changed by now: where a lease could not be ended, the same request again ends it, or the sweep.
    """
    changes: list[Change] = []
    leaving: list[Slots] = []
    ending = structs.replace(context, leaving=leaving)
    try:
        held = leased_by(context.store, name) if context.held is None else context.held.by(name)
        for job in held:
            if job.lease is not None and record.outlived(job.lease.incarnation, job.lease.granted_ms):
                changes += coordinator.outlive(ending, job, name, record, now_ms=now_ms).changes
            if len(changes) >= ENDED_MAX:
                break
    except DatastoreError as error:
        log.warning("leases_not_ended", factory=name, error=str(error))
        return Settlement(Answer(Word.OUTCOME_UNKNOWN, Reason.STORE), tuple(changes))
    finally:
        give_back_together(context.store, context.entropy, leaving)
    ended = {"ended": [change.after.id for change in changes]}
    return Settlement(structs.replace(answer, body={**answer.body, **ended}), tuple(changes))


def _held_by_each(store: Datastore) -> dict[str, int]:
    return Counter(job.lease.factory_id for job in leased_jobs(store) if job.lease is not None)


def _read(store: Datastore, name: str) -> FactoryRecord | None:
    id = factory_doc_id(name)
    found = store.read(id, id)
    return parsed(id, found.document.body, FactoryRecord) if isinstance(found, Ok) else None


def _removed(record: FactoryRecord) -> bool:
    """Its document stays, so that a late start of it is still known."""
    return record.incarnation is None and record.since_ms is not None and record.drain is None


def _unknown(name: str) -> Settlement:
    return Settlement(Answer(Word.NOT_FOUND, body={"factory": name}))


def _facts(name: str, record: FactoryRecord, now_ms: int) -> dict[str, Any]:
    drain = record.drain if record.draining(record.incarnation or "", now_ms) else None
    facts = {"factory": name, **record.plain(), "drain": None if drain is None else drain.plain()}
    del facts["replaced"], facts["recent_requests"]
    return facts


def _shown(job: Job, lease: Lease, now_ms: int) -> dict[str, Any]:
    return {
        "job_id": job.id,
        "queue": job.queue,
        "epoch": lease.epoch,
        "incarnation": lease.incarnation,
        "granted_ms": lease.granted_ms,
        "remaining_ms": lease.expires_ms - now_ms,
        "renewals": lease.renewals,
        "cancel": job.cancel is not None,
    }
