"""Recurring jobs: a document for each schedule, whose fires become jobs with ids made of name and time.

However many sweeps fire a schedule at once, or after a crash once more: the job of one fire is created once.
"""

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

import msgspec
import structlog

from broker import cron, pages, shared_document, submission
from broker.answers import Answer, Reason, Word
from broker.asked import Asked, has_done, remembering, who_asks
from broker.documents import Frozen
from broker.messages import CatchUp, ChangeSchedule, ListSchedules, PutSchedule, Submit, SubmitBody
from broker.settlement import Change, Context, Settlement
from datastore import AnyOf, Corrupt, DatastoreError, Document, Expected, Filter, NotFound, Ok, Unavailable
from datastore.confirm import confirmed_create, confirmed_update
from datastore.json_body import decoded

log = structlog.get_logger(__name__)

FIRES_MAX = 100
"""Jobs of one schedule that one sweep makes; what is left of a long outage, the next ones do."""
ALL_WITHIN_MS = 31 * 86_400_000
"""Missed fires older than this are not made up for, even where all are wanted."""
ON_TIME_MS = 60_000
"""A fire is missed once it is later than this, or than two ttls: a sweep comes four times a ttl."""
WRITES_MAX = 8
SCHEDULER = "schedule"
"""Who has submitted the job of a fire; also the label that names its schedule."""


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
    """Fires up to here are done with."""
    next_ms: int | None
    request_id: str
    secret: str = ""
    """What the other ids of its jobs are made of; shown to nobody. Empty of an earlier release: its request id is."""
    created_ms: int
    updated_ms: int
    last_fire_ms: int | None = None
    last_job_id: str | None = None
    recent_requests: tuple[Asked, ...] = ()
    """What it was changed by."""

    def has_done(self, asked: Asked) -> bool:
        """Whether this request has had its effect here. A schedule that remembers none knows the one that stored it.

        Raises:
          UsedForAnother: another of this factory's has, under the same id.
        """
        return has_done(self.recent_requests, asked) or (
            not self.recent_requests and asked.request_id == self.request_id
        )


@dataclass(frozen=True, slots=True)
class Due:
    """The fires to carry out now, and up to when all are done with then."""

    fires: tuple[int, ...]
    since_ms: int


def due(schedule: Schedule, *, now_ms: int, ttl_ms: int) -> Due:
    """The fires of a schedule that are on time, and of those that were missed the ones its policy wants."""
    on_time_ms = max(schedule.since_ms, now_ms - max(ON_TIME_MS, 2 * ttl_ms))
    after_ms = on_time_ms
    if schedule.catch_up is CatchUp.ALL:
        after_ms = max(schedule.since_ms, now_ms - ALL_WITHIN_MS)
    fires = cron.within(schedule.cron, schedule.tz, after_ms=after_ms, until_ms=now_ms, at_most=FIRES_MAX)
    if not fires and schedule.catch_up is CatchUp.LAST:
        last_ms = cron.last_until(schedule.cron, schedule.tz, on_time_ms)
        fires = [last_ms] if last_ms is not None and last_ms > schedule.since_ms else []
    return Due(tuple(fires), fires[-1] if len(fires) == FIRES_MAX else now_ms)


def job_id(name: str, fire_ms: int) -> str:
    """The id of the job of one fire, such as `nightly.20260131T020000Z`."""
    return f"{name}.{datetime.fromtimestamp(fire_ms // 1_000, UTC):%Y%m%dT%H%M%SZ}"


def fire(context: Context, document: Document, *, now_ms: int) -> Settlement:
    """Submit what is due of one schedule, then move it on. Nothing is lost or doubled by a crash in between.

    `document`: as a search showed it, perhaps as it was before somebody paused it: only a version that can be written
    on fires.
    """
    schedule = _schedule(document)
    ready = due(schedule, now_ms=now_ms, ttl_ms=context.rules.ttl_ms)
    changes: list[Change] = []
    last_job_id = schedule.last_job_id
    if ready.fires:
        written_on = _update(context, document, {})
        if written_on is None:
            return Settlement(Answer(Word.CONFLICT, Reason.RACED, {"name": schedule.name}))
        document = written_on
    try:
        for fire_ms in ready.fires:
            settled, made = _submitted(context, schedule, fire_ms, now_ms=now_ms)
            answer = settled.answer
            changes += settled.changes
            if answer.word is Word.OUTCOME_UNKNOWN:
                return Settlement(answer, tuple(changes))
            if answer.good:
                last_job_id = made
            else:  # mostly another job with its unique key is not over: which one, says the answer
                log.warning("fire_made_no_job", name=schedule.name, job=made, why=answer.reason, told=answer.body)
        moved: dict[str, Any] = {
            "since_ms": ready.since_ms,
            "next_ms": cron.next_after(schedule.cron, schedule.tz, ready.since_ms),
        }
        if ready.fires:
            moved |= {"last_fire_ms": ready.fires[-1], "last_job_id": last_job_id}
        _update(context, document, moved)  # a lost race is a skip: another sweep did the same, or somebody changed it
    except DatastoreError as error:  # what was made is told; the next sweep fires it again, and finishes it
        log.warning("schedule_not_moved_on", name=schedule.name, error=str(error))
        return Settlement(Answer(Word.OUTCOME_UNKNOWN, Reason.STORE), tuple(changes))
    return Settlement(Answer(Word.OK, body={"name": schedule.name, "fired": len(ready.fires)}), tuple(changes))


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
    tz = asked.tz or (cron.ZONE if kept is None else kept.tz)
    catch_up = asked.catch_up or (CatchUp.LAST if kept is None else kept.catch_up)
    return {
        "kind": "schedule",
        "name": asked.name,
        "cron": asked.cron,
        "tz": tz,
        "catch_up": catch_up.value,
        "state": (Standing.ACTIVE if kept is None else kept.state).value,
        "job": asked.job.model_dump(mode="json", exclude_none=True),
        "since_ms": now_ms,
        "next_ms": cron.next_after(asked.cron, tz, now_ms),
        "request_id": request.request_id,
        "secret": context.entropy.token(),
        "recent_requests": [each.plain() for each in remembering(asked_before, who)],
        "created_ms": now_ms,
        "updated_ms": now_ms,
    }


def change(context: Context, request: ChangeSchedule, now_ms: int) -> Settlement:
    """Pause, resume or remove a schedule. Fires that fell into a pause are not made up for."""
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
        moved: dict[str, Any] = {} if known.state is to else {"state": to.value, "updated_ms": now_ms}
        if moved and to is Standing.ACTIVE:
            moved |= {"since_ms": now_ms, "next_ms": cron.next_after(known.cron, known.tz, now_ms)}
        moved["recent_requests"] = [each.plain() for each in remembering(known.recent_requests, who)]
        if (stored := _update(context, document, moved)) is not None:
            return _told(stored, Word.OK)
    raise Unavailable(f"schedule {request.body.name!r}: {WRITES_MAX} swaps in a row lost")


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


def _submitted(context: Context, schedule: Schedule, fire_ms: int, *, now_ms: int) -> tuple[Settlement, str]:
    """Submit the job of one fire, and tell its id: another one where somebody has made a job of that id beforehand.

    Jobs are never deleted, so every sweep meets the same, and there is still one job of a fire.
    """
    named = job_id(schedule.name, fire_ms)
    first = submission.submit(context, _submission(schedule, fire_ms, named), now_ms=now_ms)
    if first.answer.reason is not Reason.EXISTS:
        return first, named
    other = _another_id(schedule, fire_ms)
    log.error("job_of_schedule_was_there", name=schedule.name, job=named, submitted_instead=other)
    second = submission.submit(context, _submission(schedule, fire_ms, other), now_ms=now_ms)
    if second.answer.reason is Reason.EXISTS:
        log.error("job_of_schedule_left_out", name=schedule.name, job=other)
    return Settlement(second.answer, (*first.changes, *second.changes)), other


def _another_id(schedule: Schedule, fire_ms: int) -> str:
    """Not to be known beforehand: whoever could work it out could take it, too."""
    secret = schedule.secret or schedule.request_id
    digest = hashlib.sha256(f"{schedule.name} {fire_ms} {secret}".encode()).hexdigest()[:16]
    return f"{job_id(schedule.name, fire_ms)}.{digest}"


def _submission(schedule: Schedule, fire_ms: int, named: str) -> Submit:
    job = SubmitBody.model_validate(schedule.job)
    labels = {**job.labels, SCHEDULER: schedule.name}
    digest = hashlib.sha256(f"{schedule.name} {fire_ms}".encode()).hexdigest()[:40]
    return Submit(
        request_id=f"fire-{digest}",
        factory_id=SCHEDULER,
        incarnation=SCHEDULER,
        instance=SCHEDULER,
        body=job.model_copy(update={"job_id": named, "labels": labels}),
    )


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
    shown = _schedule(document).plain()
    del shown["request_id"], shown["recent_requests"], shown["secret"]
    return shown


def _told(document: Document, word: Word) -> Settlement:
    told = _schedule(document)
    return Settlement(Answer(word, body={"name": told.name, "state": told.state.value, "next_ms": told.next_ms}))


def _id(name: str) -> str:
    return f"schedule:{name}"
