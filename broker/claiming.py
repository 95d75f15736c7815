"""Claiming one job: its slots are taken before the conditional write and confirmed after it."""

from collections.abc import Iterable
from functools import partial
from typing import Any

from broker import repository, transitions
from broker.answers import Answer, Reason, Word
from broker.controls import Controls
from broker.documents import Job
from broker.exclusion import Slots
from broker.obstacles import Obstacle
from broker.repository import JobUpdate, Stale, Updated
from broker.settlement import Context, Denied, Settlement, judge_and_write, raced
from broker.slots import Holder
from broker.transitions import Claimant, Decision, Refuse, Replay, Surroundings, Write, told
from broker.transitions.decision import held_by
from datastore import Datastore, NotApplied, OutcomeUnknown


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

    controls = context.controls or Controls(context.store)

    def judge(read: Job) -> Decision:
        around = Surroundings(controls.queue(read.queue), controls.factory(who.factory_id))
        decision = transitions.claim(read, who, now_ms=now_ms, rules=context.rules, around=around)
        if etag is not None and etag != read.document.etag and not isinstance(decision, Replay):
            return Refuse(Answer(Word.CONFLICT, Reason.ETAG_MISMATCH, held_by(read, now_ms)))
        return decision

    write = partial(_write_with_slots, context, who, now_ms)
    settled = judge_and_write(context, job_id, judge, job=job, write=write)
    if settled.answer.word is Word.REPLAYED:
        settled = _still_excluding(context, settled, who, now_ms)
    return _with_spec(context, settled)


def _write_with_slots(
    context: Context, who: Claimant, now_ms: int, store: Datastore, job: Job, changes: Any, *, write_id: str
) -> JobUpdate | Denied:
    """The conditional write of a claim, between taking its slots and confirming them (design §8, steps 5 to 8)."""
    slots = None
    if changes.get("lease") is not None:
        slots = Slots.of(store, context.entropy, job, epoch=changes["epoch"], request_id=who.request_id)
    if slots is None:
        return repository.rev_update_job(store, job, changes, write_id=write_id)
    if (busy := slots.take(now_ms=now_ms)) is not None:
        held = Obstacle(Reason.LOCK_BUSY, {"key": busy.key, "holders": [_shown(holder) for holder in busy.holders]})
        return Denied(Answer(Word.NOT_CLAIMABLE, held.reason, {"job_id": job.id, **told([held])}), busy.key)
    update = repository.rev_update_job(store, job, changes, write_id=write_id)
    if not isinstance(update, Updated):
        if not _is_ours(update, who):
            slots.give_back()
        return update
    return update if _confirmed(context, slots, update.job, now_ms) else Denied(raced(job.id))


def now_free(context: Context, waits: Iterable[tuple[Job, str]], *, now_ms: int) -> list[str]:
    """Of the slots that jobs were found waiting for, those that have been given up since."""
    found = []
    for job, key in waits:
        slots = Slots.of(context.store, context.entropy, job, epoch=job.epoch + 1, request_id="")
        if slots is not None and slots.free(key, now_ms=now_ms):
            found.append(key)
    return found


def _still_excluding(context: Context, settled: Settlement, who: Claimant, now_ms: int) -> Settlement:
    """A replayed grant stands only with its slots: the first try may have ended before it confirmed them."""
    [change] = settled.changes
    job = change.after
    slots = Slots.of(context.store, context.entropy, job, epoch=job.epoch, request_id=who.request_id)
    if slots is None or _confirmed(context, slots, job, now_ms):
        return settled
    return Settlement(raced(job.id), settled.changes)


def _confirmed(context: Context, slots: Slots, job: Job, now_ms: int) -> bool:
    """Confirm a claim's slots; where one was lost, undo the claim, of which nobody was told."""
    try:
        if slots.confirm():
            return True
        undone = transitions.undo(job, epoch=slots.epoch, request_id=slots.request_id, now_ms=now_ms)
        if isinstance(undone, Write):
            repository.rev_update_job(context.store, job, undone.changes, write_id=context.entropy.write_id())
        slots.give_back()
    except NotApplied as error:
        raise OutcomeUnknown(f"{job.id}: granted, but its slots can't be confirmed now") from error
    return False


def _is_ours(update: JobUpdate, who: Claimant) -> bool:
    """Whether another copy of this very request has won: its entries are ours too, and stay."""
    lease = update.current.lease if isinstance(update, Stale) and update.current is not None else None
    return lease is not None and lease.request_id == who.request_id


def _shown(holder: Holder) -> dict[str, Any]:
    return {"job_id": holder.job_id, "epoch": holder.epoch, "mode": holder.mode.value}


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
