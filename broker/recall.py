"""Sends waiting claims of one factory back to be settled: it registered, or was drained or removed."""

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from typing import cast

from redis import Redis

from broker import waiting
from broker.claim_next import UNPARK, WAIT_ENDS, WAITING
from broker.index import encode_terms
from broker.queues import intake_key
from broker.scripts import Script

_AT_ONCE = 64
"""Claims of one round trip."""
_CLAIMS_MAX = 10_000
"""Of one factory. More than may wait at once: who has named others there is nobody of ours."""

RECALLED = "broker:recalled:"
"""Before the name of a factory: the start and the offers for which its claims were called back last."""
RECALLED_TTL_MS = 86_400_000
"""Without it they are called back once more."""

_RECALL = Script(
    UNPARK
    + """
-- KEYS: 1 waiting, 2 their ends, 3 the intake of claims.  ARGV: request id
local parked = unpark(ARGV[1])
if not parked then return 0 end
redis.call('RPUSH', KEYS[3], parked.envelope)
return 1
"""
)


def recall(connection: Redis, factory_id: str) -> int:
    """Settle all claims again that wait for this factory; how many there were.

    They go behind what is queued: a factory may have a thousand, and others have a claim each.
    """
    connection.delete(RECALLED + factory_id)
    return _recalled(connection, waiting.OF + factory_id)


def recall_registered(connection: Redis, factory_id: str, start: str, offers: Iterable[str]) -> int:
    """Settle those again, behind others, whose lot changes as this start registers these offers; how many there were.

    All of them where another start registered last; where only the offers are others, those that name none. Where
    nothing has changed, none: what costs its sender a message must not cost others a thousand claims.
    """
    offered = hashlib.sha256(encode_terms(offers).encode()).hexdigest()
    now, key = f"{start} {offered}".encode(), RECALLED + factory_id
    last = cast(bytes | None, connection.get(key))
    if last == now:
        return 0
    same_start = last is not None and last.split(b" ")[0] == start.encode()
    recalled = _recalled(connection, (waiting.LED if same_start else waiting.OF) + factory_id)
    connection.set(key, now, px=RECALLED_TTL_MS)  # afterwards: who dies in between has said nothing
    return recalled


def _recalled(connection: Redis, key: str) -> int:
    """How many of the claims that are listed there waited still, and are settled again."""
    keys = [WAITING, WAIT_ENDS, intake_key("claims")]
    return sum(
        sum(map(int, _RECALL.run_many(connection, [(keys, [claim_id]) for claim_id in ids])))
        for ids in _waiting(connection, key)
    )


def _waiting(connection: Redis, key: str) -> Iterator[Sequence[bytes]]:
    """The claims of a factory that wait, as listed there, those first whose waits end first."""
    ids = cast(list[bytes], connection.zrange(key, 0, _CLAIMS_MAX - 1))
    for start in range(0, len(ids), _AT_ONCE):
        yield ids[start : start + _AT_ONCE]
