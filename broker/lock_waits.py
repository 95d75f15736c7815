"""Hints for jobs that wait for a lock: out of the ready index while it is held, back in when it is given up.

Without this a hundred jobs of one lock would stand at the head of the index and hide every other.
"""

import json
from collections.abc import Iterable, Sequence
from typing import Any

from redis import Redis
from redis.client import Pipeline

from broker import index
from broker.documents import Job
from broker.settlement import Change
from broker.slots import slot_id, wants

RETURN_MAX = 16
"""Jobs that come back for one lock given up: usually the first gets it, and a shared lock may be had by many."""


def waits_key(key: str) -> str:
    """Jobs that wait for one slot, by their place in the ready index."""
    return f"broker:waits:{slot_id(key)}"


def wait(pipe: Pipeline, job: Job, key: str) -> None:
    """Add the commands that put a ready job aside until `key` is given up. The sweep brings it back in any case."""
    index.remove(pipe, index.READY, job.queue, job.requires, job.id)
    place: dict[str, Any] = {
        "id": job.id,
        "queue": job.queue,
        "requires": list(job.requires),
        "score": index.ready_score(job),
    }
    pipe.zadd(waits_key(key), {json.dumps(place): place["score"]})


def given_up(changes: Iterable[Change]) -> list[str]:
    """Keys of the slots whose holders' leases have just ended."""
    ended = [change for change in changes if change.before and change.before.lease and not change.after.lease]
    return sorted({want.key for change in ended for want in wants(change.after.locks)})


def bring_back(connection: Redis, keys: Sequence[str]) -> list[tuple[str, tuple[str, ...]]]:
    """Put the first jobs that wait for these slots into the ready index again; the queue and requirements of each."""
    if not keys:
        return []
    with connection.pipeline(transaction=False) as pipe:
        for key in keys:
            pipe.zpopmin(waits_key(key), RETURN_MAX)
        places: list[dict[str, Any]] = [json.loads(text) for found in pipe.execute() for text, _ in found]
        for place in places:
            index.add(pipe, index.READY, place["queue"], place["requires"], place["id"], place["score"])
        pipe.execute()
    return [(place["queue"], tuple(place["requires"])) for place in places]
