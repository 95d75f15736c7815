"""Takes requests into a worker's hands: one Lua call moves them to an in-flight list and brings payloads and time."""

from collections.abc import Callable, Iterable, Sequence
from itertools import takewhile
from typing import Any

from redis import Redis
from redis.exceptions import NoScriptError

from broker.clock import AnchoredClock, Clock, RedisClock, Steady, monotonic_ms
from broker.queues import QUEUES, Wire, intake_key, rq_queue_key
from broker.scripts import FREES, Argument, Script
from datastore.value import Value
from workers.entries import ID_BYTES_MAX, INTAKE_BYTES_MAX, RQ_DATA_BYTES_MAX, Entry, entries
from workers.inflight import WIRES, arrivals_key, slot_key
from workers.lean_redis import post

WORKERS = "broker:workers"
"""Sorted set: worker by its last heartbeat, broker time."""
DEAD = "broker:dead"
"""List of requests that can't be settled, each with a reason."""
DEAD_MAX = 1_000
STALE_MS = 500
"""Broker time that may have lain unread for longer is asked for again: a process that was stopped between the answer
and its reading must not judge by it (I7)."""

FRESH_TRIES = 3
BATCH_BYTES = 48 * 1024
"""What a batch holds before the next request is left for another. Sixty-four claims are half of it; five messages of a
hundred leases, five hundred pieces of work, fill it. Whatever comes while a batch is settled waits for it."""
HOLDERS = "leases"
"""The queue of those who hold leases, which are served before any others."""


class Hand(Value, frozen=True):
    """What one call brought, and broker time, as of that call."""

    entries: tuple[Entry, ...]
    clock: Clock
    longest: int = 0
    """Requests in the longest list that a `take` left behind."""
    holders: int = 0
    """How many of these requests are from the queue of those who hold leases."""


def brought(
    connection: Redis, reply: Any, slot: int, *, asked_ms: int, steady_ms: Steady, insist: bool = False
) -> Hand:
    """What the answer of a script brought into `slot` that was sent at `asked_ms` of this host's monotonic clock."""
    now_ms, taken, *counts = reply
    clock: Clock = AnchoredClock(int(now_ms), steady_ms)
    for _ in range(FRESH_TRIES if taken else 0):
        if steady_ms() - asked_ms <= STALE_MS:
            break
        asked_ms = steady_ms()
        clock = AnchoredClock(RedisClock(connection).now_ms(), steady_ms)
    return Hand(entries(taken, slot=slot, insist=insist), clock, *map(int, counts))


COMMON = f"""
-- KEYS[2] and KEYS[3]: the slot of this call. Each further list is rq's if its number is even, else the intake's.
local DATA_MAX, INTAKE_MAX, ID_MAX = {RQ_DATA_BYTES_MAX}, {INTAKE_BYTES_MAX}, {ID_BYTES_MAX}
local DEAD, DEAD_MAX = '{DEAD}', {DEAD_MAX}
local RQ, INTAKE = 2, 3
local STATUS = {{created=1, queued=1, started=1, deferred=1, scheduled=1, finished=1, failed=1, stopped=1, canceled=1}}
local t = redis.call('TIME')
local now = t[1] * 1000 + math.floor(t[2] / 1000)
local taken, room = {{}}, math.huge

-- What can't even be carried: too long for a worker to read. It is cut and buried here, without what could be a token,
-- also one in UTF-16 or in escapes. More is looked at than is kept, since half of one counts too.
local LOOK, KEEP = 16384, 512
local function masked(text)
  return (string.gsub(text, '%x+', function(run) if #run >= 32 then return string.rep('*', #run) end end))
end
local function bury(value, reason)
  local cut = masked((string.gsub(string.sub(value, 1, LOOK), '[%z\\\\]', '')))
  cut = masked((string.gsub(cut, 'u00(%x%x)', function(code) return string.char(tonumber(code, 16)) end)))
  local keep = #value > LOOK and math.max(0, math.min(KEEP, #cut - 64)) or KEEP
  cut = string.gsub(string.sub(cut, 1, keep), '[^%w%p ]', '?')
  redis.call('LPUSH', DEAD, cjson.encode({{reason = reason, at_ms = now, entry = cut}}))
  redis.call('LTRIM', DEAD, 0, DEAD_MAX - 1)
end

local function refuse(id, problem) taken[#taken + 1] = {{id, '', '', problem}} end

local function rq_entry(id)
  local key = 'rq:job:' .. id
  local size = redis.pcall('HSTRLEN', key, 'data')
  if type(size) ~= 'number' then return refuse(id, 'no such rq job: its key is of another type') end
  if size > DATA_MAX then return refuse(id, 'oversized: the data of the rq job is too long') end
  if size == 0 then return refuse(id, 'no such rq job: it expired or was settled before') end
  room = room - size
  local f = redis.call('HMGET', key, 'data', 'result_ttl', 'status', 'success_callback_name',
    'failure_callback_name', 'stopped_callback_name', 'webhooks')
  local problem = ''
  for i = 4, 6 do if f[i] and f[i] ~= '' then problem = 'callback: a request must not carry one' end end
  if f[7] and f[7] ~= '' then problem = 'webhook: a request must not carry one' end
  if f[3] and f[3] ~= '' and not STATUS[f[3]] then problem = 'unknown status of the rq job' end
  taken[#taken + 1] = {{id, f[1], f[2] or '', problem}}
end

-- Into the slot, and along with the answer; how many. What is beyond the room goes back to where it stood.
local function accept(values, source, wire)
  local fitting, max = {{}}, wire == RQ and ID_MAX or INTAKE_MAX
  for i, value in ipairs(values) do
    if room <= 0 then
      for last = #values, i, -1 do redis.call('LPUSH', source, values[last]) end
      break
    elseif #value > max then
      bury(value, 'oversized: an entry of ' .. #value .. ' bytes on ' .. source)
    else
      fitting[#fitting + 1] = value
      if wire == RQ then
        rq_entry(value)
      else
        taken[#taken + 1] = value
        room = room - #value
      end
    end
  end
  if #fitting > 0 then redis.call('RPUSH', KEYS[wire], unpack(fitting)) end
  return #fitting
end
"""

TAKE = Script(
    COMMON
    + """
-- KEYS: 1 workers, 2 and 3 own slot, 4.. rq queue and intake in turn, and last what a blocked wait has moved
-- ARGV: worker, at most, GT where the worker lives for sure, NX where it may have been stopped, the first list without
-- requests of holders, how many others at most, of how many bytes together, and of a wait its wire
redis.call('ZADD', KEYS[1], ARGV[3], now, ARGV[1])
local lists = #KEYS
if ARGV[7] then
  local moved = redis.call('LPOP', KEYS[lists], 1000)
  if moved then accept(moved, KEYS[lists], ARGV[7] == 'rq' and RQ or INTAKE) end
  lists = lists - 1
end
local moved, others, holders = #taken, tonumber(ARGV[4]), 0
local left = ARGV[2] - moved
room = tonumber(ARGV[6])
-- Behind a wait there is mostly nothing else.
if ARGV[7] and redis.call('EXISTS', unpack(KEYS, 4, lists)) == 0 then return {now, taken, 0, 0} end
local longest = 0
for i = 4, lists do
  local waiting = redis.pcall('LLEN', KEYS[i])
  if i == others then holders, left = #taken - moved, math.min(left, ARGV[5]) end
  if type(waiting) == 'number' and waiting > 0 then
    if left > 0 and room > 0 then
      left = left - accept(redis.call('LPOP', KEYS[i], left), KEYS[i], i % 2 == 0 and RQ or INTAKE)
      waiting = redis.call('LLEN', KEYS[i])
    end
    longest = math.max(longest, waiting)
  end
end
return {now, taken, longest, holders}
"""
)


_TAKE_ANYWAY = Script(FREES + TAKE.text)


def sources(queues: Iterable[str] = QUEUES) -> list[tuple[Wire, str]]:
    """The lists to take from, by priority: for each queue what rq clients enqueue, then the intake."""
    lists: list[tuple[Wire, str]] = []
    for queue in queues:
        lists += [("rq", rq_queue_key(queue)), ("intake", intake_key(queue))]
    return lists


class Taker:
    """How one worker takes: the call, and what its answer means."""

    def __init__(
        self, connection: Redis, worker: str, queues: Sequence[str], *, steady_ms: Steady = monotonic_ms
    ) -> None:
        self._connection = connection
        self._worker = worker
        self._sources = [key for _, key in sources(queues)]
        holders = takewhile(lambda queue: queue == HOLDERS, queues)
        self._others_from = 4 + len(sources(holders))
        self._steady_ms = steady_ms

    def call(
        self, slot: int, *, at_most: int, others: int, moved: Wire | None = None
    ) -> tuple[list[str], list[Argument]]:
        """Keys and arguments of the call that brings up to `at_most` requests, `others` of them not from holders.

        It is the worker's heartbeat, too; not where it stands behind a blocked wait, and brings what that has `moved`.
        """
        keys = [WORKERS, *(slot_key(self._worker, wire, slot) for wire in WIRES), *self._sources]
        if moved is None:
            return keys, [self._worker, at_most, "GT", self._others_from, others, BATCH_BYTES]
        arguments: list[Argument] = [self._worker, at_most, "NX", self._others_from, others, BATCH_BYTES, moved]
        return [*keys, arrivals_key(self._worker, moved)], arguments

    def ask(self, slot: int, *, at_most: int, others: int) -> Callable[[], Hand]:
        """Post that call. What is returned waits for its answer."""
        keys, arguments = self.call(slot, at_most=at_most, others=others)
        asked_ms = self._steady_ms()
        with self._connection.pipeline(transaction=False) as pipe:
            pipe.evalsha(TAKE.sha, len(keys), *keys, *arguments)
            replies = post(pipe)

        def hand() -> Hand:
            [reply] = replies()
            if isinstance(reply, NoScriptError):
                reply = TAKE.run(self._connection, keys, arguments)
            elif isinstance(reply, Exception):
                raise reply
            return self.hand(reply, slot, asked_ms=asked_ms)

        return hand

    def take_anyway(self, slot: int, *, at_most: int) -> Hand:
        """What holders ask, and nobody else, though Redis is full: taking it moves it within Redis."""
        keys, arguments = self.call(slot, at_most=at_most, others=0)
        asked_ms = self._steady_ms()
        reply = _TAKE_ANYWAY.run(self._connection, keys, arguments)
        hand = self.hand(reply, slot, asked_ms=asked_ms)
        return Hand(hand.entries, hand.clock)

    def hand(self, reply: Any, slot: int, *, asked_ms: int) -> Hand:
        """What the call brought that was sent at `asked_ms` of this host's monotonic clock."""
        return brought(self._connection, reply, slot, asked_ms=asked_ms, steady_ms=self._steady_ms)
