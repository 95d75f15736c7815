"""Wakes claims that wait: anybody's for a job that anybody may have, and those of one factory, which are settled again
where it was drained or a job is kept for it.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import cast

from redis import Redis

from broker import claim_next, index, waiting
from broker.claim_next import ANSWER_TTL_MS, UNPARK, WAIT_ENDS, WAITING, WOKEN_FOR
from broker.queues import intake_key
from broker.scripts import Script

_AT_ONCE = 64
"""Claims of one round trip."""
_CLAIMS_MAX = 10_000
"""Of one factory. More than may wait at once: who has named others there is nobody of ours."""

_RECALL = Script(
    UNPARK
    + f"local WOKEN_FOR, WOKEN_TTL = '{WOKEN_FOR}', {ANSWER_TTL_MS}"
    + """
-- KEYS: 1 waiting, 2 their ends, 3 the intake of claims.  ARGV: request id, and the set of the job that it is woken for
local parked = unpark(ARGV[1])
if not parked then return 0 end
if ARGV[2] then redis.call('SET', WOKEN_FOR .. ARGV[1], ARGV[2], 'PX', WOKEN_TTL) end
redis.call('LPUSH', KEYS[3], parked.envelope)
return 1
"""
)


def wake(connection: Redis, ready: Sequence[tuple[str, str]]) -> int:
    """Send a waiter to the front for each job that became ready, known by its queue and the name of its set.

    Of a job that is kept for a factory one of that factory's own. Returns how many were woken.
    """
    kept = [wants for wants in ready if index.heir_of(wants[1])]
    if not kept:
        return claim_next.wake(connection, ready)
    anybodys = [wants for wants in ready if not index.heir_of(wants[1])]
    return claim_next.wake(connection, anybodys) + _wake_heirs(connection, kept)


def recall(connection: Redis, factory_id: str) -> int:
    """Settle all claims again that wait for this factory; how many there were."""
    return sum(_recalled(connection, ids) for ids in _waiting(connection, factory_id))


def _wake_heirs(connection: Redis, kept: Sequence[tuple[str, str]]) -> int:
    woken = 0
    sets = claim_next.sets_of(connection, index.PARKED, [queue for queue, _ in kept])
    for (queue, name), count in Counter(kept).items():
        fitting = [offers for offers, _ in index.awaiting(index.terms_of(name), sets[queue])]
        keys = [index.members_key(index.PARKED, queue, offers) for offers in fitting]
        left = count
        for ids in _waiting(connection, index.heir_of(name)) if keys else ():
            left -= _recalled(connection, _parked_in(connection, ids, keys)[:left], name)
            if not left:
                break
        woken += count - left
    return woken


def _waiting(connection: Redis, factory_id: str) -> Iterator[Sequence[bytes]]:
    """The claims that wait for a factory, those first whose waits end first."""
    ids = cast(list[bytes], connection.zrange(waiting.OF + factory_id, 0, _CLAIMS_MAX - 1))
    for start in range(0, len(ids), _AT_ONCE):
        yield ids[start : start + _AT_ONCE]


def _parked_in(connection: Redis, ids: Sequence[bytes], keys: Sequence[str]) -> list[bytes]:
    """Those of these claims that wait in one of these sets. Their records, of up to 20 KB each, are not read."""
    with connection.pipeline(transaction=False) as pipe:
        for key in keys:
            pipe.zmscore(key, cast(list[str], ids))  # the client's hints know only text
        shown = cast(list[list[float | None]], pipe.execute())
    return [claim_id for claim_id, scores in zip(ids, zip(*shown, strict=True), strict=True) if set(scores) != {None}]


def _recalled(connection: Redis, ids: Sequence[bytes], *name: str) -> int:
    """How many of these claims waited still, and are settled again. `name`: the set of the jobs they are woken for."""
    if not ids:
        return 0
    keys = [WAITING, WAIT_ENDS, intake_key("claims")]
    return sum(map(int, _RECALL.run_many(connection, [(keys, [claim_id, *name]) for claim_id in ids])))
