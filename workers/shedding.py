"""What a queue can't hold is taken from its end and answered at once: `throttled`, nothing done, come back later."""

from collections.abc import Sequence

from redis import Redis

from broker.answers import Answer, Reason, put_off
from broker.clock import Steady
from broker.entropy import Entropy
from broker.scripts import Script
from workers import taking
from workers.inflight import TAKEN_OVER, WIRES, slot_key
from workers.taking import WORKERS, Hand, brought, sources

SHED_MAX = 512
"""Requests turned away between two batches: eight for each one settled, and renewals wait some 20 ms for it."""
RETRY_AFTER_MS = 2_500
"""What is turned away comes back after this time and up to as much again."""
NEVER_SHED = frozenset({"leases"})
"""A holder must be heard: there are never more of its requests than leases and their ends."""

_SURPLUS = Script(
    taking.COMMON
    + """
-- KEYS: 1 workers, 2 and 3 own slot, 4.. rq queue and intake in turn
-- ARGV: worker, what a list may hold, at most
redis.call('ZADD', KEYS[1], now, ARGV[1])
local left = tonumber(ARGV[3])
for i = 4, #KEYS do
  local waiting = redis.pcall('LLEN', KEYS[i])
  local surplus = type(waiting) == 'number' and math.min(left, waiting - ARGV[2]) or 0
  if surplus > 0 then
    left = left - surplus
    accept(redis.call('RPOP', KEYS[i], surplus), KEYS[i], i % 2 == 0 and RQ or INTAKE)
  end
end
return {now, taken}
"""
)


def take_surplus(connection: Redis, worker: str, queues: Sequence[str], *, queue_max: int, steady_ms: Steady) -> Hand:
    """Bring what came last to lists of more than `queue_max` into this worker's hands, up to `SHED_MAX`."""
    lists = sources(queue for queue in queues if queue not in NEVER_SHED)
    keys = [WORKERS, *(slot_key(worker, wire, TAKEN_OVER) for wire in WIRES), *(key for _, key in lists)]
    asked_ms = steady_ms()
    reply = _SURPLUS.run(connection, keys, [worker, queue_max, SHED_MAX])
    return brought(connection, reply, TAKEN_OVER, asked_ms=asked_ms, steady_ms=steady_ms)


def overloaded(entropy: Entropy, *, resend: bool) -> Answer:
    """What a request is told that was not looked at."""
    return put_off(Reason.OVERLOADED, entropy, resend=resend, after_ms=RETRY_AFTER_MS)
