"""Waiting claims whose clients do not read stand behind those whose clients do: the dead cost their time once.

A client that waits blocks on its reply channel: what is pushed there is gone before the server runs the next command,
and a notice that is still there then was read by nobody. Looked at only when a grant was left unread.
"""

from collections.abc import Iterable
from math import isfinite
from typing import Any, cast

from redis import Redis

from broker import index, replies
from broker.claim_next import WAITING, Parked

BEHIND = 1 << 50
"""Added to the arrival of a claim that stands behind: above every arrival and every bonus."""
LOOK_MAX = 1_024
"""Claims of one set of offers looked at in one go, from the front of the line."""
STEP = 64
"""Looked at together, until somebody is found who reads."""
LOOKS = 2
"""A client that has just been handed something reads again within a moment."""
NOTICE = replies.encode({"v": 1, "request_id": None, "notice": "present"})
"""Nothing is to be done about it."""


def stand_behind(connection: Redis, queues: Iterable[str]) -> int:
    """Of the claims that wait at these queues, put those behind that nobody reads for; how many there were.

    One that is read for after all comes back to its place when it is looked at again.
    """
    reads: dict[str, bool] = {}
    silent = 0
    for queue in sorted(set(queues)):
        for terms in index.names(cast(set[bytes], connection.smembers(index.sets_key(index.PARKED, queue)))):
            silent += _one_line(connection, index.members_key(index.PARKED, queue, terms), reads)
    return silent


def _one_line(connection: Redis, key: str, reads: dict[str, bool]) -> int:
    """Look at one line from its front, up to the first who reads. `reads`: what is known of channels by now."""
    line = cast(list[tuple[bytes, float]], connection.zrange(key, 0, LOOK_MAX - 1, withscores=True))
    silent = 0
    for start in range(0, len(line), STEP):
        page = line[start : start + STEP]
        # Its types know text only.
        ids = cast(list[str], [request_id for request_id, _ in page])
        records = cast(list[bytes | None], connection.hmget(WAITING, ids))
        parked = [None if record is None else Parked.read(record) for record in records]
        channels = ["" if each is None else each.reply_key for each in parked]
        _look(connection, sorted(set(channels) - {""}), reads)
        with connection.pipeline(transaction=False) as pipe:
            for (request_id, score), channel in zip(page, channels, strict=True):
                arrived = score % BEHIND if isfinite(score) else 0
                place = arrived + (0 if reads.get(channel) else BEHIND)
                silent += place > score
                if place != score:
                    pipe.zadd(key, {request_id: place}, xx=True)
            pipe.execute()
        if any(reads.get(channel) for channel in channels):
            break
    return silent


def _look(connection: Redis, channels: Iterable[str], reads: dict[str, bool]) -> None:
    """Find out who blocks on these channels. One command after the other: within a transaction nobody is served."""
    for _ in range(LOOKS):
        unread = [channel for channel in channels if not reads.get(channel)]
        with connection.pipeline(transaction=False) as pipe:
            for channel in unread:
                pipe.rpush(channel, NOTICE)
                pipe.pexpire(channel, replies.REPLY_TTL_MS)
                # Not pipe.lrem: the element is bytes, and its types know text only.
                pipe.execute_command("LREM", channel, -1, NOTICE)  # type: ignore[no-untyped-call]
            results: list[Any] = pipe.execute(raise_on_error=False)  # a channel of another type is nobody's
        reads.update(zip(unread, (taken_off == 0 for taken_off in results[2::3]), strict=True))
