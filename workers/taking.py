"""Takes requests into a worker's hands: one Lua call moves them to its in-flight list and brings payloads and time."""

import re
import zlib
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Literal, TypeAlias, cast

import pydantic_core
from redis import Redis
from redis.exceptions import NoScriptError

from broker.clock import AnchoredClock, Clock, Steady, monotonic_ms
from broker.json_names import stands_twice
from broker.messages import ENVELOPE_BYTES_MAX
from broker.parsing import without_tokens
from broker.queues import QUEUES, SETTLE, intake_key, rq_queue_key
from broker.scripts import Argument, Script
from datastore.value import Value
from workers.lean_redis import post

WORKERS = "broker:workers"
"""Sorted set: worker by its last heartbeat, broker time."""
DEAD = "broker:dead"
"""List of requests that can't be settled, each with a reason."""
DEAD_MAX = 1_000
TURN = "broker:turn"
"""The worker that looks after others now; gone by itself."""
TURN_MS = 900
"""A little less than workers leave between two looks, so that one looks at each of their ticks."""
FORGET_MS = 3_600_000
"""A worker unheard of for an hour is forgotten. Until then its lists are looked at: a stopped process may still be
handed a request on a connection that is open."""
RQ_DATA_BYTES_MAX = ENVELOPE_BYTES_MAX + 1_024
ID_BYTES_MAX = 256

Wire: TypeAlias = Literal["rq", "intake"]


class NotOurs(Exception):
    """An entry that is not a request this broker settles. It goes to the dead-letter list."""


class Entry(Value, frozen=True):
    """One entry of an in-flight list, as taken."""

    wire: Wire
    key: bytes
    """What stands in the list: the id of the rq job, or the envelope itself."""
    data: bytes
    """The rq job's data, or the envelope."""
    result_ttl_s: int = 0
    """How long a plain rq client wants its result kept; 0: not at all."""
    problem: str = ""
    """Why it must not be settled, where that is known already."""
    insist: bool = False
    """Taken over from a dead worker, or from this one's own past."""

    def envelope(self) -> bytes:
        """The text of the request in it, for the door.

        Raises:
          NotOurs: another function, a callback, a compressed bomb: nothing for this broker.
        """
        if self.problem:
            raise NotOurs(self.problem)
        return self.data if self.wire == "intake" else _argument(self.data)


class Hand(Value, frozen=True):
    """What one call brought, and broker time, as of that call."""

    entries: tuple[Entry, ...]
    clock: Clock
    longest: int = 0
    """Requests in the longest list that a `take` left behind."""


def inflight_key(worker: str, wire: Wire) -> str:
    """The requests a worker has in hand and has not answered."""
    return f"broker:inflight:{worker}:{wire}"


COMMON = f"""
-- KEYS[2] and KEYS[3]: own in-flight rq and intake. Each further list is rq's if its number is even, else the intake.
local DATA_MAX, ID_MAX, DEAD, DEAD_MAX = {RQ_DATA_BYTES_MAX}, {ID_BYTES_MAX}, '{DEAD}', {DEAD_MAX}
local STATUS = {{created=1, queued=1, started=1, deferred=1, scheduled=1, finished=1, failed=1, stopped=1, canceled=1}}
local t = redis.call('TIME')
local now = t[1] * 1000 + math.floor(t[2] / 1000)
local taken = {{}}

-- What can't even be carried: too long for a worker to read. It is cut and buried here, without what could be a token;
-- 64 characters more are looked at, since half of one counts too.
local function bury(value, reason)
  local cut = string.gsub(string.sub(value, 1, 576), '%x+', function(run) if #run >= 32 then return '***' end end)
  cut = string.gsub(string.sub(cut, 1, 512), '[^%w%p ]', '?')
  redis.call('LPUSH', DEAD, cjson.encode({{reason = reason, at_ms = now, entry = cut}}))
  redis.call('LTRIM', DEAD, 0, DEAD_MAX - 1)
end

local function rq_entry(id)
  local key = 'rq:job:' .. id
  if redis.call('TYPE', key).ok ~= 'hash' then
    taken[#taken + 1] = {{'rq', id, '', '', 'no such rq job: it expired or was settled before'}}
    return
  end
  if redis.call('HSTRLEN', key, 'data') > DATA_MAX then
    taken[#taken + 1] = {{'rq', id, '', '', 'oversized: the data of the rq job is too long'}}
    return
  end
  local f = redis.call('HMGET', key, 'data', 'result_ttl', 'status', 'success_callback_name',
    'failure_callback_name', 'stopped_callback_name', 'webhooks')
  local problem = ''
  for i = 4, 6 do if f[i] and f[i] ~= '' then problem = 'callback: a request must not carry one' end end
  if f[7] and f[7] ~= '' then problem = 'webhook: a request must not carry one' end
  if f[3] and f[3] ~= '' and not STATUS[f[3]] then problem = 'unknown status of the rq job' end
  taken[#taken + 1] = {{'rq', id, f[1] or '', f[2] or '', problem}}
end

-- Into the in-flight list, and along with the answer.
local function accept(value, list)
  local rq = list % 2 == 0
  if #value > (rq and ID_MAX or DATA_MAX) then
    bury(value, 'oversized: an entry of ' .. #value .. ' bytes on ' .. KEYS[list])
    return 0
  end
  redis.call('RPUSH', rq and KEYS[2] or KEYS[3], value)
  if rq then rq_entry(value) else taken[#taken + 1] = {{'intake', value, value, '', ''}} end
  return 1
end
"""

_TAKE = Script(
    COMMON
    + """
-- KEYS: 1 workers, 2 own in-flight rq, 3 own in-flight intake, 4.. rq queue and intake in turn, by priority
-- ARGV: worker, at most, then rq job ids that are in flight already
redis.call('ZADD', KEYS[1], now, ARGV[1])
for i = 3, #ARGV do rq_entry(ARGV[i]) end
local left = ARGV[2] - (#ARGV - 2)
local longest = 0
for i = 4, #KEYS do
  if redis.call('TYPE', KEYS[i]).ok == 'list' then
    if left > 0 then
      for _, value in ipairs(redis.call('LPOP', KEYS[i], left)) do left = left - accept(value, i) end
    end
    longest = math.max(longest, redis.call('LLEN', KEYS[i]))
  end
end
return {now, taken, longest}
"""
)

_TAKE_OVER = Script(
    COMMON
    + """
-- KEYS: 1 workers, 2 own in-flight rq, 3 own in-flight intake.  ARGV: worker, dead after ms, forget after ms, at most
redis.call('ZADD', KEYS[1], now, ARGV[1])
local left = tonumber(ARGV[4])
for _, other in ipairs(redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', now - ARGV[2])) do
  for wire = 2, 3 do
    local theirs = 'broker:inflight:' .. other .. (wire == 2 and ':rq' or ':intake')
    while left > 0 do
      local value = redis.call('LMOVE', theirs, KEYS[wire], 'LEFT', 'RIGHT')
      if not value then break end
      left = left - 1
      if wire == 2 then rq_entry(value) else taken[#taken + 1] = {'intake', value, value, '', ''} end
    end
  end
  if left > 0 and tonumber(redis.call('ZSCORE', KEYS[1], other)) < now - ARGV[3] then
    redis.call('ZREM', KEYS[1], other)
  end
end
return {now, taken}
"""
)

_OWN = Script(
    COMMON
    + """
-- KEYS: 1 own in-flight rq, 2 own in-flight intake
for _, id in ipairs(redis.call('LRANGE', KEYS[1], 0, -1)) do rq_entry(id) end
for _, text in ipairs(redis.call('LRANGE', KEYS[2], 0, -1)) do taken[#taken + 1] = {'intake', text, text, '', ''} end
return {now, taken}
"""
)


_LEAVE = Script(
    """
-- KEYS: 1 workers, 2 own in-flight rq, 3 own in-flight intake.  ARGV: worker
if redis.call('EXISTS', KEYS[2], KEYS[3]) == 0 then redis.call('ZREM', KEYS[1], ARGV[1]) end
"""
)


def sources(queues: Iterable[str] = QUEUES) -> list[tuple[Wire, str]]:
    """The lists to take from, by priority: for each queue what rq clients enqueue, then the intake."""
    lists: list[tuple[Wire, str]] = []
    for queue in queues:
        lists += [("rq", rq_queue_key(queue)), ("intake", intake_key(queue))]
    return lists


def ask(
    connection: Redis,
    worker: str,
    queues: Sequence[str],
    *,
    at_most: int,
    woken: Sequence[Entry] = (),
    steady_ms: Steady = monotonic_ms,
) -> Callable[[], Hand]:
    """Post the call that brings up to `at_most` requests, the `woken` ones (in flight already) included.

    What is returned waits for it. Broker time counts from there, so that it is never ahead: it is behind by as long as
    the answer has lain unread, but never before the requests in it arrived. Also the worker's heartbeat.
    """
    keys = [WORKERS, inflight_key(worker, "rq"), inflight_key(worker, "intake"), *(key for _, key in sources(queues))]
    rq_ids = [entry.key for entry in woken if entry.wire == "rq"]
    carried = [entry for entry in woken if entry.wire == "intake"]
    arguments: list[Argument] = [worker, max(0, at_most - len(carried)), *rq_ids]
    with connection.pipeline(transaction=False) as pipe:
        pipe.evalsha(_TAKE.sha, len(keys), *keys, *arguments)
        replies = post(pipe)

    def hand() -> Hand:
        [reply] = replies(False)
        if isinstance(reply, NoScriptError):
            reply = _TAKE.run(connection, keys, arguments)
        elif isinstance(reply, Exception):
            raise reply
        now_ms, taken, longest = reply
        return Hand((*carried, *entries(taken, insist=False)), AnchoredClock(int(now_ms), steady_ms), int(longest))

    return hand


def take_over(
    connection: Redis, worker: str, *, dead_after_ms: int, at_most: int, steady_ms: Steady = monotonic_ms
) -> Hand:
    """Bring what workers unheard of for `dead_after_ms` left behind, into this worker's hands."""
    keys = [WORKERS, inflight_key(worker, "rq"), inflight_key(worker, "intake")]
    now_ms, taken = _TAKE_OVER.run(connection, keys, [worker, dead_after_ms, FORGET_MS, at_most])
    return Hand(tuple(entries(taken, insist=True)), AnchoredClock(int(now_ms), steady_ms))


def own_leftovers(connection: Redis, worker: str, *, steady_ms: Steady = monotonic_ms) -> Hand:
    """What this worker had in hand when Redis went away under it."""
    keys = [inflight_key(worker, "rq"), inflight_key(worker, "intake")]
    now_ms, taken = _OWN.run(connection, keys, [])
    return Hand(tuple(entries(taken, insist=True)), AnchoredClock(int(now_ms), steady_ms))


def adopt(connection: Redis, now_ms: int) -> None:
    """Have the requests of workers that nobody knows of taken over.

    Redis had lost everything, a request was moved into a worker's hands, and that one died before it was heard of
    again. A worker that lives is heard of before it is taken for dead.
    """
    for key in connection.scan_iter(match="broker:inflight:*", count=1_000):
        worker = cast(bytes, key).removeprefix(b"broker:inflight:").rpartition(b":")[0]
        connection.zadd(WORKERS, {worker: now_ms}, nx=True)


_TURN = Script(
    """
-- KEYS: 1 whose turn it is.  ARGV: worker, how long it lasts
if not redis.call('SET', KEYS[1], ARGV[1], 'NX', 'PX', ARGV[2]) then return false end
local t = redis.call('TIME')
return t[1] * 1000 + math.floor(t[2] / 1000)
"""
)


def turn(connection: Redis, worker: str) -> int | None:
    """Broker time, where it is this worker's turn to look after what nobody has in hand; else None.

    Only so that an idle fleet does it once, not once for each worker: two at a time do no harm.
    """
    now_ms = _TURN.run(connection, [TURN], [worker, TURN_MS])
    return None if now_ms is None else int(now_ms)


def leave(connection: Redis, worker: str) -> None:
    """A worker that ends with nothing in hand is forgotten at once; any other is taken over from."""
    keys = [WORKERS, inflight_key(worker, "rq"), inflight_key(worker, "intake")]
    _LEAVE.run(connection, keys, [worker])


def entries(taken: Iterable[Sequence[Any]], *, insist: bool) -> list[Entry]:
    """What a script has put into `taken`."""
    return [
        Entry(
            wire="rq" if wire == b"rq" else "intake",
            key=key,
            data=data,
            result_ttl_s=_seconds(result_ttl),
            problem=problem.decode(),
            insist=insist,
        )
        for wire, key, data, result_ttl, problem in taken
    ]


def _seconds(text: bytes) -> int:
    """rq writes an empty field where nothing was asked, which means its default of 500 s."""
    if not text:
        return 500
    return int(text) if re.fullmatch(rb"-?\d{1,9}", text) else 0


_HEAD, _TAIL = f'["{SETTLE}",null,['.encode(), b"],{}]"


def _argument(data: bytes) -> bytes:
    """The envelope in an rq job's data: the one argument of the one function.

    Raises:
      NotOurs: anything else.
    """
    if not data.startswith(b"["):
        data = _inflated(data)
    if data.startswith(_HEAD) and data.endswith(_TAIL):  # as our own clients write it: no second parse
        return data[len(_HEAD) : -len(_TAIL)]
    try:
        call = pydantic_core.from_json(data)
    except ValueError as error:
        raise NotOurs("the data of the rq job is not JSON: use serializer=JSONSerializer") from error
    if stands_twice(data, names=0):
        raise NotOurs("a name stands twice in one object of the data of the rq job")
    match call:
        case [str(function), None, [argument], dict(options)] if function == SETTLE and not options:
            return pydantic_core.to_json(argument)
        case [str(function), *_] if function != SETTLE:
            raise NotOurs(f"foreign function {without_tokens(function)[:100]!r}: only {SETTLE} is run here")
        case _:
            raise NotOurs(f"{SETTLE} takes one argument, the envelope")


def _inflated(data: bytes) -> bytes:
    """What rq compressed, as long as it stays within the limit of an envelope."""
    inflater = zlib.decompressobj()
    try:
        text = inflater.decompress(data, RQ_DATA_BYTES_MAX)
    except zlib.error as error:
        raise NotOurs("the data of the rq job is neither JSON nor compressed JSON") from error
    if inflater.unconsumed_tail or not inflater.eof:
        raise NotOurs("oversized: the data of the rq job unpacks to more than an envelope may have")
    return text


__all__ = ["Entry", "Hand", "NotOurs", "ask", "inflight_key", "own_leftovers", "sources", "take_over"]
