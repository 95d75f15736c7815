"""Extends leases: one, or all that a client renews with one message, for which what they share is looked up once."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from broker import registration, repository, runs, transitions
from broker.answers import Answer, Reason, Word, plain
from broker.documents import Job
from broker.fence import Fence
from broker.messages import RenewMany
from broker.repository import JobUpdate, Stale, Updated
from broker.settlement import Change, Context, Settlement, judge_again, judge_and_write
from broker.transitions import Decision, Write
from datastore import Datastore, DatastoreError, Ok
from datastore.value import Value


def renew(context: Context, job_id: str, fence: Fence, *, now_ms: int, ttl_ms: int | None = None) -> Settlement:
    """Extend the caller's lease by its ttl, counted from `now_ms`; end its run where that has taken too long."""
    return Renewing(context, fence.factory_id, now_ms=now_ms).one(Held(job_id, fence, ttl_ms))


class Held(Value, frozen=True):
    """A lease as its holder knows it, to be renewed."""

    job_id: str
    fence: Fence
    ttl_ms: int | None = None
    """None: as granted."""


def halves(request: RenewMany) -> Sequence[RenewMany]:
    """The leases of a message in two, for a store that can't read some of them; none where it has only one."""
    leases = request.body.leases
    middle = len(leases) // 2
    parts = (leases[:middle], leases[middle:]) if middle else ()
    bodies = [request.body.model_copy(update={"leases": part}) for part in parts]  # validated as they came
    return [request.model_copy(update={"body": body}) for body in bodies]


def joined(parts: Sequence[RenewMany], settled: Sequence[Settlement | None]) -> Settlement:
    """The answer to all of them, lease by lease; those of a part that failed as a whole are told so each."""
    results: list[Mapping[str, Any]] = []
    changes: list[Change] = []
    extended: list[Job] = []
    for part, became in zip(parts, settled, strict=True):
        assert became is not None, "only of a claim another copy is answered"
        told = became.answer.body.get("results")
        results += told or [{**plain(became.answer), "job_id": lease.job_id} for lease in part.body.leases]
        changes += became.changes
        extended += became.extended
    return Settlement(Answer(Word.OK, body={"results": results}), tuple(changes), extended=tuple(extended))


class Renewing:
    """Renews leases of one factory at one moment, each for itself: one that is lost leaves the others alone."""

    def __init__(self, context: Context, factory_id: str, *, now_ms: int) -> None:
        self._context = context
        self._now_ms = now_ms
        self._factory = registration.known(context.heeded(), factory_id)
        self._paused: dict[str, bool] = {}

    def each(self, leases: Sequence[Held]) -> list[Settlement | DatastoreError]:
        """What became of each, in their order, or what the store failed with; at less cost than one by one."""
        if len({held.job_id for held in leases}) < len(leases):  # one that is named twice is renewed twice
            return [self.alone(held) for held in leases]
        settled = self._together(leases)
        return [self.alone(held) if done is None else done for held, done in zip(leases, settled, strict=True)]

    def one(self, held: Held, *, lost: Stale | None = None) -> Settlement:
        """See `renew`. `lost`: a first try has been made, and came second."""
        judge, write = partial(self._judge, held), partial(_write_renewal, self._context)
        if lost is None:
            return judge_and_write(self._context, held.job_id, judge, write=write, seen_epoch=held.fence.epoch)
        return judge_again(self._context, held.job_id, judge, lost, write=write)

    def alone(self, held: Held, *, lost: Stale | None = None) -> Settlement | DatastoreError:
        """The same for one of them."""
        try:
            return self.one(held, lost=lost)
        except DatastoreError as error:
            return error

    def _together(self, leases: Sequence[Held]) -> list[Settlement | DatastoreError | None]:
        """What became of those that are simply extended, which are nearly all; None of the others, and nothing done."""
        context = self._context
        settled: list[Settlement | DatastoreError | None] = [None] * len(leases)
        renewed: list[tuple[Job, Mapping[str, Any]]] = []
        answers: list[tuple[int, Answer]] = []
        read, known_jobs = context.store.read, context.known_jobs
        for position, held in enumerate(leases):
            try:
                found = read(held.job_id, held.job_id)
                if not isinstance(found, Ok):
                    continue
                job = known_jobs.of(found.document)
            except DatastoreError:  # it can't be read at once
                continue
            decision = self._judge(held, job)
            if isinstance(decision, Write) and decision.changes.get("lease") is not None:
                renewed.append((job, decision.changes))
                answers.append((position, decision.answer))
        updates = repository.rev_update_each(context.store, renewed, mark=context.entropy.write_id())
        for (position, answer), update in zip(answers, updates, strict=True):
            if isinstance(update, Updated):
                known_jobs.keep(update.job)
                settled[position] = Settlement(answer, extended=(update.job,))
            elif isinstance(update, Stale):
                settled[position] = self.alone(leases[position], lost=update)
            elif isinstance(update, DatastoreError):
                settled[position] = update
        return settled

    def _judge(self, held: Held, job: Job) -> Decision:
        paused = self._paused.get(job.queue)
        if paused is None:
            paused = self._paused[job.queue] = _is_paused(self._context, job.queue)
        extended = transitions.renew(
            job, held.fence, now_ms=self._now_ms, ttl_ms=held.ttl_ms, paused=paused, factory=self._factory
        )
        if not isinstance(extended, Write) or job.lease is None or job.lease.run_deadline_ms is None:
            return extended
        context = self._context
        over = transitions.end_run(job, now_ms=self._now_ms, rules=context.rules, jitter=context.entropy.jitter())
        if not isinstance(over, Write):
            return extended
        return Write(over.changes, Answer(Word.LEASE_LOST, Reason.TIMED_OUT, {"job_id": job.id, "epoch": job.epoch}))


def _is_paused(context: Context, queue: str) -> bool:
    """Whether a holder is to hear of a pause. Where that can't be read it goes on, as it would anyway."""
    try:
        return context.controls is not None and context.controls.queue(queue).pause is not None
    except DatastoreError:
        return False


def _write_renewal(
    context: Context, store: Datastore, job: Job, changes: Mapping[str, Any], *, write_id: str
) -> JobUpdate:
    """A renewal changes the lease alone, unless it ends the run."""
    if changes.get("lease") is not None:
        return repository.rev_update_lease(store, job, changes, write_id=write_id)
    return runs.end_unasked(context.entropy, store, job, changes, write_id=write_id)
