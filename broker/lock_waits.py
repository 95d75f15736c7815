"""Hints for what waits at a slot, a lock or a limit: aside while nobody is admitted, back when somebody is.

Without this a hundred jobs of one lock would stand at the head of the index and hide every other.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import cast

import msgspec
from redis import Redis
from redis.client import Pipeline

from broker import index
from broker.documents import Job
from broker.index import Place
from broker.limits import limit_key, limit_name, limited_queue
from broker.settlement import Change, Wait
from broker.slots import SHARING, Mode, modes_of, slot_id, wants
from datastore.decoding import UNREADABLE, from_json
from datastore.value import Value

RETURN_MAX = 16
"""Jobs of each mode that come back for one lock given up: usually the first gets it, and where many share it, each of
them brings the next."""
NEXT_MAX = 2
"""Jobs that come back for one that was granted and leaves room to others: one in its place, and one more, so that it
goes the faster the more of them are had. For fewer nobody would come where the first of them suits nobody who asks."""
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
LOCK_MODES = (Mode.EXCLUSIVE, *SHARING)
NO_ROOM: Mapping[tuple[str, Mode], int] = {}
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


def waits_key(key: str, mode: Mode = Mode.EXCLUSIVE) -> str:
    """Jobs that wait for one slot in this mode, by their place in the ready index. Apart, so that where some may share
    it those come back who may, and none that they keep out.
    """
    return f"{WAITS}{slot_id(key)}:{mode}" if mode in SHARING else f"{WAITS}{slot_id(key)}"


def mode_of(key: str, job: Job) -> Mode:
    """The mode in which this job waits for one slot."""
    return modes_of(job.locks)[key] if limit_name(key) is None else Mode.UNIT


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
    key = waits_key(met.key, mode_of(met.key, met.job))
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


def room_left(changes: Iterable[Change]) -> dict[tuple[str, Mode], int]:
    """How many more may come through now, by slot and mode, where grants have left room to others."""
    grants: Counter[tuple[str, Mode]] = Counter()
    left: dict[tuple[str, Mode], int] = {}
    for room in (room for change in changes for room in change.room):
        slot = room.key, room.mode
        grants[slot] += 1
        left[slot] = min(room.count, left.get(slot, room.count))
    return {slot: min(NEXT_MAX * count, left[slot]) for slot, count in grants.items()}


def bring_back(
    connection: Redis, keys: Sequence[str], *, room: Mapping[tuple[str, Mode], int] = NO_ROOM, now_ms: int
) -> list[tuple[str, str]]:
    """Let through what waits for these slots, each named once for each job that may be had, and what may have `room`.

    Jobs that stand aside are put into the ready index again. Returns queue and terms of these, and of the
    ready jobs of a queue whose limit is among them: claims may wait for them.
    """
    if not (keys or room):
        return []
    counted = Counter(keys)
    portions = Counter({waits_key(*slot): count for slot, count in room.items()})
    for key, count in counted.items():
        if limit_name(key) is None:
            portions.update({waits_key(key, mode): RETURN_MAX for mode in LOCK_MODES})
        else:
            portions[waits_key(key)] += count + UNIT_RETURNS
    with connection.pipeline(transaction=False) as pipe:
        for line, count in portions.items():
            pipe.zpopmin(line, count)
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
