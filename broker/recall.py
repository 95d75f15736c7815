"""Sends all waiting claims of one factory back to be settled: it registered, or was drained or removed."""

from collections.abc import Iterator, Sequence
from typing import cast

from redis import Redis

from broker import waiting
from broker.claim_next import UNPARK, WAIT_ENDS, WAITING
from broker.queues import intake_key
from broker.scripts import Script

_AT_ONCE = 64
"""Claims of one round trip."""
_CLAIMS_MAX = 10_000
"""Of one factory. More than may wait at once: who has named others there is nobody of ours."""

_RECALL = Script(
    UNPARK
    + """
-- KEYS: 1 waiting, 2 their ends, 3 the intake of claims.  ARGV: request id
local parked = unpark(ARGV[1])
if not parked then return 0 end
redis.call('LPUSH', KEYS[3], parked.envelope)
return 1
"""
)


def recall(connection: Redis, factory_id: str) -> int:
    """Settle all claims again that wait for this factory; how many there were."""
    return sum(_recalled(connection, ids) for ids in _waiting(connection, factory_id))


def _waiting(connection: Redis, factory_id: str) -> Iterator[Sequence[bytes]]:
    """The claims that wait for a factory, those first whose waits end first."""
    ids = cast(list[bytes], connection.zrange(waiting.OF + factory_id, 0, _CLAIMS_MAX - 1))
    for start in range(0, len(ids), _AT_ONCE):
        yield ids[start : start + _AT_ONCE]


def _recalled(connection: Redis, ids: Sequence[bytes]) -> int:
    """How many of these claims waited still, and are settled again."""
    keys = [WAITING, WAIT_ENDS, intake_key("claims")]
    return sum(map(int, _RECALL.run_many(connection, [(keys, [claim_id]) for claim_id in ids])))
