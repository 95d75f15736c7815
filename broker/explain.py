"""Why a job waits, and why a factory has no work: every reason, with who and until when. Reads only."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

from broker import registration, repository
from broker.answers import Answer, Reason, Word
from broker.controls import UNREGISTERED, Drain, FactoryRecord
from broker.demand import Asker
from broker.documents import Job, State
from broker.matching import unmet
from broker.messages import Explain
from broker.obstacles import Obstacle, Situation, obstacles, told
from broker.occupancy import Looks
from broker.settlement import Context, Settlement
from broker.transitions.decision import held_by
from broker.transitions.timer import expire, expired
from datastore import AnyOf, Corrupt, Filter

PARENTS_MAX = 64
LOOKED_AT_MAX = 200
"""Ready jobs that are looked at for one factory."""
QUEUES_MAX = 32
"""Queues of one factory: those that it has asked for last."""
REFUSED_MAX = 20
HELD_MAX = 100
FITTING_MAX = 8
ABLE_LOOK_MAX = 32
"""Of factories that fit, those whose own document is read, and whose own limit is looked at."""


@dataclass(frozen=True, slots=True)
class Asking:
    """Whom a job is looked at for: a factory with its offers, or nobody in particular."""

    factory_id: str | None = None
    offers: tuple[str, ...] | None = None
    record: FactoryRecord = UNREGISTERED
    start: str = ""
    """The start of it whose claims are meant: who asks says its own."""


def explain(context: Context, request: Explain, now_ms: int) -> Settlement:
    """Answer for a job, for a factory, or for whether this factory could have this job."""
    body = request.body
    asking = Asking() if body.factory is None else _asking(context, body.factory, body.offers, request.incarnation)
    if body.job_id is None:
        return Settlement(Answer(Word.OK, body=_factory(context, asking, body.queue, now_ms)))
    job = repository.read_job(context.store, body.job_id)
    if job is None:
        return Settlement(Answer(Word.NOT_FOUND, body={"job_id": body.job_id}))
    return Settlement(Answer(Word.OK, body=_job(context, job, asking, now_ms)))


def _job(context: Context, job: Job, asking: Asking, now_ms: int) -> dict[str, Any]:
    looks = Looks(context, now_ms=now_ms)
    standing = [*_draining(asking, now_ms), *_in_the_way(looks, job, asking, now_ms)]
    standing = [_with_heir(context, met, now_ms) for met in standing]
    about: dict[str, Any] = {**held_by(job, now_ms), "queue": job.queue, "requires": list(job.requires)}
    if job.state.terminal or job.state is State.LEASED:
        return {**about, "claimable": not standing, **told(standing)}
    interest, starving = _interest(looks, job, now_ms)
    if asking.factory_id is None:
        standing += starving
    return {**about, "claimable": not standing, **told(standing), "interest": interest}


def _in_the_way(looks: Looks, job: Job, asking: Asking, now_ms: int) -> list[Obstacle]:
    """Every obstacle to a claim of `job`; the same table that a claim is refused by, and a look at its slots."""
    context = looks.context
    state = job.state
    leased: list[Obstacle] = []
    if job.lease is not None:
        if expired(job.lease, now_ms=now_ms, rules=context.rules):
            state = State(expire(job, job.lease, now_ms=now_ms)["state"])
        else:
            leased = [_leased(job, now_ms)]
    parents = _parents(context, job, now_ms) if state is State.BLOCKED else ()
    queue = context.heeded().queue(job.queue)
    claimant = asking.factory_id or ""
    situation = Situation(job, state, asking.offers, now_ms, queue, asking.record, parents, claimant)
    standing = [*leased, *obstacles(situation)]
    if not state.terminal and not leased:
        standing += looks.standing(job, factory_id=asking.factory_id)
    return standing


def _leased(job: Job, now_ms: int) -> Obstacle:
    lease = job.lease
    assert lease is not None, "asked of leased jobs only"
    detail: dict[str, Any] = {"factory_id": lease.factory_id, "incarnation": lease.incarnation, "epoch": lease.epoch}
    detail |= {"remaining_ms": max(0, lease.expires_ms - now_ms), "until_ms": lease.expires_ms}
    detail |= {"renewals": lease.renewals, "stuck_ms": lease.stuck_ms, "run_deadline_ms": lease.run_deadline_ms}
    if job.cancel is not None:
        detail["cancel"] = {"why": job.cancel.reason, "enforce_ms": job.cancel.enforce_ms}
    return Obstacle(Reason.LEASED, detail)


def _parents(context: Context, job: Job, now_ms: int) -> tuple[dict[str, Any], ...]:
    """The parents that have not succeeded, each with its state and who holds it."""
    found: list[dict[str, Any]] = []
    for job_id in job.depends_on[:PARENTS_MAX]:
        try:
            parent = repository.read_job(context.store, job_id)
        except Corrupt:
            found.append({"job_id": job_id, "state": "corrupt"})
            continue
        if parent is None:
            found.append({"job_id": job_id, "state": "missing"})
        elif parent.state is not State.SUCCEEDED:
            found.append(held_by(parent, now_ms))
    return tuple(found)


def _draining(asking: Asking, now_ms: int) -> list[Obstacle]:
    if asking.record.has_replaced(asking.start):
        now = {"incarnation": asking.record.incarnation, "since_ms": asking.record.since_ms}
        return [Obstacle(Reason.RESTARTED, {"factory_id": asking.factory_id, "start": asking.start, **now})]
    drain = asking.record.draining(asking.start, now_ms)
    if drain is None:
        return []
    detail = {
        "factory_id": asking.factory_id,
        "why": drain.reason,
        "since_ms": drain.since_ms,
        "until_ms": drain.until_ms,
    }
    return [Obstacle(Reason.DRAINING, detail)]


def _with_heir(context: Context, met: Obstacle, now_ms: int) -> Obstacle:
    """Of a job that was handed over: whether the factory it is kept for works at all."""
    if met.reason is not Reason.RESERVED:
        return met
    drain = _drain(context, met.detail["factory"], now_ms)
    return Obstacle(met.reason, {**met.detail, "draining": drain is not None and drain.incarnation is None})


def _interest(looks: Looks, job: Job, now_ms: int) -> tuple[dict[str, Any], list[Obstacle]]:
    """Who has asked for such a job lately; an obstacle where nobody who asks, and works, offers what it requires."""
    context = looks.context
    if context.demand is None:
        return {}, []
    askers = context.demand.askers(queue=job.queue)
    able = [asker for asker in askers if not unmet(asker.offers, job.requires)]
    heir = job.reserved.factory_id if job.reserved is not None and now_ms < job.reserved.until_ms else None
    may = [asker for asker in able if heir in (None, asker.factory_id)]
    known = {asker.factory_id: _drain(context, asker.factory_id, now_ms) for asker in may[:ABLE_LOOK_MAX]}
    draining = [name for name, drain in known.items() if drain is not None and drain.incarnation is None]
    stopped = [name for name, drain in known.items() if drain is not None and drain.incarnation is not None]
    working = [asker for asker in may if known.get(asker.factory_id) is None]
    fitting, limited = _within_their_limits(looks, working, job)
    parked = context.demand.parked(job)
    interest: dict[str, Any] = {
        "asked": len(askers),
        "parked": parked if heir is None else 0,  # a claim of the heir that waits would have been granted it
        "fitting": [{"factory": asker.factory_id, "asked_ms": asker.asked_ms} for asker in fitting],
        "draining": draining[:FITTING_MAX],
        "stopped": stopped[:FITTING_MAX],
        "limited": limited[:FITTING_MAX],
        "last_asked_ms": max((asker.asked_ms for asker in askers), default=None),
        **({"more": True} if context.demand.more else {}),
    }
    if working or parked or not job.requires or (heir is not None and able):
        return interest, []
    if able:
        detail: dict[str, Any] = {"missing": list(job.requires), "starving": True, "asked": len(askers)}
        none_works = {"draining": draining[:FITTING_MAX], "stopped": stopped[:FITTING_MAX]}
        return interest, [Obstacle(Reason.REQUIREMENTS, detail | none_works)]
    return interest, [_nobody_offers(job, askers)]


def _within_their_limits(looks: Looks, working: Sequence[Asker], job: Job) -> tuple[list[Asker], list[str]]:
    """The first of these that have reached no limit of their own, and who has; no more are looked at than are told."""
    fitting: list[Asker] = []
    limited: list[str] = []
    for at, asker in enumerate(working):
        if len(fitting) == FITTING_MAX:
            break
        if at < ABLE_LOOK_MAX and looks.own_limit_is_reached(asker.factory_id, job):
            limited.append(asker.factory_id)
        else:
            fitting.append(asker)
    return fitting, limited


def _drain(context: Context, factory_id: str, now_ms: int) -> Drain | None:
    """What keeps this factory from work: all of it, or the start that registered last, which was told to stop."""
    record = registration.known(context.heeded(), factory_id)  # of one that can't be read nothing is known
    return record.draining(record.incarnation or "", now_ms)


def _nobody_offers(job: Job, askers: Sequence[Asker]) -> Obstacle:
    """The job starves. What is missing is told of whoever comes closest."""
    closest = min(askers, key=lambda asker: len(unmet(asker.offers, job.requires)), default=None)
    missing = job.requires if closest is None else unmet(closest.offers, job.requires)
    detail: dict[str, Any] = {"missing": list(missing), "starving": True, "asked": len(askers)}
    if closest is not None:
        detail["closest"] = closest.factory_id
    return Obstacle(Reason.REQUIREMENTS, detail)


def _asking(context: Context, factory_id: str, offers: tuple[str, ...] | None, start: str) -> Asking:
    """A factory with what it offers: as told, else as its last claims said, else as it registered."""
    record = context.heeded().factory(factory_id)
    if offers is None:
        asked = context.demand.askers(factory_id=factory_id) if context.demand is not None else []
        offers = max(asked, key=lambda asker: asker.asked_ms).offers if asked else record.offers
    return Asking(factory_id, offers, record, start)


def _factory(context: Context, asking: Asking, queue: str | None, now_ms: int) -> dict[str, Any]:
    factory_id = asking.factory_id
    assert factory_id is not None, "the message names a job or a factory"
    asked = context.demand.askers(factory_id=factory_id) if context.demand is not None else []
    lately = list(dict.fromkeys(asker.queue for asker in asked if asker.queue)) if queue is None else [queue]
    known = sorted(lately[:QUEUES_MAX])
    held = list(islice(repository.leased_by(context.store, factory_id), HELD_MAX + 1))
    refused, looked_at, more = _refused(context, asking, known, now_ms)
    return {
        "factory_id": factory_id,
        **told(_draining(asking, now_ms)),
        "offers": list(asking.offers or ()),
        "last_asked_ms": max((asker.asked_ms for asker in asked), default=None),
        "queues": known,
        "holds": [held_by(job, now_ms) for job in held[:HELD_MAX]],
        "more_held": len(held) > HELD_MAX,
        "looked_at": looked_at,
        "fits": looked_at - len(refused),
        "refused": refused[:REFUSED_MAX],
        "more": more or len(lately) > QUEUES_MAX,
    }


def _refused(
    context: Context, asking: Asking, queues: Sequence[str], now_ms: int
) -> tuple[list[dict[str, Any]], int, bool]:
    """Of the ready jobs looked at, those the factory can't have and why; how many were looked at; whether all were.

    `queues`: without one, the jobs of every queue.
    """
    refused: list[dict[str, Any]] = []
    looks, looked_at = Looks(context, now_ms=now_ms), 0
    ready, more = _ready(context, queues)
    for job in ready:
        if looks.work.spent:
            return refused, looked_at, True
        looked_at += 1
        if standing := _in_the_way_or_corrupt(looks, job, asking, now_ms):
            refused.append({"job_id": job.id, "queue": job.queue, **told(standing)})
    return refused, looked_at, more


def _ready(context: Context, queues: Sequence[str]) -> tuple[list[Job], bool]:
    """Ready jobs of these queues, and whether there may be more.

    One page of a search: it may have ended among a million jobs of other queues. Then the hints say which there are; by
    themselves they would not do, since a job that could not be had has left them.
    """
    of_queues: Filter = {"queue": AnyOf(tuple(queues))} if queues else {}
    search: Filter = {"kind": "job", "state": "ready", **of_queues}
    page = repository.find_page(context.store, search, limit=LOOKED_AT_MAX, cursor=None)
    found = {job.id: job for job in repository.readable(page.documents)}
    room = LOOKED_AT_MAX - len(page.documents)
    if page.cursor is not None and room and queues and context.demand is not None:
        jobs = [_read(context, job_id) for job_id in context.demand.offered(queues, at_most=room)]
        found |= {job.id: job for job in jobs if job and job.state is State.READY and job.queue in queues}
    return list(found.values()), page.cursor is not None


def _read(context: Context, job_id: str) -> Job | None:
    """A job of which only a hint speaks."""
    try:
        return repository.read_job(context.store, job_id)
    except Corrupt:
        return None


def _in_the_way_or_corrupt(looks: Looks, job: Job, asking: Asking, now_ms: int) -> list[Obstacle]:
    """The same, of one job among many: a lock of it that makes no sense hides no other job."""
    try:
        return _in_the_way(looks, job, asking, now_ms)
    except Corrupt as error:
        return [Obstacle(Reason.CORRUPT, {"detail": str(error)})]
