"""Which jobs the ready index offers in some queues: a hint, for whoever can't look at all that is ready."""

from collections.abc import Sequence
from itertools import chain, islice
from typing import cast

from redis import Redis

from broker.index import LANE, READY, heir_of, members_key, names, sets_key

SETS_MAX = 64
"""Sets of terms that are looked at, of all queues together; and lanes of these."""


def offered_jobs(connection: Redis, queues: Sequence[str], *, at_most: int) -> list[str]:
    """Up to so many jobs that are kept for nobody: of each set of terms those that come first, and of as many sets of
    each queue.
    """
    with connection.pipeline(transaction=False) as pipe:
        for queue in queues:
            pipe.smembers(sets_key(READY, queue))
        sets = cast(list[set[bytes]], pipe.execute())
        of_each = max(1, SETS_MAX // max(1, len(queues)))
        keys = [
            members_key(READY, queue, text)
            for queue, found in zip(queues, sets, strict=True)
            for text in [name for name in names(found) if not heir_of(name)][:of_each]
        ]
        for key in keys:
            pipe.zrange(key, 0, at_most - 1)
        members = [names(found) for found in cast(list[list[bytes]], pipe.execute())]
        lanes = [
            LANE + key + entry for key, found in zip(keys, members, strict=True) for entry in found if _lane(entry)
        ]
        for lane in lanes[:SETS_MAX]:
            pipe.zrange(lane, 0, at_most - 1)
        in_lanes = [names(found) for found in cast(list[list[bytes]], pipe.execute())]
    return list(islice((each for each in chain(*members, *in_lanes) if not _lane(each)), at_most))


def _lane(entry: str) -> bool:
    return entry.startswith("~")
