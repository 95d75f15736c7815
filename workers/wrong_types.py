"""Hints of the wrong type, which somebody else has written: whoever meets one clears all of them away.

What was lost with them the sweep writes again, as after a loss of all of Redis. rq's own lists of workers go with
them.
"""

from collections.abc import Mapping, Sequence
from typing import cast

import structlog
from redis import Redis
from redis.exceptions import RedisError, ResponseError

from broker import claim_next, demand, events, families, index, lock_waits, owed, presence, replies, seen, waiting
from broker.queues import QUEUES, RQ_WORKERS, rq_workers_key
from broker.recall import RECALLED
from broker.scripts import Script
from workers import left_behind, one_store, owed_runs
from workers.taking import WORKERS

log = structlog.get_logger(__name__)

NAMED: Mapping[str, str] = {
    claim_next.WAITING: "hash",
    claim_next.WAIT_ENDS: "zset",
    demand.ASKED: "zset",
    events.STREAM: "stream",
    owed.OWED: "zset",
    owed_runs.LOOKED: "string",
    presence.UNREAD: "zset",
    seen.SEEN: "zset",
    one_store.SERVED: "string",
    WORKERS: "zset",
    lock_waits.TIMES: "zset",
}
"""Hints there is one of."""
FAMILIES: Mapping[str, str] = {
    claim_next.answer_key(""): "string",
    claim_next.mark_key(""): "string",
    claim_next.WOKEN_FOR: "string",
    families.children_key(""): "set",
    left_behind.DEATHS: "string",
    index.LANE: "zset",
    index.served_key(""): "zset",
    lock_waits.WAITS: "zset",
    replies.REPLY_PREFIX: "list",
    waiting.LED: "zset",
    waiting.OF: "zset",
    RECALLED: "string",
}
"""Hints there are many of, by how their names begin."""
REGISTRIES: Mapping[str, str] = dict.fromkeys((RQ_WORKERS, *map(rq_workers_key, QUEUES)), "set")
"""Where rq keeps which workers there are."""
_PAGE = 1_000

_CLEAR = Script(
    """
-- KEYS: 1 a hint.  ARGV: the type it should have
local type = redis.call('TYPE', KEYS[1]).ok
if type == 'none' or type == ARGV[1] then return 0 end
return redis.call('DEL', KEYS[1])
"""
)


def met(error: Exception) -> bool:
    """Whether this is what a command, or a script, says of a key of another type."""
    return isinstance(error, ResponseError) and "WRONGTYPE" in str(error)


def clear(connection: Redis) -> int:
    """Delete every hint of the wrong type; how many there were. What this user may not touch is left to others."""
    cleared, cursor = 0, 0
    try:
        cleared += _clear(connection, [key.encode() for key in REGISTRIES])
        while True:
            cursor, page = cast(tuple[int, list[bytes]], connection.scan(cursor, match="broker:*", count=_PAGE))
            cleared += _clear(connection, page)
            if cursor == 0:
                break
        if cleared:
            connection.delete(index.INDEXED)
    except RedisError as error:
        log.warning("hints_not_cleared", error=str(error))
    log.warning("hints_of_wrong_type", cleared=cleared)
    return cleared


def _clear(connection: Redis, keys: Sequence[bytes]) -> int:
    return sum(int(_CLEAR.run(connection, [key], [wanted])) for key, wanted in _wrong(connection, keys))


def _wrong(connection: Redis, keys: Sequence[bytes]) -> list[tuple[bytes, str]]:
    """Of these keys the hints that have a wrong type, and the one they should have."""
    hints = [(key, wanted) for key in keys if (wanted := right_type(key)) is not None]
    with connection.pipeline(transaction=False) as pipe:
        for key, _ in hints:
            pipe.type(key)
        found = pipe.execute(raise_on_error=False)
    return [hint for hint, kind in zip(hints, found, strict=True) if type(kind) is bytes and kind.decode() != hint[1]]


def right_type(key: bytes) -> str | None:
    """The type of a hint; None of what is no hint, or not known here."""
    name = key.decode(errors="replace")
    if (kind := NAMED.get(name) or REGISTRIES.get(name)) is not None:
        return kind
    if name.startswith((f"{index.READY}:", f"{index.PARKED}:")):
        if name.endswith(":texts") and ":in:" not in name:
            return "hash"
        return "set" if name.endswith(":sets") else "zset" if ":in:" in name else None
    return next((kind for prefix, kind in FAMILIES.items() if name.startswith(prefix)), None)
