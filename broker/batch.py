"""Settles a batch of requests: proposals, then one group of conditional writes. What they lead to is `aftermath`."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from itertools import count
from typing import TypeAlias

import structlog
from msgspec import structs
from redis import Redis

from broker import (
    claim_next,
    claiming,
    granting,
    registration,
    renewing,
    seen,
    side_by_side,
    waiting,
)
from broker.answers import Answer, Reason, Word, put_off
from broker.clock import Clock
from broker.controls import Controls, read_for
from broker.demand import Demand
from broker.documents import Job
from broker.door import Taken as Taken
from broker.earlier_grants import EarlierGrants
from broker.gathering import another, gathered, shares, wanted, with_earlier
from broker.held_leases import HeldLeases
from broker.looks import Looks
from broker.messages import Claim, RenewMany, Request
from broker.proposals import Asking, Candidate, InHand, NothingFits, Proposal, Remembered, Unfinished, propose
from broker.settle import HEED_CONTROLS, PUT_BACK, failed, looked_at, settle
from broker.settlement import Change, Context, Settlement, Wait
from broker.side_by_side import Errand
from broker.signing import UNSEALED, Seal
from broker.slot_turns import SlotTurns
from broker.slot_work import SlotWork
from broker.surplus import taken_back
from broker.turned_away import may_wait, refusal
from datastore import Corrupt, DatastoreError
from datastore.interface import DocumentName, nothing_ahead
from datastore.value import Value

log = structlog.get_logger(__name__)

CANDIDATES_MAX = 16
"""Jobs a claim-next tries however long that takes; each it can't have leaves the index."""
TRIES_MS = 200
"""From when on it tries no more than these, and puts no more of the index right: everybody behind it waits. On SQLite
it has tried a hundred by then."""
JOBS_MAX = 256
"""Jobs that the claims of any job in one batch may have, beyond one each: what was submitted with them, up to 64 KB
each, is in memory several times over until the batch has ended, and renewals wait for that."""
REMEMBERED_MAX = 64
"""Jobs with which resends in one batch are answered, but for those of the last: each with all that was submitted."""
INSISTED_MAX = 8 * REMEMBERED_MAX
"""The same for what was taken over, which comes in small portions."""
AHEAD_MIN = 4
"""Jobs of a round from which on the store is told what it will read. Fewer are read as they come, at less cost."""


Asked: TypeAlias = tuple[Request, Proposal | Settlement | None]
"""A request and, of a claim-next, what it is to try."""
Ask: TypeAlias = Callable[[Sequence[Asking]], Sequence[Proposal]]


class Settled(Value, frozen=True):
    """What became of a request. Without `answer` nothing is sent: it waits `parked`, or another copy is answered."""

    request: Request
    answer: Answer | None = None
    changes: tuple[Change, ...] = ()
    waits: tuple[Wait, ...] = ()
    freed: tuple[str, ...] = ()
    parked: Claim | None = None
    again: Claim | None = None
    """Of a claim that waits, what is to be settled then: what its factory has registered may be another thing."""
    maybe: tuple[str, ...] = ()
    seal: Seal = UNSEALED
    """How to write back to its sender."""
    extended: tuple[Job, ...] = ()
    """See `Settlement.extended`."""
    put_back: Taken | None = None
    """What is to come again with a later batch."""


def settle_batch(
    context: Context, connection: Redis, batch: Sequence[Taken], *, clock: Clock, worker: str
) -> list[Settled]:
    """Settle every request, in order; where the store can, with one group of writes for all.

    A claim-next whose proposed job had gone tries another, in a further round without the rest.
    """
    controls = Controls(context.store)
    last_seen = partial(seen.last_seen, connection)
    context = structs.replace(
        context,
        controls=controls,
        demand=Demand(connection, context.known_offers),
        last_seen=last_seen,
        clock=clock,
        looks=Looks(),
        held=HeldLeases(context.store, batch),
        slot_work=SlotWork(),
    )
    nexts = {at: taken.request for at, taken in enumerate(batch) if claim_next.is_claim_next(taken.request)}
    if nexts:
        batch = _with_offers(controls, batch, nexts)
    found: list[Settlement | None] = [None] * len(batch)
    pending = list(range(len(batch)))
    until_ms = clock.now_ms() + TRIES_MS if nexts else 0
    step_ms, sets = context.rules.ageing_step_ms, context.ready_sets
    ask = partial(propose, connection, worker=worker, clock=clock, until_ms=until_ms, step_ms=step_ms, sets=sets)
    for round in count():
        earlier = {position: found[position] for position in pending}
        proposals: dict[int, Proposal | Settlement] = {}
        if nexts:
            looking = {position: found[position] for position in pending if position in nexts}
            room = JOBS_MAX - sum(len(each.answer.grants) for each in found if each is not None)
            proposals = _proposals(context, ask, batch, looking, room=room, now_ms=clock.now_ms())
        asked = [(batch[position].request, proposals.get(position)) for position in pending]
        results = _one_round(context, asked, clock=clock)
        if round == 0 and not proposals:  # none of them is a claim-next, which alone may come to another round
            found, pending = list(results), []
            break
        for position, (_, proposal), result in zip(pending, asked, results, strict=True):
            found[position] = with_earlier(found[position], result, proposed=_jobs(proposal))
        pending = [
            position
            for position, (request, proposal), result in zip(pending, asked, results, strict=True)
            if result is not None and _gone(request, proposal, result.answer, earlier[position])
        ]
        if not pending or (round + 1 >= CANDIDATES_MAX and clock.now_ms() >= until_ms):
            break
    now_ms = clock.now_ms()
    for position in pending:
        untried = _not_all_tried(context, batch[position].request, now_ms=now_ms)
        found[position] = with_earlier(found[position], untried)
    settled = [
        _settled(taken, result, sent=nexts.get(position), now_ms=now_ms)
        for position, (taken, result) in enumerate(zip(batch, found, strict=True))
    ]
    return _not_too_many_waiting(context, connection, batch, settled, now_ms=now_ms)


def _not_all_tried(context: Context, request: Request, *, now_ms: int) -> Settlement:
    """What becomes of a claim-next that could not have what it tried, where there is more, and no time for that now.

    One that waits is parked and at once looked at again. Another is not told that there is nothing, which is not known.
    """
    assert type(request) is Claim, "nobody else tries several jobs"
    if claim_next.waits(request, now_ms):
        return Settlement(Answer(Word.NONE_AVAILABLE))
    return Settlement(put_off(Reason.OVERLOADED, context.entropy, resend=False, after_ms=claiming.PUT_OFF_MS))


def _not_too_many_waiting(
    context: Context, connection: Redis, batch: Sequence[Taken], settled: list[Settled], *, now_ms: int
) -> list[Settled]:
    """The same, with the claims told so that would wait beyond what their factories may have waiting."""
    parked = {position: each.parked for position, each in enumerate(settled) if each.parked is not None}
    if not parked:
        return settled
    at_most = context.rules.waiting_max
    beyond = waiting.beyond(connection, list(parked.values()), at_most=at_most, now_ms=now_ms)
    for position, too_many in zip(parked, beyond, strict=True):
        if too_many:
            answer = waiting.turned_away(context.entropy, resend=batch[position].resend)
            settled[position] = structs.replace(settled[position], answer=answer, parked=None)
    return settled


def _with_offers(controls: Controls, batch: Sequence[Taken], nexts: Mapping[int, Claim]) -> list[Taken]:
    """The same batch; the claims of any job that it has offer what their factories registered."""
    judged = list(batch)
    for position, claim in nexts.items():
        judged[position] = structs.replace(batch[position], request=registration.with_offers(controls, claim))
    return judged


def _proposals(
    context: Context,
    ask: Ask,
    batch: Sequence[Taken],
    looking: Mapping[int, Settlement | None],
    *,
    room: int,
    now_ms: int,
) -> dict[int, Proposal | Settlement]:
    """What each of these claims of any job is to try. A resend first looks for the leases it may have already.

    `looking` holds what earlier rounds have brought each. `room`: how many jobs they may have, where one each is fewer.

    Of several copies in one batch (its client sent it again while the queue was long) the first is answered, unless
    another takes its place (`_takes_the_place_of`).
    """
    proposals: dict[int, Proposal | Settlement] = {}
    asking: dict[int, Asking] = {}
    senders: dict[str, int] = {}
    remembered = 0
    known_before = EarlierGrants(context.store, _resends(batch, looking))
    for position, earlier in looking.items():
        taken = batch[position]
        request = taken.request
        assert type(request) is Claim, "nobody else looks for any job"
        if request.deadline_ms is not None and now_ms > request.deadline_ms:
            continue
        if taken.resend and earlier is None:
            left = (INSISTED_MAX if taken.insist else REMEMBERED_MAX) - remembered
            known = known_before.of(request, at_most=wanted(request, earlier)) if left > 0 else _later(taken)
            if known is not None:
                proposals[position] = known
                remembered += len(_jobs(known))
                continue
        if (refused := refusal(context, request, now_ms=now_ms)) is not None:
            proposals[position] = refused
            continue
        before = senders.get(sender := claim_next.claim_id(request))
        if before is not None and not _takes_the_place_of(request, asking[before].claim):
            proposals[position] = InHand()
            continue
        if before is not None:
            del asking[before]
            proposals[before] = InHand()
        senders[sender] = position
        count = 0 if claim_next.has_waited_enough(request.body, now_ms) else wanted(request, earlier)
        asking[position] = Asking(request, taken.insist, count, again=taken.resend and earlier is None)
    if sum(each.count for each in asking.values()) > room:
        few = shares({position: each.count for position, each in asking.items()}, at_most=room)
        asking = {position: structs.replace(each, count=few[position]) for position, each in asking.items()}
    return proposals | dict(zip(asking, ask(list(asking.values())), strict=True))


def _takes_the_place_of(claim: Claim, earlier: Claim) -> bool:
    """Of two copies of one claim, whether the later is to be answered: its client has given up the wait, or it is
    another client, whose predecessor is perhaps dead; unless it waited before, and the earlier has asked since.
    """
    if earlier.body.wait_ms and not claim.body.wait_ms:
        return True
    return claim.instance != earlier.instance and not claim_next.waited(claim.body)


def _resends(batch: Sequence[Taken], looking: Mapping[int, Settlement | None]) -> list[Claim]:
    """Those among them that came before, and of which nothing is known yet."""
    again = [batch[position] for position, earlier in looking.items() if earlier is None]
    return [taken.request for taken in again if taken.resend and type(taken.request) is Claim]


def _later(taken: Taken) -> Settlement:
    """What becomes of a resend where others have been answered with enough. It comes again with a later batch; not one
    that was taken over, of which nobody would know that it may have been settled before: its sender sends it again.
    """
    return Settlement(Answer(Word.OUTCOME_UNKNOWN, Reason.OVERLOADED)) if taken.insist else PUT_BACK


def _one_round(context: Context, asked: Sequence[Asked], *, clock: Clock) -> Sequence[Settlement | None]:
    """One group of writes. Where the group fails as a whole, so do all of its results; not for what one has met."""
    try:
        few = len(asked) < AHEAD_MIN and _jobs_of(asked) < AHEAD_MIN
        with context.store.batch(nothing_ahead if few else partial(_ahead, asked)):
            return _in_group(context, asked, clock=clock)
    except Corrupt as error:
        return _in_parts(context, asked, error, clock=clock)
    except DatastoreError as error:
        return [failed(context, error, _jobs(proposal)) for _, proposal in asked]


def _in_parts(context: Context, asked: Sequence[Asked], error: Corrupt, *, clock: Clock) -> Sequence[Settlement | None]:
    """The same in smaller groups: nothing was written, and only what can't do without what is damaged is to fail."""
    if context.controls is not None:
        context.controls.forget()
    if middle := len(asked) // 2:
        parts = asked[:middle], asked[middle:]
        return [result for part in parts for result in _one_round(context, part, clock=clock)]
    [(request, proposal)] = asked
    if type(request) is RenewMany and (halves := renewing.halves(request)):
        renewed = [each for half in halves for each in _one_round(context, [(half, None)], clock=clock)]
        return [renewing.joined(halves, renewed)]
    if proposal is not None and len(jobs := _jobs(proposal)) > 1:
        each_alone = [(request, Candidate((job,))) for job in jobs]
        tries = [result for one in each_alone for result in _one_round(context, [one], clock=clock) if result]
        return [_outcome(context, request, proposal, tries, clock.now_ms())]
    return [failed(context, error, _jobs(proposal))]


def _in_group(context: Context, asked: Sequence[Asked], *, clock: Clock) -> list[Settlement | None]:
    """What each comes to; None where another copy of it is answered."""
    if context.store.concurrency == 1:
        # One after the other: claims look first at what those before them have left. What a group leaves that comes to
        # nothing is not given back by the next.
        context = structs.replace(context, leaving=[])
    tries = _tries(context, asked, clock=clock)
    now_ms = clock.now_ms()
    outcomes = [
        each[0] if proposal is None else _outcome(context, request, proposal, each, now_ms)
        for (request, proposal), each in zip(asked, tries, strict=True)
    ]
    context.give_back_left()
    return outcomes


def _jobs_of(asked: Sequence[Asked]) -> int:
    """How many jobs a round is about, at most."""
    leases = [request.body.leases for request, _ in asked if type(request) is RenewMany]
    return len(asked) + sum(map(len, leases)) + sum(len(_jobs(proposal)) for _, proposal in asked)


def _ahead(asked: Sequence[Asked]) -> Iterator[DocumentName]:
    """What a round looks at."""
    if heeding := {request.factory_id for request, _ in asked if type(request) in HEED_CONTROLS}:
        yield from read_for(heeding)
    for request, proposal in asked:
        yield from looked_at(request, _jobs(proposal))


def _tries(context: Context, asked: Sequence[Asked], *, clock: Clock) -> list[list[Settlement]]:
    """What was tried for each request: one thing, or of a claim-next each job that it was proposed.

    Simple grants come at once; where the store is waited for, so does all that is about different jobs.
    """
    side = context.store.concurrency > 1
    context = structs.replace(context, turns=SlotTurns()) if side else context

    def act(errand: Errand) -> Settlement:
        request, candidate = errand
        return settle(context, request, now_ms=clock.now_ms(), candidate=candidate)

    def grant(claims: Sequence[granting.Asked]) -> Sequence[Settlement | None]:
        return granting.granted(context, claims, now_ms=clock.now_ms())

    errands: list[list[Errand]] = [
        [(each, None)] if known is None else [(each, job) for job in _jobs(known)] for each, known in asked
    ]
    if not side:
        return side_by_side.in_turn(act, grant, errands)
    ordered = any(type(request) is Claim for request, _ in asked) and claiming.limited(context)
    return side_by_side.settled(act, errands, at_once_max=context.store.concurrency, claims_in_order=ordered)


def _outcome(
    context: Context,
    request: Request,
    proposal: Proposal | Settlement,
    tries: Sequence[Settlement],
    now_ms: int,
) -> Settlement | None:
    """What a request comes to for which there was something to propose, or to refuse, by what was tried for it."""
    match proposal:
        case Settlement():
            return proposal
        case Candidate() | Remembered():
            assert type(request) is Claim, "only claims have proposals"
            if len(tries) > (request.body.count or 1):
                tries = taken_back(context, request, tries, now_ms=now_ms)
            return gathered(request, tries, remembered=isinstance(proposal, Remembered))
        case NothingFits():
            return Settlement(Answer(Word.NONE_AVAILABLE))
        case Unfinished():
            return _not_all_tried(context, request, now_ms=now_ms)
        case InHand():
            return None


def _jobs(proposal: Proposal | Settlement | None) -> tuple[str, ...]:
    return proposal.job_ids if isinstance(proposal, Candidate | Remembered) else ()


def _gone(request: Request, proposal: Proposal | Settlement | None, answer: Answer, earlier: Settlement | None) -> bool:
    if not isinstance(proposal, Candidate):
        return False
    assert type(request) is Claim, "only claims have proposals"
    return another(answer, proposed=min(len(proposal.job_ids), wanted(request, earlier)))


_NOTHING_NOW = frozenset({Word.THROTTLED, Word.REQUEST_EXPIRED})
"""What says only that this copy of a request was not looked at: an earlier one may have had effect. Not where it was,
and its lease is over.
"""


def _settled(taken: Taken, result: Settlement | None, *, sent: Claim | None, now_ms: int) -> Settled:
    """`sent`: a claim of any job as it came."""
    request, seal = taken.request, taken.seal
    if result is None:
        return Settled(request)
    if result.told_elsewhere:
        put_back = taken if result.put_back else None
        return Settled(request, changes=result.changes, waits=result.waits, put_back=put_back)
    answer = result.answer
    if answer.word in _NOTHING_NOW and answer.reason is not Reason.LEASE_OVER and taken.resend:
        answer = Answer(Word.OUTCOME_UNKNOWN, answer.reason)
    if sent is not None and type(request) is Claim and may_wait(answer) and claim_next.waits(request, now_ms):
        return Settled(request, changes=result.changes, waits=result.waits, parked=request, again=sent, seal=seal)
    changes, waits, freed, maybe = result.changes, result.waits, result.freed, result.maybe
    return Settled(request, answer, changes, waits, freed, None, None, maybe, seal, result.extended)
