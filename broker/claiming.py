"""Claiming one job: its slots are taken before the conditional write and confirmed after it."""

from collections.abc import Iterable, Sequence
from functools import partial
from typing import Any

from msgspec import structs

from broker import quotas, repository, runs, transitions
from broker.answers import Answer, Reason, Word, past_deadline, put_off
from broker.controls import Controls
from broker.documents import Job
from broker.exclusion import PROBES_MAX, Busy, Slots
from broker.limits import Limits, applying, limit_key, limit_name, sets_aside, unit_wants, units
from broker.obstacles import Obstacle, not_claimable
from broker.quotas import Starts
from broker.repository import JobUpdate, Stale, Updated
from broker.settlement import CAS_ATTEMPTS_MAX, Change, Context, Denied, Settlement, Wait, judge_and_write, raced
from broker.slots import Room, Want
from broker.transitions import Claimant, Decision, Refuse, Replay
from broker.transitions.decision import held_by
from datastore import Datastore, DatastoreError, OutcomeUnknown

PUT_OFF_MS = 1_000
"""A claim that there was no time for comes back after this time and up to as much again."""


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

    controls = context.heeded()

    def judge(read: Job) -> Decision:
        around = controls.around(read.queue, who.factory_id)
        if limits := controls.limits():
            around = structs.replace(around, units=units(limits, applying(limits, read, who.factory_id)))
        decision = transitions.claim(read, who, now_ms=now_ms, rules=context.rules, around=around)
        if etag is not None and etag != read.document.etag and not isinstance(decision, Replay):
            return Refuse(Answer(Word.CONFLICT, Reason.ETAG_MISMATCH, held_by(read, now_ms)))
        return decision

    write = partial(_write_with_slots, context, controls, who, now_ms)
    for _ in range(CAS_ATTEMPTS_MAX):
        settled = judge_and_write(context, job_id, judge, job=job, write=write)
        if settled.answer.word is not Word.REPLAYED:
            return _told(context, settled)
        told = _still_granted(context, settled, who, now_ms)
        if isinstance(told, Settlement):
            return _told(context, told)
        job = told.current
    raise OutcomeUnknown(f"{job_id}: granted to this request, as far as reads show; others keep writing it")


def _write_with_slots(
    context: Context,
    controls: Controls,
    who: Claimant,
    now_ms: int,
    store: Datastore,
    job: Job,
    changes: Any,
    *,
    write_id: str,
) -> JobUpdate | Denied:
    """The conditional write of a claim, between taking its slots and confirming them (design §8, steps 5 to 8)."""
    if changes.get("lease") is None:
        return runs.end_unasked(context.entropy, store, job, changes, write_id=write_id)
    if job.epoch:
        # The next end takes the place of the last one in the job: first the last one's run is on record.
        runs.record_last_end(store, context.entropy, job)
    limits = controls.limits()
    names = applying(limits, job, who.factory_id)
    if not (job.locks or names):
        return _too_late(context, who) or repository.rev_update_job(store, job, changes, write_id=write_id)
    slots = _slots(context, job, changes["epoch"], who, unit_wants(limits, units(limits, names)))
    starts = Starts.of(store, context.entropy, limits, names)
    with context.turns_of([*slots.keys, *map(limit_key, names)]):
        if (denied := _untried(context, controls, job, names, now_ms)) is not None:
            return denied
        if (busy := slots.take(now_ms=now_ms)) is not None:
            return _denied(job, _in_the_way(limits, busy), now_ms, controls)
        if (refused := starts.take(now_ms=now_ms)) is not None:
            slots.step_back()
            return _denied(job, refused, now_ms, controls)
        if (late := _too_late(context, who)) is not None:
            slots.step_back()
            starts.give_back(now_ms=now_ms)
            return late
        update = repository.rev_update_job(store, job, changes, write_id=write_id)
        if not isinstance(update, Updated):
            if not _is_ours(update, who):
                slots.step_back()
                starts.give_back(now_ms=now_ms)
            return update
        undone = _not_confirmed(context, slots, update.job, now_ms)
        return undone or structs.replace(update, room=_room_left(limits, slots.left))


def _room_left(limits: Limits, left: Iterable[Room]) -> tuple[Room, ...]:
    """What others may have that stand aside. Who waits for a rate is let through as time goes on, whatever has room."""
    room = {(each.key, each.mode): each for each in left}  # of several looks at one slot the last
    return tuple(each for each in room.values() if each.count and _waits_aside(limits, each.key))


def _waits_aside(limits: Limits, key: str) -> bool:
    name = limit_name(key)
    return name is None or (sets_aside(name) and limits[name].rate is None)


def _untried(context: Context, controls: Controls, job: Job, names: Sequence[str], now_ms: int) -> Denied | None:
    """The refusal of a claim that needs no look at its slots: its batch has spent its time on those of others, or knows
    a limit that admits nobody.
    """
    if context.slot_work.spent:
        return Denied(put_off(Reason.OVERLOADED, context.entropy, resend=False, after_ms=PUT_OFF_MS))
    context.give_back_left()
    known = controls.known_full(names)
    return None if known is None else _denied(job, Obstacle(Reason.QUOTA, known), now_ms)


def _too_late(context: Context, who: Claimant) -> Denied | None:
    """The refusal of a grant whose deadline has passed since it was first judged: the store was slow, or others came
    first (I7).
    """
    if who.deadline_ms is None or context.clock is None or not who.late(context.clock.now_ms()):
        return None
    return Denied(past_deadline(who.deadline_ms))


def limited(context: Context) -> bool:
    """Whether claims may have to keep a limit, and so which of them comes first; also where that can't be read."""
    controls = context.heeded()
    try:
        return bool(controls.limits())
    except DatastoreError:
        return True


def now_free(context: Context, waits: Iterable[Wait], *, now_ms: int) -> list[Wait]:
    """Of the slots that were found busy, those that admit who waits by now: freed since, and nobody was told."""
    limits = Controls(context.store).limits() if (waits := tuple(waits)) else {}
    found: list[Wait] = []
    for wait in waits:
        name = limit_name(wait.key)
        if name is None:
            assert wait.job is not None, "a lock is waited for by a job"
            slots = Slots.of(context.store, context.entropy, wait.job, epoch=wait.job.epoch + 1, request_id="")
            free = slots.free(wait.key, now_ms=now_ms)
        else:
            limit = limits.get(name)
            free = limit is None or quotas.standing(context.store, context.entropy, name, limit, now_ms=now_ms) is None
        found += [wait] if free else []
    return found


def _denied(job: Job, met: Obstacle, now_ms: int, controls: Controls | None = None) -> Denied:
    """A refusal by a slot. `controls`: where the rest of the batch is to know of a limit that admits nobody."""
    name = met.detail.get("limit")
    if name is not None and controls is not None:
        controls.note_full(name, met.detail)
    answer = not_claimable([met], now_ms, {"job_id": job.id})
    if name is None:
        return Denied(answer, Wait(met.detail["key"], job))
    return Denied(answer, Wait(limit_key(name), job if sets_aside(name) else None, met.until_ms))


def _in_the_way(limits: Limits, busy: Busy) -> Obstacle:
    name = limit_name(busy.key)
    if name is not None:
        return quotas.full(name, limits[name], busy.holders)
    holders = [quotas.shown(each) for each in busy.holders[:PROBES_MAX]]  # seen to live
    return Obstacle(Reason.LOCK_BUSY, {"key": busy.key, "holders": holders})


def _slots(context: Context, job: Job, epoch: int, who: Claimant, wanted: tuple[Want, ...]) -> Slots:
    return Slots.of(
        context.store,
        context.entropy,
        job,
        epoch=epoch,
        request_id=who.request_id,
        factory_id=who.factory_id,
        units=wanted,
        work=context.slot_work,
    )


def _still_granted(context: Context, settled: Settlement, who: Claimant, now_ms: int) -> Settlement | Stale:
    """A replayed grant is told only of a version that can be written on: a read may show a lease that is over."""
    [change] = settled.changes
    job = change.after
    assert job.lease is not None, "a grant is replayed while its lease stands"
    changes = transitions.told_again(job.lease, who)
    try:
        update = repository.rev_update_lease(context.store, job, changes, write_id=context.entropy.write_id())
    except DatastoreError as error:
        # Nothing else may be told of a grant that perhaps stands.
        raise OutcomeUnknown(f"{job.id}: granted to this request, if the lease that was read stands") from error
    if not isinstance(update, Updated):
        return update if isinstance(update, Stale) else Stale(None)
    # It stands only with its slots, too: the first try may have ended before it confirmed them.
    slots = _slots(context, job, job.epoch, who, unit_wants({}, job.lease.limits))
    undone = _not_confirmed(context, slots, update.job, now_ms) if slots.wanted else None
    if isinstance(undone, Denied):
        return Settlement(undone.answer, undone.changes)
    if undone is not None:
        return undone
    return structs.replace(settled, changes=(structs.replace(change, after=update.job),))


def _not_confirmed(context: Context, slots: Slots, job: Job, now_ms: int) -> Denied | Stale | None:
    """Confirm a claim's slots: None. Where one was lost, undo the claim, of which nobody was told; where it stands no
    more as it was written, it is to be judged again: it may stand otherwise, and nobody would end it before its ttl.
    """
    try:
        if slots.confirm():
            return None
        changes = undo_grant(context, job, request_id=slots.request_id, now_ms=now_ms)
        if not changes:
            slots.step_back()
    except DatastoreError as error:
        raise OutcomeUnknown(f"{job.id}: granted, but its slots can't be confirmed now") from error
    return Denied(raced(job.id), changes=changes) if changes else Stale(None)


def undo_grant(context: Context, job: Job, *, request_id: str, now_ms: int) -> tuple[Change, ...]:
    """Undo the grant that `job` was just written with, of which nobody was told, and give its slots back. Empty: it
    stands no more as it was written.

    Raises:
      NotApplied, OutcomeUnknown: it may stand.
    """
    undo = partial(transitions.undo, epoch=job.epoch, request_id=request_id, now_ms=now_ms)
    # On this version only: another copy of this claim may have been told of the lease, and have renewed it.
    return judge_and_write(context, job.id, undo, job=job, attempts_max=1).changes


def _is_ours(update: JobUpdate, who: Claimant) -> bool:
    """Whether another copy of this very request has won: its entries are ours too, and stay."""
    job = update.current if isinstance(update, Stale) else None
    if job is None:
        return False
    lease = job.lease
    held = lease is not None and (lease.request_id, lease.factory_id) == (who.request_id, who.factory_id)
    return held or job.claimed_before(who.request_id, who.factory_id)


def with_spec(context: Context, answer: Answer, changes: tuple[Change, ...]) -> Settlement:
    """What became of a claim that was granted: its answer carries what was submitted."""
    try:
        submitted = repository.read_submitted(context.store, answer.body["job_id"])
    except DatastoreError:
        # The grant stands; only its answer can't be given. The same request id will get it, and nothing else may.
        return Settlement(Answer(Word.OUTCOME_UNKNOWN, Reason.STORE), changes)
    return Settlement(Answer(answer.word, answer.reason, {**answer.body, **submitted}), changes)


def _told(context: Context, settled: Settlement) -> Settlement:
    return with_spec(context, settled.answer, settled.changes) if "token" in settled.answer.body else settled
