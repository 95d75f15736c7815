"""What a settled batch leads to: replies and hints in one pipeline, then whoever may go on now.

settle_batch -> deliver (hints, events, replies) -> follow_up (children, slots, parked claims)
"""

from collections.abc import Mapping, Sequence
from typing import Any

import structlog
from msgspec import structs
from redis import Redis
from redis.client import Pipeline

from broker import (
    claim_next,
    claiming,
    demand,
    families,
    index,
    lock_waits,
    notices,
    owed,
    presence,
    replies,
    seen,
    telling,
    waking,
)
from broker.answers import Answer, Reason, Word, wire
from broker.batch import Settled
from broker.controls import Controls
from broker.documents import BLOCKED, LEASED, READY, Job
from broker.events import Told
from broker.families import Descent
from broker.index import Place
from broker.limits import limit_name, limited_queue
from broker.messages import Claim, DrainFactory, RegisterFactory, RemoveFactory
from broker.recall import recall, recall_registered
from broker.settlement import Change, Context
from broker.slots import Mode
from broker.turned_away import refusal
from datastore import DatastoreError
from datastore.value import Value

log = structlog.get_logger(__name__)

_OTHERS_MAY = frozenset(
    {Word.GRANTED, Word.REPLAYED, Word.NONE_AVAILABLE, Word.NOT_CLAIMABLE, Word.DRAINING, Word.REQUEST_EXPIRED}
)
"""What a claim that waited may be told while others would get the job that it was woken for. Not that the store failed:
they would be told the same, one after the other."""
_MAY_NOT = frozenset({Word.NOT_CLAIMABLE, Word.REQUEST_EXPIRED})
"""What a claim is told that may not have the job that it has taken out of the index."""
_GIVES_BACK = _MAY_NOT | {Word.THROTTLED, Word.GRANTED, Word.OUTCOME_UNKNOWN}
"""What a claim is told that has perhaps not had all jobs that it has taken out of the index. It is unknown also of one
that comes again and was not looked at."""
_UNSETTLING = frozenset({RegisterFactory, DrainFactory, RemoveFactory})
"""Requests after which the waiting claims of a factory are to be judged again."""


STARTS_MAX = 1_000
"""Claims woken at once for one rate."""


class Further(Value, frozen=True):
    """What there is to do of a batch once its replies are sent: what others have to do with, as little mostly has."""

    settled: list[Settled]
    """Claims of any job, and all that is more than an answer and changes."""
    changes: list[Change]


def deliver(context: Context, pipe: Pipeline, batch: Sequence[Settled], *, now_ms: int) -> Further:
    """Add every command a batch leads to: answers kept, hints moved, claims parked, events told, replies sent."""
    channels: dict[tuple[str, str], tuple[str, list[bytes]]] = {}
    told: list[Told] = []
    answered: list[Claim] = []
    further: list[Settled] = []
    requests = [settled.request for settled in batch]
    step_ms = context.rules.ageing_step_ms
    every = [change for settled in batch for change in settled.changes]
    others = move_hints(pipe, every, step_ms=step_ms, now_ms=now_ms)
    seen.note(pipe, requests, now_ms, context.lately)
    for settled in batch:
        request, answer = settled.request, settled.answer
        if settled.extended:
            told += telling.of_renewals(request, settled.extended, now_ms=now_ms)
        told += telling.of_request(request, answer, settled.changes, now_ms=now_ms)
        for met in settled.waits:
            lock_waits.wait(pipe, met, step_ms=step_ms)
        if settled.parked is not None:
            claim_next.park(pipe, settled.parked, now_ms, again=settled.again, seal=settled.seal)
        if answer is None:
            further.append(settled)
            continue
        if claim_next.is_claim_next(request):
            answered.append(request)
            further.append(settled)
            presence.expect_reader(pipe, request, answer, key_id=settled.seal.key_id, now_ms=now_ms)
            claim_next.remember(pipe, request, answer, maybe=settled.maybe)
        elif settled.waits or settled.freed or answer.word in _MAY_NOT or type(request) in _UNSETTLING:
            further.append(settled)
        client = request.factory_id, request.instance
        if client not in channels:
            channels[client] = replies.reply_key(*client), []
        channel, texts = channels[client]
        texts.append(settled.seal.reply(channel, replies.encode(wire(answer, request.request_id, now_ms))))
    claim_next.lay_down(pipe, answered)
    owed.note_unknown(pipe, batch, now_ms)
    for channel, texts in channels.values():
        replies.push(pipe, channel, texts)
    telling.publish(pipe, told)
    demand.note(pipe, requests, now_ms, context.lately)
    return Further(further, others)


def move_hints(pipe: Pipeline, changes: Sequence[Change], *, step_ms: int, now_ms: int) -> list[Change]:
    """Keep what Redis says of jobs in step with them; the same guards for every transition.

    Returns all but the grants of ready jobs, as most are, unless they leave room to others: these take nothing from
    anybody, and nobody waits for them.
    """
    moves: list[tuple[Job, bool]] = []
    others: list[Change] = []
    for change in changes:
        before, after = change.before, change.after
        simple = before is not None and before.state is READY and after.state is LEASED and change.recorded
        if not simple or change.room:
            others.append(change)
            if index.offered(after):
                moves.append((after, True))
                continue
        if before is not None and index.offered(before):
            moves.append((before, False))
    if others:
        families.note(pipe, others)
        owed.note(pipe, others)
        notices.tell_holders(pipe, others)
    index.follow(pipe, moves, step_ms=step_ms, now_ms=now_ms)
    return others


def follow_up(context: Context, connection: Redis, further: Further, *, descent: Descent, now_ms: int) -> None:
    """After the replies: bring back jobs whose slot was given up, and wake claims for every job that became ready.

    `descent`: jobs that have ended and others wait for. What it misses, because another worker was between two of its
    steps, the sweep finds.
    """
    batch, changes = further.settled, list(further.changes)
    if not (batch or changes or descent):  # as after most claims and renewals
        return
    waking.recheck(connection, _parked_for_jobs(context, batch, now_ms))
    changes += look_at_new(context, connection, changes, descent=descent, now_ms=now_ms)
    changes += _given_back(batch)
    keys = lock_waits.given_up(changes)
    keys += [key for settled in batch for key in settled.freed]
    keys += _now_free(context, batch, now_ms)
    room = lock_waits.room_left(changes)
    _let_through(context, connection, changes, freed=keys, room=room, now_ms=now_ms)
    waking.pass_on(connection, _woken(context, batch, now_ms), known=context.known_offers)
    _call_back(connection, batch)
    if descent:
        follow_families(context, connection, descent, now_ms=now_ms)


def look_at_new(
    context: Context, connection: Redis, changes: Sequence[Change], *, descent: Descent, now_ms: int
) -> list[Change]:
    """Look at new children once more: their parents may have ended before anybody knew of them."""
    blocked = [change.after.id for change in changes if change.after.state is BLOCKED]
    found = families.look(context, blocked, now_ms=now_ms)
    _tell(context, connection, found, now_ms=now_ms)
    descent.add(job.id for job in families.ended(found))
    return found


def follow_families(context: Context, connection: Redis, descent: Descent, *, now_ms: int) -> None:
    """Look at some of the children of jobs that have ended; the next call at more of them, and at theirs in turn."""
    changes = descent.go_on(context, connection, now_ms=now_ms)
    _tell(context, connection, changes, now_ms=now_ms)
    _let_through(context, connection, changes, now_ms=now_ms)


def _tell(context: Context, connection: Redis, changes: Sequence[Change], *, now_ms: int) -> None:
    if changes:
        with connection.pipeline(transaction=False) as pipe:
            move_hints(pipe, changes, step_ms=context.rules.ageing_step_ms, now_ms=now_ms)
            telling.publish_changes(pipe, changes, now_ms=now_ms)
            pipe.execute()


def _let_through(
    context: Context,
    connection: Redis,
    changes: Sequence[Change],
    *,
    freed: Sequence[str] = (),
    room: Mapping[tuple[str, Mode], int] = lock_waits.NO_ROOM,
    now_ms: int,
) -> None:
    """Wake claims for the jobs that became ready, and for those that have waited for slots which are free now."""
    step_ms = context.rules.ageing_step_ms
    ready = [Place.of(job, step_ms=step_ms, now_ms=now_ms).wants for job in became_ready(changes)]
    ready += lock_waits.bring_back(connection, freed, room=room, now_ms=now_ms)
    waking.wake(connection, ready, known=context.known_offers)


def _given_back(batch: Sequence[Settled]) -> list[Change]:
    """Jobs that claims have taken out of the index and may not have: who looked for them meanwhile has found nothing.

    Not those of claims that wait again, which are at a limit of the queue, as everybody is.
    """
    return [
        Change(None, change.after)
        for settled in batch
        if settled.answer is not None and settled.answer.word in _GIVES_BACK
        for change in settled.changes
        if change.before is change.after
    ]


def _woken(context: Context, batch: Sequence[Settled], now_ms: int) -> list[tuple[Claim, set[str]]]:
    """Claims that were woken for a job each and wait no more, with the sets of the jobs that they have had.

    One that waits again has found nothing that fits, or is looked at once more.
    """
    woken = []
    for settled in batch:
        claim = settled.request
        if type(claim) is not Claim or settled.answer is None or not claim_next.waited(claim.body):
            continue
        if _others_may(claim, settled.answer, now_ms):
            had = [change.before or change.after for change in settled.changes]  # what was kept for it is no more
            places = [place for job in had for place in Place.each_of(job, step_ms=context.rules.ageing_step_ms)]
            woken.append((claim, {name for _, name in (place.wants for place in places)}))
    return woken


def _others_may(claim: Claim, answer: Answer, now_ms: int) -> bool:
    late = claim.deadline_ms is not None and now_ms > claim.deadline_ms
    untried = answer.reason is Reason.OVERLOADED  # there was no time for all that may fit
    return answer.word in _OTHERS_MAY or untried or (late and answer.word is Word.OUTCOME_UNKNOWN)  # of a copy


def on_time(context: Context, connection: Redis, now_ms: int) -> int:
    """Let through what has waited for a rate until now, as much as one window admits; how many claims were woken."""
    woken = 0
    keys = lock_waits.due(connection, now_ms)
    admitted = _starts(context, keys) if keys else {}
    for key in keys:
        times = admitted.get(key, lock_waits.RETURN_MAX)
        back = lock_waits.bring_back(connection, [key] * times, now_ms=now_ms)
        woken += (now_woken := waking.wake(connection, back, known=context.known_offers))
        if not (now_woken if limited_queue(key) else back):
            lock_waits.forget(connection, key)
    return woken


def _starts(context: Context, keys: Sequence[str]) -> dict[str, int]:
    """How many starts the rates of these limits admit in a window, as far as they can be read now."""
    try:
        limits = Controls(context.store).limits()
    except DatastoreError as error:
        log.warning("limits_not_read", error=str(error))
        return {}
    rates = {key: limit.rate for key in keys if (limit := limits.get(limit_name(key) or "")) is not None}
    return {key: min(rate.count, STARTS_MAX) for key, rate in rates.items() if rate is not None}


def became_ready(changes: Sequence[Change]) -> list[Job]:
    """Jobs that a parked claim may now have."""
    return [
        change.after
        for change in changes
        if index.offered(change.after) and not (change.before and index.offered(change.before))
    ]


def _parked_for_jobs(context: Context, batch: Sequence[Settled], now_ms: int) -> list[Claim]:
    """Claims that were parked though a job may be there by now: not those whose queue lets nobody through still."""
    parked = [settled.parked for settled in batch if settled.parked is not None]
    if not parked:
        return []
    context = structs.replace(context, controls=Controls(context.store))
    return [claim for claim in parked if refusal(context, claim, now_ms=now_ms) is None]


def _now_free(context: Context, batch: Sequence[Settled], now_ms: int) -> list[str]:
    """Slots that were met busy and are free by now. What can't be read now, the sweep finds."""
    try:
        free = claiming.now_free(context, (met for settled in batch for met in settled.waits), now_ms=now_ms)
        return [met.key for met in free]
    except DatastoreError as error:
        log.warning("slots_not_read", error=str(error))
        return []


def _call_back(connection: Redis, batch: Sequence[Settled]) -> None:
    """Have waiting claims judged again whose factories have registered, or were drained or removed."""
    registered: dict[str, Mapping[str, Any]] = {}
    away: dict[str, None] = {}
    for settled in batch:
        request, answer = settled.request, settled.answer
        if answer is None or not answer.good:
            continue
        if isinstance(request, RegisterFactory):
            registered[request.factory_id] = answer.body
        elif isinstance(request, DrainFactory | RemoveFactory):
            away[request.body.factory] = None
    for factory, known in registered.items():
        recall_registered(connection, factory, known["incarnation"], known["offers"])
    for factory in away:
        recall(connection, factory)
