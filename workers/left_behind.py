"""What dead workers left in their in-flight lists is taken over by others; and who looks after it, and when."""

from collections.abc import Sequence
from typing import cast

from redis import Redis

from broker.clock import Steady, monotonic_ms
from broker.scripts import FREES, STANDS, Script
from workers.inflight import PREFIX, SLOTS, TAKEN_OVER, WIRES, lists, slot_key
from workers.taking import COMMON, WORKERS, Hand, brought

TURN = "broker:turn"
"""The worker that looks after others now; gone by itself."""
TURN_MS = 900
"""A little less than workers leave between two looks, so that one looks at each of their ticks."""
FORGET_MS = 3_600_000
"""A worker unheard of for an hour is forgotten. Until then its lists are looked at: a stopped process may still be
handed a request on a connection that is open."""
OVER_MS = 30_000
"""A session that is over is forgotten after this much, six times as long as Redis holds a wait. What is brought even
later makes it known again."""
LOOK_MAX = 256
"""Of the dead that one call looks at, some 10 ms of Redis. Of more than that the next call looks at the next ones."""
LOOKED = "broker:workers:looked"
"""How many of the dead, those who died first before others, come before the ones that are next to be looked at."""

DEATHS = "broker:deaths:"
"""Before the digest of an entry: how many workers have had it alone in hand since others died with it."""
DEATHS_MAX = 5
"""After so many it is a dead letter: they died of it, or else of what lasts hardly longer than five take-overs."""
DEATHS_TTL_MS = 3_600_000

_MOVE = """
-- What stands in these lists goes into the slot of this call, up to `left`. Nearly always that is nothing. Not what is
-- too long for a worker to read: a blocked wait moves it unseen, and a worker may be lost before it has it looked at.
-- Nor what is `deadly`, where that is asked.
local function move(lists, wire, deadly)
  if redis.call('EXISTS', unpack(lists)) == 0 then return end
  for _, list in ipairs(lists) do
    while left > 0 do
      local value = redis.pcall('LMOVE', list, KEYS[wire], 'LEFT', 'RIGHT')
      if type(value) ~= 'string' then break end  -- empty, or no list: then no request stands there
      left = left - 1
      if #value > (wire == RQ and ID_MAX or INTAKE_MAX) then
        redis.call('RPOP', KEYS[wire])
        bury(value, 'oversized: an entry of ' .. #value .. ' bytes on ' .. list)
      elseif deadly and deadly(value) then
        redis.call('RPOP', KEYS[wire])
        local data = wire == RQ and redis.pcall('HGET', 'rq:job:' .. value, 'data')
        bury(type(data) == 'string' and data or value, DEADLY)
        if wire == RQ then redis.call('DEL', 'rq:job:' .. value) end
      elseif wire == RQ then
        rq_entry(value)
      else
        taken[#taken + 1] = value
      end
    end
  end
end
"""

_TAKE_OVER = Script(
    COMMON
    + f"local DEATHS, DEATHS_MAX, DEATHS_TTL = '{DEATHS}', {DEATHS_MAX}, {DEATHS_TTL_MS}\n"
    + f"local LOOK_MAX, LOOKED, LOOKED_TTL = {LOOK_MAX}, '{LOOKED}', {FORGET_MS}\n"
    + f"local DEADLY = 'deadly: {DEATHS_MAX} workers were lost with nothing else in hand'"
    + """
-- KEYS: 1 workers, 2 and 3 own slot.  ARGV: worker, dead after ms, forget after ms, at most, how many slots there are
redis.call('ZADD', KEYS[1], now, ARGV[1])
-- Who was heard of in the future was so before broker time was set back. From now on it is taken for dead in time.
for _, other in ipairs(redis.call('ZRANGEBYSCORE', KEYS[1], '(' .. now, '+inf', 'LIMIT', 0, LOOK_MAX)) do
  redis.call('ZADD', KEYS[1], now, other)
end
local left = tonumber(ARGV[4])
"""
    + _MOVE
    + """
-- Nobody else is served meanwhile, so only some of many are looked at: the same ones again for as long as that brings
-- anything, then the next ones, whoever looks.
local count, from = redis.call('ZCOUNT', KEYS[1], '-inf', now - ARGV[2]), 0
if count > LOOK_MAX then
  from = math.floor((tonumber(redis.pcall('GET', LOOKED)) or 0) % count)
  if not (from >= 0 and from < count) then from = 0 end  -- no number: nobody of ours has written it
end
local dead = redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', now - ARGV[2], 'LIMIT', from, LOOK_MAX)
local function arrived(other, wire) return 'broker:inflight:' .. other .. (wire == RQ and ':rq' or ':intake') end
for _, other in ipairs(dead) do
  for wire = RQ, INTAKE do
    local theirs = {arrived(other, wire)}
    for slot = 1, ARGV[5] - 1 do theirs[slot + 1] = theirs[1] .. slot end
    move(theirs, wire)
  end
end
if #taken > 0 or left == 0 then return {now, taken} end
-- What had been taken over by one that is dead as well (slot 0) may be what it has died of: each comes alone, and last.
local function deadly(value)
  local key = DEATHS .. redis.sha1hex(value)
  local deaths = tonumber(redis.pcall('GET', key)) or 0
  redis.call('SET', key, deaths + 1, 'PX', DEATHS_TTL)
  return deaths >= DEATHS_MAX
end
left = 1
local looked = from + #dead
for _, other in ipairs(dead) do
  for wire = RQ, INTAKE do
    if left > 0 then move({arrived(other, wire) .. 0}, wire, deadly) end
  end
  if left > 0 and tonumber(redis.call('ZSCORE', KEYS[1], other)) < now - ARGV[3] then
    redis.call('ZREM', KEYS[1], other)
    looked = looked - 1
  end
end
if count > LOOK_MAX and left > 0 then redis.call('SET', LOOKED, looked, 'PX', LOOKED_TTL) end
return {now, taken}
"""
)

_OWN = Script(
    FREES  # what it moves stands in Redis already
    + COMMON
    + """
-- KEYS: 1 workers, 2 and 3 own slot, then every list of the sessions before, rq's and the intake's in turn
-- ARGV: this session, forget after ms, where a session is over, then those before
redis.call('ZADD', KEYS[1], now, ARGV[1])
-- Dead from now on: what their lost connections still bring is looked for at the next look.
for i = 4, #ARGV do redis.call('ZADD', KEYS[1], 'XX', now - ARGV[2] + ARGV[3], ARGV[i]) end
local left = math.huge
"""
    + _MOVE
    + """
local mine = {[RQ] = {}, [INTAKE] = {}}
for i = 4, #KEYS do table.insert(mine[i % 2 == 0 and RQ or INTAKE], KEYS[i]) end
for wire = RQ, INTAKE do move(mine[wire], wire) end
return {now, taken}
"""
)

_LEAVE = Script(
    """
-- KEYS: 1 workers, then every list of this worker's.  ARGV: worker
for i = 2, #KEYS do if redis.call('EXISTS', KEYS[i]) == 1 then return end end
redis.call('ZREM', KEYS[1], ARGV[1])
"""
)

_TURN = Script(
    STANDS
    + """
-- KEYS: 1 whose turn it is.  ARGV: worker, how long it lasts
if stands(KEYS[1], ARGV[2]) then return false end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
local t = redis.call('TIME')
return t[1] * 1000 + math.floor(t[2] / 1000)
"""
)


def take_over(
    connection: Redis, worker: str, *, dead_after_ms: int, at_most: int, steady_ms: Steady = monotonic_ms
) -> Hand:
    """Bring what workers unheard of for `dead_after_ms` left behind, into this worker's hands, up to `at_most` of it.

    What several of them had in hand, one after the other, comes when nothing else is left, and one by one.
    """
    keys = [WORKERS, *(slot_key(worker, wire, TAKEN_OVER) for wire in WIRES)]
    asked_ms = steady_ms()
    reply = _TAKE_OVER.run(connection, keys, [worker, dead_after_ms, FORGET_MS, at_most, SLOTS])
    return brought(connection, reply, TAKEN_OVER, asked_ms=asked_ms, steady_ms=steady_ms, insist=True)


def own_leftovers(connection: Redis, worker: str, *, before: Sequence[str], steady_ms: Steady = monotonic_ms) -> Hand:
    """Begin a session: what this worker had in hand in those `before`, which are over.

    What lost connections of theirs bring afterwards is taken over as from a dead worker; so is what this call brings
    where its answer is lost.
    """
    mine = [slot_key(worker, wire, TAKEN_OVER) for wire in WIRES]
    keys = [WORKERS, *mine, *(key for session in before for key in lists(session))]
    asked_ms = steady_ms()
    reply = _OWN.run(connection, keys, [worker, FORGET_MS, OVER_MS, *before])
    return brought(connection, reply, TAKEN_OVER, asked_ms=asked_ms, steady_ms=steady_ms, insist=True)


def adopt(connection: Redis, now_ms: int) -> None:
    """Have the requests of workers that nobody knows of taken over.

    Redis had lost everything, a request was moved into a worker's hands, and that one died before it was heard of
    again. A worker that lives is heard of before it is taken for dead.
    """
    for key in connection.scan_iter(match=f"{PREFIX}*", count=1_000):
        worker = cast(bytes, key).removeprefix(PREFIX.encode()).rpartition(b":")[0]
        connection.zadd(WORKERS, {worker: now_ms}, nx=True)


def turn(connection: Redis, worker: str) -> int | None:
    """Broker time, where it is this worker's turn to look after what nobody has in hand; else None.

    Only so that an idle fleet does it once, not once for each worker: two at a time do no harm.
    """
    now_ms = _TURN.run(connection, [TURN], [worker, TURN_MS])
    return None if now_ms is None else int(now_ms)


def leave(connection: Redis, worker: str) -> None:
    """A worker that ends with nothing in hand is forgotten at once; any other is taken over from."""
    _LEAVE.run(connection, [WORKERS, *lists(worker)], [worker])
