"""Hints for what waits at a slot, a lock or a limit: aside while nobody is admitted, back when somebody is.

Without this a hundred jobs of one lock would stand at the head of the index and hide every other.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import cast

import msgspec
from redis import Redis
from redis.client import Pipeline

from broker import index
from broker.documents import Job
from broker.index import Place
from broker.limits import limit_key, limit_name, limited_queue
from broker.settlement import Change, Wait
from broker.slots import slot_id, wants
from datastore.decoding import UNREADABLE, from_json
from datastore.value import Value

RETURN_MAX = 16
"""Jobs that come back for one lock given up: usually the first gets it, and a shared lock may be had by many."""
UNIT_RETURNS = 3
"""Jobs that come back for one unit of a limit: the first may have met another obstacle meanwhile."""
DUE_MAX = 128
"""Keys that are looked at in one call, of some milliseconds each at the most."""
RETRY_MS = 1_000
"""When those who wait for a rate are let through once more, unless they have been told a later time."""
WAITS = "broker:waits:"
"""Before the id of a slot: the jobs that wait for it."""
WAITS_TTL_MS = 172_800_000
"""Since the last job came that waits there; who waits longer is offered again by the next sweep. A job that is over by
another way stays here, and its slot may never be given up again: anybody may name new locks."""
TIMES = f"{WAITS}times"
"""Sorted set: keys of slots by the broker time at which they admit somebody again."""


class _Waiter(Value, frozen=True):
    """What stands for a job among those that wait: always the same, whatever the time."""

    places: tuple[Place, ...]
    """Wherever it may stand, as `Place.each_of` has it."""
    kept_until_ms: int = 0
    """Until then in the first of them, afterwards in the last."""

    @classmethod
    def of(cls, job: Job, *, step_ms: int) -> "_Waiter":
        return cls(Place.each_of(job, step_ms=step_ms), 0 if job.reserved is None else job.reserved.until_ms)

    def place(self, now_ms: int) -> Place | None:
        """Where it belongs now; None where nobody of ours has written it."""
        return self.places[0 if now_ms < self.kept_until_ms else -1] if self.places else None


def waits_key(key: str) -> str:
    """Jobs that wait for one slot, by their place in the ready index."""
    return f"{WAITS}{slot_id(key)}"


def entry(job: Job, *, step_ms: int) -> str:
    """What stands for a job among those that wait."""
    return msgspec.json.encode(_Waiter.of(job, step_ms=step_ms)).decode()


def wait(pipe: Pipeline, met: Wait, *, step_ms: int) -> None:
    """Add the commands that put a ready job aside, and note when to look again."""
    if met.until_ms is not None:
        pipe.zadd(TIMES, {met.key: met.until_ms})
    if met.job is None:
        return
    places = Place.each_of(met.job, step_ms=step_ms)
    for place in places:
        index.withdraw(pipe, place)
    key = waits_key(met.key)
    pipe.zadd(key, {entry(met.job, step_ms=step_ms): places[0].score})
    pipe.pexpire(key, WAITS_TTL_MS)


def given_up(changes: Iterable[Change]) -> list[str]:
    """Keys of the slots whose holders' leases have just ended; a limit once for each of its units."""
    found: list[str] = []
    for change in changes:
        if change.before is not None and change.before.lease is not None and change.after.lease is None:
            found += {want.key for want in wants(change.after.locks)}
            found += map(limit_key, change.before.lease.limits)
    return sorted(found)


def bring_back(connection: Redis, keys: Sequence[str], *, now_ms: int) -> list[tuple[str, str]]:
    """Let through what waits for these slots, each named once for each job that may be had.

    Jobs that stand aside are put into the ready index again. Returns queue and terms of these, and of the
    ready jobs of a queue whose limit is among them: claims may wait for them.
    """
    if not keys:
        return []
    counted = Counter(keys)
    with connection.pipeline(transaction=False) as pipe:
        for key, count in counted.items():
            pipe.zpopmin(waits_key(key), RETURN_MAX if limit_name(key) is None else count + UNIT_RETURNS)
        places = [place for found in pipe.execute() for text, _ in found if (place := _place(text, now_ms)) is not None]
        for place in places:
            index.offer(pipe, place)
        pipe.execute()
    back = [place.wants for place in places]
    for key, count in counted.items():
        queue = limited_queue(key)
        back += [] if queue is None else index.ready_terms(connection, queue, at_most=count)
    return back


def _place(text: bytes, now_ms: int) -> Place | None:
    """Where a job belongs now; None where nobody of ours has written that down."""
    try:
        return from_json(text, _Waiter).place(now_ms)
    except UNREADABLE:
        return None


def due(connection: Redis, now_ms: int) -> list[str]:
    """Keys whose time has come, each noted for another look: whoever waits still and is refused tells a better time.

    What is no text is no key, and goes.
    """
    found = cast(list[bytes], connection.zrangebyscore(TIMES, "-inf", now_ms, start=0, num=DUE_MAX))
    keys = index.names(found)
    if keys:
        connection.zadd(TIMES, dict.fromkeys(keys, now_ms + RETRY_MS))
    if len(keys) < len(found):
        connection.zrem(TIMES, *(key for key in found if index.text_of(key) is None))
    return keys


def forget(connection: Redis, key: str) -> None:
    """Nobody waits for this one any more."""
    connection.zrem(TIMES, key)
