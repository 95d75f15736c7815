"""Jobs that have ended without a record of their last run: a hint in Redis, kept for the sweep, which writes it.

Whoever ended such a job is told to repeat the request, and that writes it too; but they may be gone.
"""

from collections.abc import Iterable
from typing import cast

from redis import Redis
from redis.client import Pipeline

from broker.answers import Word
from broker.batch import Settled
from broker.index import text_of
from broker.messages import Cancel, Complete, Fail, HandOver, Release, Revoke
from broker.settlement import Change

OWED = "broker:owed"
"""Sorted set: job by when it ended, or when its run could not be written last; broker time."""
OWED_MAX = 10_000
"""The first to end goes first, where a store takes jobs and no runs for long."""
AT_ONCE = 500
_ENDS = (Complete, Fail, Release, HandOver, Cancel, Revoke)
"""Requests that end a lease, and with it perhaps a job."""


def note(pipe: Pipeline, changes: Iterable[Change]) -> None:
    """Add the commands that keep the jobs whose last runs could not be written."""
    owed = {each.after.id: each.after.updated_ms for each in changes if not each.recorded and each.after.state.terminal}
    if owed:
        pipe.zadd(OWED, owed)
        pipe.zremrangebyrank(OWED, 0, -OWED_MAX - 1)


def note_unknown(pipe: Pipeline, batch: Iterable[Settled], now_ms: int) -> None:
    """Add the commands that keep jobs which one of these may have ended, nobody knows.

    An earlier copy of it may have, and its note may be lost. Anybody may make these up: where there are too many, the
    last ones go.
    """
    for settled in batch:
        answer, request = settled.answer, settled.request
        if answer is not None and answer.word is Word.OUTCOME_UNKNOWN and isinstance(request, _ENDS):
            pipe.zadd(OWED, {request.body.job_id: now_ms}, nx=True)
            pipe.zremrangebyrank(OWED, OWED_MAX, -1)


def note_again(connection: Redis, job_id: str, now_ms: int) -> None:
    """Note one whose note was lost, unless it is noted since."""
    connection.zadd(OWED, {job_id: now_ms}, nx=True)


def jobs(connection: Redis) -> list[str]:
    """Some of them, those that have waited longest. What is no text names none, and goes."""
    found = cast(list[bytes], connection.zrange(OWED, 0, AT_ONCE - 1))
    named = {entry: text_of(entry) for entry in found}
    if wrong := [entry for entry, job_id in named.items() if job_id is None]:
        connection.zrem(OWED, *wrong)
    return [job_id for job_id in named.values() if job_id is not None]


def put_behind(connection: Redis, job_id: str, now_ms: int) -> None:
    """Its run can't be written now: the others are not to wait for it."""
    connection.zadd(OWED, {job_id: now_ms}, xx=True)


def forget(connection: Redis, job_id: str) -> None:
    """Its run is on record, or there is no such job."""
    connection.zrem(OWED, job_id)
