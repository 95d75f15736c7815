"""A Redis that is full (`maxmemory`) refuses whatever needs memory: also what takes requests, and what answers them.

Then what queues is dropped until there is room, as a Redis that is lost loses it: its senders hear nothing and send it
again, under the same id. Answered it might need more memory than it did.
"""

from collections.abc import Iterable, Sequence
from typing import Any

import structlog
from redis import Redis
from redis.exceptions import OutOfMemoryError, ResponseError

from broker.clock import Steady, monotonic_ms
from broker.scripts import FREES, Script
from workers.shedding import NEVER_SHED
from workers.taking import sources

log = structlog.get_logger(__name__)

ROOM = 0.9
"""Of its memory Redis is to have in use at most, before requests are settled again."""
BUDGET_MS = 500
"""For so long room is made at a time: who holds leases is heard in between."""
AT_ONCE = 1_000
"""Requests dropped by one call, and no more than an eighth of what stands there: it is asked again soon enough."""
KEPT = 64
"""Of each queue, a batch: it is not what fills Redis, and is settled as soon as replies are read."""
_BOUNDS = frozenset({"PEXPIRE", "EXPIRE", "LTRIM", "ZREMRANGEBYRANK"})
"""Commands that bound what those before them have made. They are carried out in a full Redis, too: on nothing."""
_ANYWAY = FREES + "return redis.call(unpack(ARGV))"

_DROP = Script(
    """
-- KEYS: rq queue and intake in turn.  ARGV: at most, and what each list keeps
-- What came last to the longest list. Nothing here needs memory.
local longest, most = 0, tonumber(ARGV[2])
for i, key in ipairs(KEYS) do
  local waiting = redis.pcall('LLEN', key)
  if type(waiting) == 'number' and waiting > most then longest, most = i, waiting end
end
if longest == 0 then return 0 end
local count = math.min(ARGV[1], math.ceil((most - ARGV[2]) / 8))
if longest % 2 == 1 then
  for _, id in ipairs(redis.call('RPOP', KEYS[longest], count)) do redis.call('DEL', 'rq:job:' .. id) end
else
  redis.call('LTRIM', KEYS[longest], 0, -count - 1)  -- whole requests: to look at them would take as much memory again
end
return count
"""
)


def met(error: object) -> bool:
    """Whether this is what a command, or a script, is refused with."""
    # Before Redis 7 a script's error begins with what it was about.
    return isinstance(error, OutOfMemoryError) or (isinstance(error, ResponseError) and "-OOM " in str(error))


def make_room(connection: Redis, queues: Iterable[str], *, steady_ms: Steady = monotonic_ms) -> int:
    """Drop what queues, but for what holders of leases ask, until Redis has room again, or `BUDGET_MS` are over.

    How many requests. Whoever calls it does so again where Redis still refuses something.
    """
    lists = [key for _, key in sources(queue for queue in queues if queue not in NEVER_SHED)]
    until_ms, count = steady_ms() + BUDGET_MS, 0
    while _full(connection) and steady_ms() < until_ms:
        dropped = int(_DROP.run(connection, lists, [AT_ONCE, KEPT]))
        if not dropped:
            break
        count += dropped
    log.warning("redis_full", requests_dropped=count)
    return count


def _full(connection: Redis) -> bool:
    memory: dict[str, int] = connection.info("memory")
    used = memory["used_memory"] - memory.get("mem_not_counted_for_evict", 0)
    return 0 < memory.get("maxmemory", 0) * ROOM < used  # a server that does not say is left alone


def insist(connection: Redis, commands: Sequence[Any], replies: list[Any]) -> list[Any]:
    """Carry out those of a pipeline's `commands` that Redis had no room for; all replies, raw.

    For what was settled: its end would take it out of the hands of its worker and leave its sender without an answer.
    """
    if not any(map(met, replies)):
        return replies
    names = [arguments[0] for arguments, _ in commands]
    refused = [position for position, reply in enumerate(replies) if met(reply) or names[position] in _BOUNDS]
    with connection.pipeline(transaction=False) as pipe:
        for position in refused:
            pipe.execute_command(*_insisting(*commands[position][0]))  # type: ignore[no-untyped-call]  # redis-py's
        again = dict(zip(refused, pipe.execute(raise_on_error=False), strict=True))
    return [again.get(position, reply) for position, reply in enumerate(replies)]


def _insisting(name: str, *rest: Any) -> Sequence[Any]:
    return ("EVAL", FREES + rest[0], *rest[1:]) if name == "EVAL" else ("EVAL", _ANYWAY, 0, name, *rest)
