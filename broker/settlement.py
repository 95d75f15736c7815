"""Carries a rule's decision into the store: read, judge, write conditionally; judge again where another came first."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from typing import TypeAlias

import structlog
from msgspec import field

from broker import repository, runs, shared_document
from broker.answers import Answer, Reason, Word
from broker.clock import Clock
from broker.controls import Controls
from broker.demand import Demand
from broker.documents import Job, Lease
from broker.door import OPEN_DOOR, Door
from broker.entropy import Entropy
from broker.exclusion import Slots, give_back_together
from broker.held_leases import HeldLeases
from broker.known_jobs import KnownJobs
from broker.lately import Lately
from broker.limits import unit_wants
from broker.looks import Looks
from broker.parked_sets import KnownOffers
from broker.ready_sets import ReadySets
from broker.repository import JobUpdate, Missing, Stale, Updated
from broker.slot_turns import SlotTurns
from broker.slot_work import SlotWork
from broker.slots import Room
from broker.transitions import Decision, Refuse, Replay, Rules, Write
from datastore import Datastore, DatastoreError
from datastore.value import Value

log = structlog.get_logger(__name__)

CAS_ATTEMPTS_MAX = 4
"""The first try and three more (design §8.7)."""
CAS_PAUSE_MS = 20
"""Bound of the jittered pause before a lost race is judged again."""


def _nobody_seen(_factories: Sequence[str]) -> Mapping[str, int]:
    return {}


class Context(Value, frozen=True, gc=True):
    """What every operation needs: the store, the rules, randomness and a way to pause (milliseconds).

    Looked at by the collector: what it leads to may lead back to it.
    """

    store: Datastore
    rules: Rules
    entropy: Entropy
    pause: Callable[[float], None]
    controls: Controls | None = None
    """Shared by the claims of one batch; None: read anew for each claim."""
    demand: Demand | None = None
    """Who asks for work, for those who ask why a job waits; None: not known here."""
    last_seen: Callable[[Sequence[str]], Mapping[str, int]] = _nobody_seen
    """When factories were last heard of, as far as Redis knows; only shown."""
    looks: Looks | None = None
    """What this batch has spent on those who only look; None: as much as they ask for."""
    held: HeldLeases | None = None
    """What those hold who register in this batch; None: looked for anew for each."""
    turns: SlotTurns | None = None
    """For slots, where claims of one batch run side by side; None: they come one after the other."""
    leaving: list[Slots] | None = None
    """Where many leases end at once: what they held, for the caller to give back together; None: at once, for each."""
    slot_work: SlotWork = field(default_factory=SlotWork)
    """What the slots of this batch have cost so far."""
    clock: Clock | None = None
    """Broker time as it goes on while a batch is settled; None: what is judged is judged by the time it began with."""
    door: Door = OPEN_DOOR
    """What requests come in by, and replies go out by."""
    lately: Lately = field(default_factory=Lately)
    """What the batches before have told Redis."""
    known_jobs: KnownJobs = field(default_factory=KnownJobs)
    """What the batches before have written."""
    ready_sets: ReadySets = field(default_factory=ReadySets)
    """Where jobs stood when it was last asked for some."""
    known_offers: KnownOffers = field(default_factory=KnownOffers)
    """What those offered who waited when jobs came before."""

    def heeded(self) -> Controls:
        """What operators have set: as this batch has read it, or to be read now."""
        return self.controls or Controls(self.store)

    def turns_of(self, keys: Iterable[str]) -> AbstractContextManager[None]:
        """Within the block no other claim of this batch changes these slots."""
        return nullcontext() if self.turns is None else self.turns.of(keys)

    def give_back_left(self) -> None:
        """Give back what stands in `leaving`. Where that fails, whoever finds it in the way does it."""
        if self.leaving:
            give_back_together(self.store, self.entropy, self.leaving)
            self.leaving.clear()


class Change(Value, frozen=True):
    """One job before and after a write; run records, hints and events are derived from it.

    Without `before` the job is new, or it was written earlier and only its hints are moved again.
    """

    before: Job | None
    after: Job
    new: bool = False
    recorded: bool = True
    """Whether what the job says stands on its runs, too."""
    room: tuple[Room, ...] = ()
    """Of a grant: what it has left to others in its slots, of which some may stand aside."""


class Wait(Value, frozen=True):
    """A slot that admits nobody now. Whoever frees it, or the time `until_ms`, lets through what waits for it."""

    key: str
    job: Job | None = None
    """A ready job that stands aside until then; None: only claims wait."""
    until_ms: int | None = None


class Settlement(Value, frozen=True):
    """The answer to a request, and what it changed."""

    answer: Answer
    changes: tuple[Change, ...] = ()
    waits: tuple[Wait, ...] = ()
    """What this request has met and others may wait for."""
    freed: tuple[str, ...] = ()
    """Keys of slots that an operator's request may have opened, once for each job that may come through now."""
    maybe: tuple[str, ...] = ()
    """Jobs that a claim-next may have been granted, where its outcome is unknown."""
    told_elsewhere: bool = False
    """Another copy of the request is answered; what this one has changed stands."""
    put_back: bool = False
    """Beside `told_elsewhere`: nothing was done, and this very copy comes again with a later batch."""
    extended: tuple[Job, ...] = ()
    """Jobs of which only the lease was extended, afterwards: it is told, and nothing else follows from it."""


class Denied(Value, frozen=True):
    """A claim that was not written, or was undone before anybody was told."""

    answer: Answer
    wait: Wait | None = None
    """The slot that was busy."""
    changes: tuple[Change, ...] = ()
    """What was changed all the same: by undoing it, or of another job."""


Judge: TypeAlias = Callable[[Job], Decision]
Writer: TypeAlias = Callable[..., JobUpdate | Denied]
"""Makes a decision's changes conditionally: `rev_update_job`, or that with something around it."""


def judge_and_write(
    context: Context,
    job_id: str,
    judge: Judge,
    *,
    job: Job | None = None,
    write: Writer = repository.rev_update_job,
    attempts_max: int = CAS_ATTEMPTS_MAX,
    seen_epoch: int = 0,
    sure: bool = False,
) -> Settlement:
    """Read, judge, write if still so. The guard is evaluated anew on each version; the caller's fence never is.

    `job`: a version just read, judged without another read. `seen_epoch`: the job has had this one, as far as the
    caller says; a read that shows an earlier one may be stale, and says nothing yet, like one that shows no job.
    `sure`: also a refusal is given only of a version that can be written on.
    """
    for attempt in range(attempts_max):
        if job is None:
            job = read_known(context, job_id, seen_epoch=seen_epoch)
        if job is None:
            return Settlement(Answer(Word.NOT_FOUND, body={"job_id": job_id}))
        decision = judge(job)
        if sure and isinstance(decision, Refuse):
            decision = Write({}, decision.answer)
        result = _once(context, job, decision, write)
        if isinstance(result, Settlement):
            return result
        job = result.current
        if attempt + 1 < attempts_max:
            context.pause(CAS_PAUSE_MS * context.entropy.jitter())
    lost = judge(job) if job is not None else None  # where another has won for good, it is named
    if job is not None and isinstance(lost, Replay):  # the last try landed, and was written over before its answer
        return _replayed(context, job, lost)
    return Settlement(lost.answer if isinstance(lost, Refuse) else raced(job_id))


def seen_to_stand(store: Datastore, changes: Iterable[Change]) -> list[Change]:
    """Of changes that were written in one group, of which nobody knows what became, those that a read shows."""
    found: list[Change] = []
    for change in changes:
        with suppress(DatastoreError):
            job = repository.read_job(store, change.after.id)
            if job is not None and job.document.etag == change.after.document.etag:
                found.append(change)
    return found


def judge_again(context: Context, job_id: str, judge: Judge, lost: Stale, *, write: Writer) -> Settlement:
    """What `judge_and_write` does once its first try has come second."""
    context.pause(CAS_PAUSE_MS * context.entropy.jitter())
    return judge_and_write(context, job_id, judge, job=lost.current, write=write, attempts_max=CAS_ATTEMPTS_MAX - 1)


def read_known(context: Context, job_id: str, *, seen_epoch: int = 0) -> Job | None:
    """The job. A read that shows none, or one from before `seen_epoch`, may be stale, and is repeated."""
    job = repository.read_job(context.store, job_id)
    for _ in range(shared_document.REREADS_MAX):
        if job is not None and job.epoch >= seen_epoch:
            break
        job = repository.read_job(context.store, job_id)
    return job


def _once(context: Context, job: Job, decision: Decision, write: Writer) -> Settlement | Stale:
    if isinstance(decision, Refuse):
        return Settlement(decision.answer)
    if isinstance(decision, Replay):
        return _replayed(context, job, decision)
    if "last_end" in decision.changes and _took_over(job):
        runs.record_last_end(context.store, context.entropy, job)
    update = write(context.store, job, decision.changes, write_id=context.entropy.write_id())
    if isinstance(update, Updated):  # looked for first, and by itself: nearly all are written
        after = update.job
        recorded = _follow_up(context, job, after)
        return Settlement(
            _told(after, decision.answer, recorded), (Change(job, after, recorded=recorded, room=update.room),)
        )
    match update:
        case Denied(refusal, wait, undone):
            # A job that does not stand aside is offered again: whoever proposed it has taken it out of the index.
            if wait is not None and wait.job is not None:
                return Settlement(refusal, waits=(wait,))
            return Settlement(refusal, undone or (Change(job, job),), () if wait is None else (wait,))
        case Missing():
            return Settlement(Answer(Word.NOT_FOUND, body={"job_id": job.id}))
        case Stale():
            return update


def _replayed(context: Context, job: Job, replay: Replay) -> Settlement:
    """What was written before, perhaps by a worker that died before it wrote the run and moved the hints."""
    recorded = _make_up(context, job)
    return Settlement(_told(job, replay.answer, recorded), (Change(None, job, recorded=recorded),))


def raced(job_id: str) -> Answer:
    """Nothing was written because others kept writing. Nothing is held."""
    return Answer(Word.CONFLICT, Reason.RACED, {"job_id": job_id})


def _follow_up(context: Context, before: Job, after: Job) -> bool:
    """Write what the job says onto its runs. Whether they were written.

    The job is written and decides; where a run can't be, or a crash comes in between, the sweep, the next claim or a
    resend does the same.
    """
    if before.lease is not None and after.lease is not None and before.epoch == after.epoch:
        return True  # it goes on
    written = True
    try:
        _write_runs(context, before, after)
    except DatastoreError as error:
        written = _not_recorded(after, error)
    if before.lease is not None and (after.lease is None or after.epoch != before.epoch):
        _free_slots(context, before, before.lease)
    return written


def _make_up(context: Context, job: Job) -> bool:
    """Write the run again of a request that was carried out before. Whether it is written."""
    try:
        runs.record_last_end(context.store, context.entropy, job)
    except DatastoreError as error:
        return _not_recorded(job, error)
    return True


def _told(job: Job, answer: Answer, recorded: bool) -> Answer:
    """The answer, unless a job that has ended lacks the record of its last run.

    No later grant will make up for that. Whoever asked is to repeat the request, which does, or the sweep (`owed`).
    """
    return answer if recorded or not job.state.terminal else Answer(Word.OUTCOME_UNKNOWN, Reason.STORE)


def _not_recorded(job: Job, error: DatastoreError) -> bool:
    log.warning("run_not_recorded", job=job.id, epoch=job.epoch, error=str(error))
    return False


def _free_slots(context: Context, job: Job, lease: Lease) -> None:
    """Give back what a lease held. Where it fails, whoever finds the slot full looks at its holders' jobs."""
    if not (job.locks or lease.limits):
        return
    units = unit_wants({}, lease.limits)
    slots = Slots.of(
        context.store,
        context.entropy,
        job,
        epoch=lease.epoch,
        request_id=lease.request_id,
        factory_id=lease.factory_id,
        units=units,
    )
    if context.leaving is not None:
        context.leaving.append(slots)
    else:
        with context.turns_of(slots.keys):
            slots.give_back()
    if context.controls is not None:
        context.controls.note_freed(lease.limits)


def _took_over(job: Job) -> bool:
    """Whether the write of this lease ended the one before, too: that end may not be on record yet, and the job is
    about to forget it with the end of this one.
    """
    lease, end = job.lease, job.last_end
    return lease is not None and end is not None and end.ended_ms == lease.granted_ms


def _write_runs(context: Context, before: Job, after: Job) -> None:
    if after.last_end is not None and after.last_end != before.last_end:
        runs.end_run(context.store, context.entropy, after.id, after.last_end)
    elif after.state.terminal and after.epoch:
        # Ended without a lease: no claim will make up for the run before.
        runs.record_last_end(context.store, context.entropy, after)
