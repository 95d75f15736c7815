"""Sends the waiting claims of one factory back to be settled: it was drained, or a job was handed to it."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import cast

from redis import Redis

from broker import waiting
from broker.claim_next import UNPARK, WAIT_ENDS, WAITING, Parked
from broker.index import Place
from broker.queues import intake_key
from broker.scripts import Script

_AT_ONCE = 64
"""Claims of one round trip: each may have 20 KB."""
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
    return sum(len(_recalled(connection, ids)) for ids in _waiting(connection, factory_id))


def recall_heirs(connection: Redis, places: Iterable[Place]) -> int:
    """For each job that is kept for a factory settle a waiting claim of its own again; how many there were."""
    heirs: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for place in places:
        if place.kept_for:
            heirs[place.kept_for][place.queue] += 1
    return sum(recall_some(connection, factory, queues) for factory, queues in heirs.items())


def recall_some(connection: Redis, factory_id: str, wanted: Mapping[str, int]) -> int:
    """Settle up to so many of each queue again; how many there were. Looks at each that waits for this factory once."""
    recalled = 0
    left = dict(wanted)
    for ids in _waiting(connection, factory_id):
        if not any(left.values()):
            break
        of_queues: dict[str, list[bytes]] = {queue: [] for queue in left}
        for claim_id, record in zip(ids, cast(list[bytes | None], connection.hmget(WAITING, ids)), strict=True):
            parked = None if record is None else Parked.read(record)
            if parked is not None and len(of_queues.get(parked.queue, ())) < left.get(parked.queue, 0):
                of_queues[parked.queue].append(claim_id)
        for queue, chosen in of_queues.items():
            done = len(_recalled(connection, chosen)) if chosen else 0
            left[queue] -= done
            recalled += done
    return recalled


def _waiting(connection: Redis, factory_id: str) -> Iterator[Sequence[bytes]]:
    """The claims that wait for a factory, those first whose waits end first."""
    ids = cast(list[bytes], connection.zrange(waiting.OF + factory_id, 0, _CLAIMS_MAX - 1))
    for start in range(0, len(ids), _AT_ONCE):
        yield ids[start : start + _AT_ONCE]


def _recalled(connection: Redis, ids: Sequence[bytes]) -> Sequence[bytes]:
    """Those of these claims that waited still."""
    keys = [WAITING, WAIT_ENDS, intake_key("claims")]
    said = _RECALL.run_many(connection, [(keys, [claim_id]) for claim_id in ids])
    return [claim_id for claim_id, waited in zip(ids, said, strict=True) if waited]
