"""Sends the waiting claims of one factory back to be settled: it was drained, or a job was handed to it."""

from typing import cast

from redis import Redis

from broker.claim_next import UNPARK, WAIT_ENDS, WAITING, Parked
from broker.queues import intake_key
from broker.scripts import Script

_SCAN_COUNT = 1_000

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


def recall(connection: Redis, factory_id: str, *, queue: str | None = None, at_most: int | None = None) -> int:
    """Settle the claims again that wait for this factory, of one queue or all; how many there were.

    Goes through all waiting claims: for what an operator does now and then, not for every claim.
    """
    recalled = 0
    for claim_id, record in connection.hscan_iter(WAITING, count=_SCAN_COUNT):
        parked = Parked.read(cast(bytes, record))
        if parked is None:  # it waits for nothing
            connection.hdel(WAITING, claim_id)
            continue
        if parked.factory_id != factory_id or queue not in (None, parked.queue):
            continue
        recalled += int(_RECALL.run(connection, [WAITING, WAIT_ENDS, intake_key("claims")], [claim_id]))
        if recalled == at_most:
            break
    return recalled
