"""Who of the waiting claims goes on: woken for jobs that became ready, or as one is there already. See `claim_next`.

One call says each set once, however many jobs or claims it is asked for, and looks at each once until it is changed.
"""

from collections.abc import Collection, Hashable, Iterable, Iterator, Mapping, Sequence
from typing import Generic, TypeVar, cast

import msgspec
from redis import Redis

from broker import index, parked_sets
from broker.claim_next import ANSWER_TTL_MS, UNPARK, WAIT_ENDS, WAITING, WOKEN_FOR, claim_id
from broker.index import JobSet
from broker.matching import canonical
from broker.messages import Claim
from broker.parked_sets import KnownOffers, Line
from broker.queues import intake_key
from broker.scripts import Argument, Script
from broker.wire_types import WAIT_MS_MAX
from datastore.value import Value

Kind = TypeVar("Kind", bound=Hashable)

AT_ONCE = 256
"""Jobs, or claims, of one call, of some 4 ms."""
LOOKS_MAX = 20_000
"""Sets named in one call, once for each kind of jobs or claims that they fit; one kind may have more."""
BYTES_MAX = 1 << 20
"""Of such names. What jobs require names their sets in full, up to 12 KB each."""
ROUNDS_MAX = 2_000
"""Waiting claims taken out in one call, most of which Redis has forgotten, and those looked at of heirs. What is left,
the next call and the sweep do."""
HEIRS_MAX = 10_000
"""Of one heir. More than may wait at once: who has named others there is nobody of ours."""

_WAKE = Script(
    UNPARK
    + f"local ROUNDS_MAX, HEIRS_MAX = {ROUNDS_MAX}, {HEIRS_MAX}\n"
    + f"local WOKEN_FOR, WOKEN_TTL = '{WOKEN_FOR}', {ANSWER_TTL_MS}"
    + """
-- KEYS: 1 waiting, 2 their ends, 3 the intake of claims.  ARGV: what `_question` says of the jobs
-- Returns how many were woken, and for how many jobs was looked.
local sets, kinds, jobs = unpack(cjson.decode(ARGV[1]))

-- Who stands first in each set, looked at once until somebody is taken out of it.
local heads = {}
local function head_of(set)
  if not heads[set] then heads[set] = redis.call('ZRANGE', sets[set], 0, 0, 'WITHSCORES') end
  return heads[set][1], tonumber(heads[set][2])
end

-- The sets that fit one kind of jobs stand in line as a heap: the one whose first has the lowest score, less the bonus
-- of the set, is first; of equals the first of its sets.
local function ahead(one, other)
  if one.value ~= other.value then return one.value < other.value end
  return one.nth < other.nth
end

local function sink(line, at)
  while true do
    local first = at
    for child = 2 * at, 2 * at + 1 do
      if line[child] and ahead(line[child], line[first]) then first = child end
    end
    if first == at then return end
    line[at], line[first] = line[first], line[at]
    at = first
  end
end

local function line_of(kind)
  if kind.line then return kind.line end
  local line = {}
  for i, set in ipairs(kind.sets) do
    local id, score = head_of(set)
    local bonus = kind.bonuses[i]
    if id then line[#line + 1] = {set = set, nth = i, bonus = bonus, value = score - bonus} end
  end
  for at = math.floor(#line / 2), 1, -1 do sink(line, at) end
  kind.line = line
  return line
end

-- The first of all that wait in these sets, and its set. Those of a set may be gone since it was put in line, for
-- another kind of jobs: what is left of it stands further behind.
local function first_of(line)
  while line[1] do
    local place = line[1]
    local id, score = head_of(place.set)
    if id and score - place.bonus == place.value then return id, place.set end
    if id then
      place.value = score - place.bonus
    else
      line[1] = line[#line]
      line[#line] = nil
    end
    sink(line, 1)
  end
end

local woken, rounds = 0, 0

local function woken_for(id, kind)
  local parked = unpark(id)
  if not parked then return false end
  redis.call('SET', WOKEN_FOR .. id, kind.name, 'PX', WOKEN_TTL)
  redis.call('LPUSH', KEYS[3], parked.envelope)
  woken = woken + 1
  return true
end

-- Each round ends it, or clears away one that waits no more.
local function wake_one(kind)
  local line = line_of(kind)
  while rounds < ROUNDS_MAX do
    local id, set = first_of(line)
    if not id then return end
    rounds = rounds + 1
    redis.call('ZREM', sets[set], id)
    heads[set] = nil
    if woken_for(id, kind) then return end
  end
end

-- Where a claim waits, by its record. That begins with it, and is up to 20 KB long; as others have written it, it may
-- stand elsewhere.
local function parked_in(record)
  local first = record and string.match(record, '^{"parked_in": (".-[^\\\\]"), ')
  local is_json, said = pcall(cjson.decode, '[' .. (first or '') .. ']')
  if first and is_json then return said[1] end
  local parked = parked_claim(record)
  return parked and parked.parked_in
end

-- Which claims of an heir wait, and where, those first whose waits end first: each looked at once, as it is needed.
local claims = {}
local function claims_of(heir)
  claims[heir] = claims[heir] or {ids = redis.call('ZRANGE', WAITING_OF .. heir, 0, HEIRS_MAX - 1), looked = 0}
  return claims[heir]
end

local function claim_at(found, at)
  while #found < at and found.looked < #found.ids do
    found.looked = found.looked + 1
    rounds = rounds + 1
    local id = found.ids[found.looked]
    local set = parked_in(redis.call('HGET', KEYS[1], id))
    if set then found[#found + 1] = {id = id, parked_in = set} end
  end
  return found[at]
end

-- The first of these that waits in one of the sets that fit, if it waits still.
local function wake_heir(kind)
  if not kind.fits then
    kind.fits, kind.at = {}, 0
    for _, set in ipairs(kind.sets) do kind.fits[sets[set]] = true end
  end
  local found = claims_of(kind.heir)
  while true do
    local claim = claim_at(found, kind.at + 1)
    if not claim then return end
    kind.at = kind.at + 1
    if kind.fits[claim.parked_in] and woken_for(claim.id, kind) then return end
  end
end

for number, nth in ipairs(jobs) do
  local kind = kinds[nth]
  if rounds >= ROUNDS_MAX and not claims[kind.heir] then return {woken, number - 1} end
  if kind.heir == '' then wake_one(kind) else wake_heir(kind) end
end
return {woken, #jobs}
"""
)

_RECHECK = Script(
    UNPARK
    + """
-- KEYS: 1 waiting, 2 their ends, 3 the intake of claims.  ARGV: what `_question` says of the claims, and their ids
local sets, kinds, claims = unpack(cjson.decode(ARGV[1]))

local there = {}
local function is_there(key)
  if there[key] == nil then there[key] = redis.call('EXISTS', key) == 1 end
  return there[key]
end

local function one_of(kind)
  if kind.some == nil then
    kind.some = false
    for _, set in ipairs(kind.sets) do
      if is_there(sets[set]) then
        kind.some = true
        break
      end
    end
  end
  return kind.some
end

for number, kind in ipairs(claims) do
  if one_of(kinds[kind]) then
    local parked = unpark(ARGV[number + 1])
    if parked then redis.call('LPUSH', KEYS[3], parked.envelope) end
  end
end
"""
)
_KEYS = (WAITING, WAIT_ENDS, intake_key("claims"))


class _Kind(Value, frozen=True):
    """Jobs, or claims, that the same sets fit, by their numbers from 1."""

    sets: Sequence[int]
    bonuses: Sequence[int]
    """How far ahead those stand who are in each."""
    name: str
    """Of the set of the jobs."""
    heir: str
    """The one factory whose claims may have them. Empty: any."""


class _Fitting(Value, frozen=True):
    """The sets that fit one kind, by their keys."""

    keys: Sequence[str]
    bonuses: Sequence[int] = ()
    name: str = ""


def wake(connection: Redis, ready: Sequence[tuple[str, str]], *, known: KnownOffers) -> int:
    """Send a waiter to the front for each job that became ready, known by its queue and the name of its set.

    It is the one that suits the job best, of equals the oldest. Of a job that is kept for a factory it is one of that
    factory's own, the one whose wait ends first. Returns how many were woken. `known`: what those offer who wait, as
    far as it was read before.
    """
    if not ready:
        return 0
    lines = known.lines(connection, [queue for queue, _ in ready])
    fitting = {(queue, name): _awaiting(queue, name, lines[queue]) for queue, name in dict.fromkeys(ready)}
    woken = 0
    for part in _parts([wants for wants in ready if fitting[wants].keys], fitting):
        left = part
        while left:
            now_woken, looked = cast(list[int], _WAKE.run(connection, _KEYS, [_question(left, fitting)]))
            woken += now_woken
            left = left[looked:]
    return woken


def recheck(connection: Redis, parked: Sequence[Claim]) -> None:
    """Look once more after parking: a job that came, or was handed over, just before has found nobody to wake."""
    if not parked:
        return
    names = index.sets_of(connection, index.READY, [claim.body.queue for claim in parked])
    sets = {queue: [each for each in map(JobSet.named, there) if each is not None] for queue, there in names.items()}
    heirs = {queue: {each.heir for each in there} for queue, there in sets.items()}
    kinds = [
        (
            claim.body.queue,
            claim.factory_id if claim.factory_id in heirs[claim.body.queue] else "",  # as any other
            canonical(claim.body.offers),
        )
        for claim in parked
    ]
    fitting = {kind: _serving(*kind, sets[kind[0]]) for kind in dict.fromkeys(kinds)}
    left = list(parked)
    for part in _parts(kinds, fitting):
        claims, left = left[: len(part)], left[len(part) :]
        arguments: list[Argument] = [_question(part, fitting), *map(claim_id, claims)]
        _RECHECK.run(connection, _KEYS, arguments)


def pass_on(connection: Redis, woken: Sequence[tuple[Claim, Collection[str]]], *, known: KnownOffers) -> None:
    """Wake another for each job that one of these was woken for, and has left there.

    Each with the sets of the jobs it has had: one of those it was woken for is as good as any other of the same set.
    """
    if not woken:
        return
    with connection.pipeline(transaction=False) as pipe:
        for claim, _ in woken:
            pipe.getdel(WOKEN_FOR + claim_id(claim))
        texts = cast(list[bytes | None], pipe.execute())
    left = [
        (claim.body.queue, name)
        for (claim, got), text in zip(woken, texts, strict=True)
        if text is not None and (name := index.text_of(text)) is not None and name not in got
    ]
    if not left:
        return
    with connection.pipeline(transaction=False) as pipe:
        for queue, name in left:
            pipe.exists(index.members_key(index.READY, queue, name))
        there = pipe.execute()
    wake(connection, [wants for wants, some in zip(left, there, strict=True) if some], known=known)


def _awaiting(queue: str, name: str, lines: Sequence[Line]) -> _Fitting:
    found = parked_sets.awaiting(index.terms_of(name), lines)
    keys = [index.members_key(index.PARKED, queue, line) for line, _ in found]
    # More than a claim can have waited: one that meets more is ahead of every one that meets less.
    return _Fitting(keys, [(WAIT_MS_MAX + 1) * met for _, met in found], name)


def _serving(queue: str, heir: str, offers: tuple[str, ...], sets: Iterable[JobSet]) -> _Fitting:
    found = index.serving(offers, sets, factory_id=heir)
    return _Fitting([index.members_key(index.READY, queue, name) for name in found])


class _Part(Generic[Kind]):
    """What one call is to look for, in order."""

    def __init__(self) -> None:
        self.wanted: list[Kind] = []
        self._kinds: set[Kind] = set()
        self._sets: set[str] = set()
        self._looks = 0
        self._bytes = 0

    def takes(self, kind: Kind, keys: Sequence[str]) -> bool:
        """Add one more for which these sets fit, unless it is too much."""
        new_keys = [] if kind in self._kinds else keys
        looks = self._looks + len(new_keys)
        size = self._bytes + sum(len(key) for key in new_keys if key not in self._sets)
        if self.wanted and (len(self.wanted) >= AT_ONCE or looks > LOOKS_MAX or size > BYTES_MAX):
            return False
        self.wanted.append(kind)
        self._kinds.add(kind)
        self._sets.update(new_keys)
        self._looks, self._bytes = looks, size
        return True


def _parts(wanted: Iterable[Kind], fitting: Mapping[Kind, _Fitting]) -> Iterator[list[Kind]]:
    """As many as one call is to look for, in order."""
    part = _Part[Kind]()
    for kind in wanted:
        if not part.takes(kind, fitting[kind].keys):
            yield part.wanted
            part = _Part()
            part.takes(kind, fitting[kind].keys)
    if part.wanted:
        yield part.wanted


def _question(wanted: Sequence[Kind], fitting: Mapping[Kind, _Fitting]) -> bytes:
    """The sets, each kind by those that fit it, and the kinds that are looked for, in order: all by numbers from 1."""
    sets: dict[str, int] = {}
    kinds: dict[Kind, int] = {}
    stated: list[_Kind] = []
    for kind in wanted:
        if kind not in kinds:
            kinds[kind] = len(kinds) + 1
            of_kind = fitting[kind]
            numbers = [sets.setdefault(key, len(sets) + 1) for key in of_kind.keys]
            stated.append(_Kind(numbers, of_kind.bonuses, of_kind.name, index.heir_of(of_kind.name)))
    return msgspec.json.encode((list(sets), stated, [kinds[kind] for kind in wanted]))
