"""Recurring jobs: a document for each schedule, whose fires become jobs with ids made of name and time.

However many sweeps fire a schedule at once, or after a crash once more: the job of one fire is created once.
"""

from collections.abc import Iterator, Mapping, Sequence
from enum import StrEnum
from typing import Any

import msgspec
import structlog
from msgspec import structs

from broker import cron, pages, shared_document, terms
from broker.answers import Answer, Reason, Word
from broker.asked import Asked, has_done, remembering, who_asks
from broker.documents import Frozen
from broker.fires import Fires
from broker.messages import CatchUp, ChangeSchedule, ListSchedules, PutSchedule, SubmitBody
from broker.settlement import Context, Settlement
from broker.terms import Due, Term
from datastore import AnyOf, Corrupt, DatastoreError, Document, Expected, Filter, NotFound, Ok, Unavailable
from datastore.confirm import confirmed_create, confirmed_update
from datastore.json_body import decoded

log = structlog.get_logger(__name__)

EARLIER_MAX = 8
"""Of the terms that ended before all their fires were carried out, as many are kept: each may hold a large payload."""
WRITES_MAX = 8


class Standing(StrEnum):
    """Whether a schedule fires. Removed: kept, since a store deletes nothing; its name may be taken again."""

    ACTIVE = "active"
    PAUSED = "paused"
    REMOVED = "removed"


class Schedule(Frozen, frozen=True, kw_only=True):
    """What is to be submitted when, and how far that has come."""

    name: str
    cron: str
    tz: str
    catch_up: CatchUp
    state: Standing
    job: dict[str, Any]
    since_ms: int
    """Fires of the term that goes on are done with up to here."""
    next_ms: int | None
    """When there is something to carry out next, of earlier terms too. None: never, as while it is paused."""
    earlier: tuple[Term, ...] = ()
    """What it was before it was replaced or paused, as far as that still owes fires."""
    request_id: str
    secret: str = ""
    """What the other ids of its jobs are made of; shown to nobody. Empty of an earlier release: its request id is."""
    created_ms: int
    updated_ms: int
    last_fire_ms: int | None = None
    last_job_id: str | None = None
    recent_requests: tuple[Asked, ...] = ()
    """What it was changed by."""

    def own(self) -> Term:
        """What it is now."""
        secret = self.secret or self.request_id
        return Term(
            cron=self.cron, tz=self.tz, catch_up=self.catch_up, job=self.job, secret=secret, since_ms=self.since_ms
        )

    def terms(self) -> tuple[Term, ...]:
        """All that fires, or has fires left from before."""
        return (*self.earlier, self.own()) if self.state is Standing.ACTIVE else self.earlier

    def own_next_ms(self) -> int | None:
        """When it fires next as it is now; None where it is paused, and where this process can't tell."""
        if self.state is not Standing.ACTIVE:
            return None
        try:
            return cron.next_after(self.cron, self.tz, self.since_ms) if self.earlier else self.next_ms
        except cron.UNKNOWN:
            return None

    def has_done(self, asked: Asked) -> bool:
        """Whether this request has had its effect here. A schedule that remembers none knows the one that stored it.

        Raises:
          UsedForAnother: another of this factory's has, under the same id.
        """
        return has_done(self.recent_requests, asked) or (
            not self.recent_requests and asked.request_id == self.request_id
        )


def fire(context: Context, document: Document, *, now_ms: int) -> Settlement:
    """Submit what is due of one schedule, then move it on. Nothing is lost or doubled by a crash in between.

    `document`: as a search showed it, perhaps as it was before somebody paused it: only a version that can be written
    on fires.
    """
    schedule = _schedule(document)
    ready = [terms.due(term, now_ms=now_ms, ttl_ms=context.rules.ttl_ms) for term in schedule.terms()]
    if any(each.fires for each in ready):
        written_on = _update(context, document, {})
        if written_on is None:
            return Settlement(Answer(Word.CONFLICT, Reason.RACED, {"name": schedule.name}))
        document = written_on
    fires = Fires(context, schedule.name, now_ms)
    moved = _moved(fires.all(ready))
    if fires.carried_out:
        moved |= {"last_fire_ms": fires.carried_out[-1], "last_job_id": fires.last_job_id or schedule.last_job_id}
    try:
        if fires.carried_out or not fires.failed:
            _update(context, document, moved)  # a lost race is a skip: another sweep did the same, or it was changed
    except DatastoreError as error:  # what was made is told; the next sweep fires it again, and finishes it
        log.warning("schedule_not_moved_on", name=schedule.name, error=str(error))
        fires.failed = True
    if fires.failed:
        return Settlement(Answer(Word.OUTCOME_UNKNOWN, Reason.STORE), tuple(fires.changes))
    answer = Answer(Word.OK, body={"name": schedule.name, "fired": len(fires.carried_out)})
    return Settlement(answer, tuple(fires.changes))


def _moved(done: Sequence[Due]) -> dict[str, Any]:
    """What is left of a schedule once this is carried out."""
    left = [each.left for each in done if each.left is not None]
    earlier = [term.plain() for term in left if term.until_ms is not None]
    moved = {"earlier": earlier, "next_ms": terms.next_ms(left)}
    goes_on = left[len(earlier) :]  # none, where it is paused
    return moved | {"since_ms": goes_on[0].since_ms} if goes_on else moved


def put(context: Context, request: PutSchedule, now_ms: int) -> Settlement:
    """Store a schedule: `ok`, or `conflict (exists)` where its name is taken and it is not to be replaced.

    One that is replaced keeps its zone and its catch-up where the request names none, and stays paused.
    """
    asked, who = request.body, who_asks(request)
    name = _id(asked.name)
    for _ in range(WRITES_MAX):
        found = context.store.read(name, name)
        if isinstance(found, NotFound):
            write_id, new = context.entropy.write_id(), _body(context, request, now_ms, instead_of=None)
            if isinstance(created := confirmed_create(context.store, name, name, new, write_id=write_id), Ok):
                return _told(created.document, Word.OK)
            continue
        known = _schedule(found.document)
        if known.has_done(who):
            return _told(found.document, Word.REPLAYED)
        if known.state is not Standing.REMOVED and not asked.replace:
            if _stands(context, found.document):
                body = {"name": asked.name, "state": known.state.value}
                return Settlement(Answer(Word.CONFLICT, Reason.EXISTS, body))
            continue
        changed = _body(context, request, now_ms, instead_of=known)
        if (stored := _update(context, found.document, changed)) is not None:
            return _told(stored, Word.OK)
    raise Unavailable(f"schedule {asked.name!r}: {WRITES_MAX} swaps in a row lost")


def _body(context: Context, request: PutSchedule, now_ms: int, *, instead_of: Schedule | None) -> dict[str, Any]:
    """What is stored. `instead_of`: what stands under that name, which may have been removed."""
    asked, who = request.body, who_asks(request)
    asked_before = () if instead_of is None else instead_of.recent_requests
    kept = None if instead_of is None or instead_of.state is Standing.REMOVED else instead_of
    stored = Schedule(
        name=asked.name,
        cron=asked.cron,
        tz=asked.tz or (cron.ZONE if kept is None else kept.tz),
        catch_up=asked.catch_up or (CatchUp.LAST if kept is None else kept.catch_up),
        state=Standing.ACTIVE if kept is None else kept.state,
        job=asked.job.model_dump(mode="json", exclude_none=True),
        since_ms=now_ms,
        next_ms=None,
        earlier=() if kept is None else _owed(kept, now_ms),
        request_id=request.request_id,
        secret=context.entropy.token(),
        recent_requests=remembering(asked_before, who),
        created_ms=now_ms,
        updated_ms=now_ms,
    )
    body = structs.replace(stored, next_ms=terms.next_ms(stored.terms())).plain()
    told_of_fires = ("last_fire_ms", "last_job_id")  # of what stands there they stay
    return {"kind": "schedule"} | {field: value for field, value in body.items() if field not in told_of_fires}


def _owed(known: Schedule, now_ms: int) -> tuple[Term, ...]:
    """What a schedule that ends, as it is, has to carry out yet: its fires up to now, as it was when they came.

    Raises:
      Unavailable: that is more than is kept. The next sweep makes room.
    """
    next_ms = _next_that_can_be(known)
    if next_ms is None or next_ms > now_ms:
        return known.earlier
    if len(known.earlier) == EARLIER_MAX:
        raise Unavailable(f"schedule {known.name!r}: it was changed {EARLIER_MAX} times before a sweep came")
    return (*known.earlier, structs.replace(known.own(), until_ms=now_ms))


def _next_that_can_be(known: Schedule) -> int | None:
    """When it fires next as it is now. None where it can't: it is perhaps replaced for that, and is not to be kept."""
    try:
        SubmitBody.model_validate(known.job)
        cron.check(known.cron, known.tz)
    except ValueError as error:
        log.error("schedule_can_not_fire", name=known.name, error=str(error))
        return None
    return known.own_next_ms()


def change(context: Context, request: ChangeSchedule, now_ms: int) -> Settlement:
    """Pause, resume or remove a schedule. Fires that fell into a pause are not made up for; those before it are.

    One that is removed owes none.
    """
    name, to, who = _id(request.body.name), Standing(request.body.to), who_asks(request, request.body.to)
    missing = Settlement(Answer(Word.NOT_FOUND, body={"name": request.body.name}))
    for _ in range(WRITES_MAX):
        document = shared_document.read_known(context.store, name)
        if document is None:
            return missing
        known = _schedule(document)
        if known.has_done(who):
            return _told(document, Word.REPLAYED)
        if known.state is Standing.REMOVED:
            if _stands(context, document):
                return missing
            continue
        moved = {} if known.state is to else _become(known, to, now_ms)
        moved["recent_requests"] = [each.plain() for each in remembering(known.recent_requests, who)]
        if (stored := _update(context, document, moved)) is not None:
            return _told(stored, Word.OK)
    raise Unavailable(f"schedule {request.body.name!r}: {WRITES_MAX} swaps in a row lost")


def _become(known: Schedule, to: Standing, now_ms: int) -> dict[str, Any]:
    earlier = () if to is Standing.REMOVED else _owed(known, now_ms)
    since_ms = now_ms if to is Standing.ACTIVE else known.since_ms
    changed = structs.replace(known, state=to, earlier=earlier, since_ms=since_ms, updated_ms=now_ms)
    changed = structs.replace(changed, next_ms=terms.next_ms(changed.terms()))
    plain = changed.plain()
    return {field: plain[field] for field in ("state", "earlier", "since_ms", "updated_ms", "next_ms")}


def listed(context: Context, request: ListSchedules, _now_ms: int) -> Settlement:
    """One page of schedules without their jobs; or the one that is named, with its job.

    On a page one that does not parse is reported and left out.
    """
    asked = request.body
    if asked.name is not None:
        found = context.store.read(_id(asked.name), _id(asked.name))
        if isinstance(found, NotFound) or (shown := _shown(found.document))["state"] == Standing.REMOVED:
            return Settlement(Answer(Word.NOT_FOUND, body={"name": asked.name}))
        return Settlement(Answer(Word.OK, body={"schedules": [shown], "cursor": None}))
    standing = AnyOf((Standing.ACTIVE.value, Standing.PAUSED.value))
    every: Filter = {"kind": "schedule", "state": standing}
    schedules, cursor = pages.page(context.store, every, _row, limit=asked.limit, cursor=asked.cursor)
    return Settlement(Answer(Word.OK, body={"schedules": schedules, "cursor": cursor}))


def _row(document: Document) -> Iterator[dict[str, Any]]:
    try:
        yield {**_shown(document), "job": None}
    except Corrupt as error:
        log.error("schedule_corrupt", document=document.id, error=str(error))


def _update(context: Context, document: Document, patch: Mapping[str, Any]) -> Document | None:
    """The schedule as changed; None where another came first."""
    expected = Expected(etag=document.etag, known=document)
    write_id = context.entropy.write_id()
    updated = confirmed_update(context.store, document.id, document.partition_key, expected, patch, write_id=write_id)
    return updated.document if isinstance(updated, Ok) else None


def _stands(context: Context, document: Document) -> bool:
    """Whether this version can be written on. What is refused of it is final, and a read may be stale."""
    return _update(context, document, {}) is not None


def _schedule(document: Document) -> Schedule:
    try:
        return decoded(document.body, Schedule)
    except msgspec.DecodeError as error:
        raise Corrupt(f"{document.id!r} is not a schedule: {error}") from error


def _shown(document: Document) -> dict[str, Any]:
    schedule = _schedule(document)
    shown = schedule.plain() | {"next_ms": schedule.own_next_ms()}
    for field in ("request_id", "recent_requests", "secret", "earlier"):
        del shown[field]
    return shown


def _told(document: Document, word: Word) -> Settlement:
    told = _schedule(document)
    return Settlement(Answer(word, body={"name": told.name, "state": told.state.value, "next_ms": told.own_next_ms()}))


def _id(name: str) -> str:
    return f"schedule:{name}"
