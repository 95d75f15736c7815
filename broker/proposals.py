"""Which jobs each claim-next of a batch is to try: one question to Redis for all of them, in order.

Taken out of the index in the same step that notes who was proposed what, so no two claims are proposed one job.
"""

from collections import defaultdict
from collections.abc import Container, Iterator, Sequence
from functools import partial
from typing import Any, TypeAlias

import msgspec
from redis import Redis

from broker import claim_next, index, replies
from broker.claim_next import ANSWER, ANSWER_TTL_MS, MARK, UNPARK, WAIT_ENDS, WAITING, claim_id
from broker.clock import Clock
from broker.messages import Claim
from broker.pop_best import POP_BEST
from broker.ready_sets import QueueSets, ReadySets
from broker.scripts import Argument, Script
from datastore.value import Value

IN_HAND_MS = 10_000
"""How long a claim-next counts as being settled; by then a dead worker's requests are mostly taken over."""
MARK_TTL_MS = ANSWER_TTL_MS
"""How long it is known what a claim-next was proposed, where its worker has died: it may be taken over late."""
JOBS_IN_A_CALL = 64
"""Proposed by one call, which everybody else waits for; one claim alone may ask for as many."""


class Candidate(Value, frozen=True):
    """Try these jobs. They have been taken out of the index."""

    job_ids: tuple[str, ...]


class Remembered(Value, frozen=True):
    """This request id was granted these jobs before. Each says whether the lease still stands."""

    job_ids: tuple[str, ...]


class InHand(Value, frozen=True):
    """Another worker settles this very request now, or its client waits already: its answer serves this copy too."""


class NothingFits(Value, frozen=True):
    """No ready job fits."""


class Unfinished(Value, frozen=True):
    """There was no time to put right all that stands before a job that may fit. What was put right stays so."""


Proposal: TypeAlias = Candidate | Remembered | InHand | NothingFits | Unfinished


class Asking(Value, frozen=True):
    """A claim-next that wants `count` (more) jobs proposed. `insist`: taken over from a dead worker.

    `again`: it was sent before, and this worker has not proposed it anything yet.
    """

    claim: Claim
    insist: bool = False
    count: int = 1
    again: bool = False


_PROPOSE = Script(
    f"local IN_HAND, MARK_TTL, ANSWER, MARK = {IN_HAND_MS}, {MARK_TTL_MS}, '{ANSWER}', '{MARK}'\n"
    + POP_BEST
    + UNPARK
    + """
-- KEYS: 1 the waiting claims, 2 their ends
-- ARGV: 1 worker, 2 now, 3 ageing step, 4 what `_question` says, 5 whether only if the sets are as it says
-- Returns a proposal for each claim. Where the sets are others: 'sets' and those of each queue, and nothing was done.
-- 'unfinished': the index was put right as far as one call may; ask again.
local worker, now, step = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])
local claims, queues, places = unpack(cjson.decode(ARGV[4]))

-- A queue's sets are as they were seen where there are as many, and none was taken away since: whoever does that gives
-- them another state, and so does this where Redis has lost it.
local function sets_of_queues(states)
  local found, as_known = {'sets'}, true
  for i, queue in ipairs(queues) do
    local state = states[i]
    if not state then
      local t = redis.call('TIME')
      state = t[1] .. '-' .. t[2] .. '-' .. worker
      redis.call('SET', queue.state, state, 'PX', MARK_TTL)  -- of any queue that is asked for: it must not stay
    end
    found[i + 1] = ''
    if redis.call('SCARD', queue.sets) ~= queue.size or state ~= queue.seen then
      found[i + 1], as_known = {state, redis.call('SMEMBERS', queue.sets)}, false
    end
  end
  return not as_known and found
end

-- A claim waits only where it can be woken and ended too; with a part of that lost, a resend begins the wait anew.
local function waits(id, record)
  local parked = parked_claim(record)
  if not parked or not redis.call('ZSCORE', KEYS[2], id) then return nil end
  return type(redis.pcall('ZSCORE', parked.parked_in, id)) == 'string' and parked
end

-- Whether a mark is so young that who set it may be at it still. What lasts longer than it is ever given is from
-- before time was set back, or of nobody of ours.
local function lately_set(mark)
  local left = redis.call('PTTL', mark)
  return left <= MARK_TTL and left > MARK_TTL - IN_HAND
end

-- The sets that jobs may be taken from, and the bonus of each.
local function sets_of(place)
  if not place.keys then
    local queue = queues[place.queue]
    place.keys, place.served = {}, queue.served
    for i, number in ipairs(place.numbers) do place.keys[i] = queue.members .. queue.names[number] end
  end
  return place.keys, place.bonuses, place.served
end

-- Who settles a claim stands in its mark, with what it was proposed: where that worker has died, these jobs are tried
-- again first, for one of them may be leased by this claim, and no search show it yet.
local function proposal(claim, known, mark, record)
  local id, insist, again, count, shared_by, place = unpack(claim)
  if known and string.find(known, '%S') then return {'remembered', known} end
  local settler, proposed = nil, {}
  for part in string.gmatch(mark or '', '%S+') do
    if settler then proposed[#proposed + 1] = part else settler = part end
  end
  if not insist then
    local parked = waits(id, record)
    if parked and (shared_by == '' or shared_by == parked.reply_key) then return {'in_hand'} end
    -- The client that asked last is the one to be answered: the one before it is gone, or it would have waited. One
    -- that asks without a wait has given up its own.
    if parked then
      unpark(id)
      settler, proposed = nil, {}
    end
    if settler and settler ~= worker and lately_set(MARK .. id) then return {'in_hand'} end
  end
  local found, unfinished = {'candidate'}, false
  if again then
    for i = 1, #proposed do found[i + 1] = proposed[i] end
  end
  if #found == 1 then
    local keys, bonuses, served = sets_of(places[place])
    for _ = 1, count do
      local best
      best, unfinished = pop_best(keys, bonuses, served, now, step)
      if not best then break end
      found[#found + 1], proposed[#proposed + 1] = best, best
    end
  end
  table.insert(proposed, 1, worker)  -- not unpacked: of some thousands, which nobody of ours has written, Lua can't
  redis.call('SET', MARK .. id, table.concat(proposed, ' '), 'PX', MARK_TTL)
  return #found > 1 and found or {unfinished and 'unfinished' or 'nothing'}
end

local ids, names, found = {}, {}, {}
for i, claim in ipairs(claims) do
  local id = claim[1]
  ids[i], names[i], names[#claims + i] = id, ANSWER .. id, MARK .. id
end
for i, queue in ipairs(queues) do names[2 * #claims + i] = queue.state end
local known = redis.call('MGET', unpack(names))
local others = ARGV[5] == '1' and sets_of_queues({unpack(known, 2 * #claims + 1)})
if others then return others end
local records = redis.call('HMGET', KEYS[1], unpack(ids))
for i, claim in ipairs(claims) do found[i] = proposal(claim, known[i], known[#claims + i], records[i]) end
return found
"""
)


class _Queue(Value, frozen=True):
    """Where jobs of a queue stand: its sets of terms by name."""

    sets: str
    state: str
    size: int
    seen: str
    """`size` sets, in this state, are what `names` was made of."""
    members: str
    served: str
    names: Sequence[str]


class _Place(Value, frozen=True):
    """The sets of one queue, counted from 1, that certain offers, or one heir, may have, and how far ahead each is."""

    queue: int
    numbers: Sequence[int]
    bonuses: Sequence[int]


def propose(
    connection: Redis,
    asking: Sequence[Asking],
    *,
    worker: str,
    clock: Clock,
    until_ms: int,
    step_ms: int,
    sets: ReadySets,
) -> list[Proposal]:
    """One proposal for each claim, in order. One round trip where `sets` are still as they were last seen.

    `step_ms`: how much waiting makes up for one priority. `until_ms`: when to ask no more of a claim for which more of
    the index is to be put right than one call may. Each is asked for once in any case, so that its resend gets on.
    """
    ask = partial(_ask, connection, sets=sets, worker=worker, now_ms=clock.now_ms(), step_ms=step_ms)
    found: list[Proposal] = []
    for part in _parts(asking):
        said = ask(part, as_seen=True)
        if said[0] == b"sets":
            for queue, told in zip(_queues(part), said[1:], strict=True):
                if told:  # else they are what they were
                    state, names = told
                    sets.saw(queue, names, state=state)
            said = ask(part, as_seen=False)
        while unfinished := [at for at, each in enumerate(said) if each[0] == b"unfinished"]:
            if clock.now_ms() >= until_ms:
                break
            for position, each in zip(unfinished, ask([part[each] for each in unfinished], as_seen=False), strict=True):
                said[position] = each
        found += map(_proposal, said)
    return found


def _parts(asking: Sequence[Asking]) -> Iterator[list[Asking]]:
    part: list[Asking] = []
    jobs = 0
    for each in asking:
        if part and jobs + each.count > JOBS_IN_A_CALL:
            yield part
            part, jobs = [], 0
        part.append(each)
        jobs += each.count
    if part:
        yield part


def _ask(
    connection: Redis,
    asking: Sequence[Asking],
    *,
    sets: ReadySets,
    worker: str,
    now_ms: int,
    step_ms: int,
    as_seen: bool,
) -> list[Any]:
    """One call. `as_seen`: only if the sets are still as they were seen, otherwise it does nothing and says them."""
    question = _question(asking, sets, step_ms=step_ms)
    arguments: list[Argument] = [worker, now_ms, step_ms, question, int(as_seen)]
    said: list[Any] = _PROPOSE.run(connection, [WAITING, WAIT_ENDS], arguments)
    return said


def _question(asking: Sequence[Asking], sets: ReadySets, *, step_ms: int) -> bytes:
    """The claims, their queues, and where in those jobs may stand for them: stated once, however many may have them."""
    # Looked up once: when another queue is met for the first time, those that were seen before may be forgotten.
    queues = {queue: (number, sets.of(queue)) for number, queue in enumerate(_queues(asking), start=1)}
    places: dict[tuple[str, str, tuple[str, ...]], int] = {}
    stated: list[_Place] = []
    claims: list[tuple[str, bool, bool, int, str, int]] = []
    wanted: defaultdict[str, set[int]] = defaultdict(set)
    for each in asking:
        claim, queue, offers = each.claim, each.claim.body.queue, each.claim.body.offers
        number, seen = queues[queue]
        heir = seen.heir(claim.factory_id)
        if (place := places.get((queue, heir, offers))) is None:
            place = places[queue, heir, offers] = len(places) + 1
            fitting = seen.fitting(offers, heir=heir, step_ms=step_ms)
            stated.append(_Place(number, fitting.numbers, fitting.bonuses))
            wanted[queue].update(fitting.numbers)
        claims.append((claim_id(claim), each.insist, each.again, each.count, _shared_by(claim), place))
    told = [_queue(name, seen, wanted[name]) for name, (_, seen) in queues.items()]
    return msgspec.json.encode((claims, told, stated))


def _queues(asking: Sequence[Asking]) -> list[str]:
    return list(dict.fromkeys(each.claim.body.queue for each in asking))


def _queue(name: str, seen: QueueSets, wanted: Container[int]) -> _Queue:
    """`wanted`: the numbers of the sets that some claim may have. Where names are long, the others' are left out."""
    names: Sequence[str] = seen.names
    if seen.is_long:
        names = [text if number in wanted else "" for number, text in enumerate(names, start=1)]
    return _Queue(
        index.sets_key(index.READY, name),
        index.state_key(index.READY, name),
        seen.size,
        seen.state,
        index.members_key(index.READY, name, ""),
        index.served_key(name),
        names,
    )


def _shared_by(claim: Claim) -> str:
    """The channel whose wait serves this copy too: of a claim that was woken, any; of one that will not wait, none."""
    if claim_next.waited(claim.body):
        return ""
    return replies.reply_key(claim.factory_id, claim.instance) if claim.body.wait_ms else "-"


def _proposal(said: list[bytes]) -> Proposal:
    match said[0]:
        case b"candidate":
            # What is no text is no job's id either, and is not found.
            return Candidate(tuple([job_id.decode(errors="replace") for job_id in said[1:]]))
        case b"remembered":
            return Remembered(tuple(said[1].decode(errors="replace").split()))
        case b"in_hand":
            return InHand()
        case b"unfinished":
            return Unfinished()
        case _:
            return NothingFits()
