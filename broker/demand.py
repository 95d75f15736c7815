"""Who asks for work, and offering what: a hint in Redis, kept to explain why a job waits and read for nothing else."""

from collections.abc import Iterable
from dataclasses import dataclass
from math import isfinite
from typing import cast

from redis import Redis
from redis.client import Pipeline

from broker import index
from broker.clock import SET_BACK_MS
from broker.documents import Job
from broker.lately import Lately
from broker.messages import Claim, Envelope

ASKED = "broker:asked"
"""Sorted set: factory, queue and offers by the broker time of its last claim."""
ASKED_MAX = 10_000
ASKED_MS_MAX = 900_000
"""Who has not asked for 15 minutes does not count any more."""
_BETWEEN = "\n"
"""Stands in no name and in no offer."""


@dataclass(frozen=True, slots=True)
class Asker:
    """A factory that asked for work of a queue lately."""

    factory_id: str
    queue: str
    """Empty where it named a job."""
    offers: tuple[str, ...]
    asked_ms: int


def note(pipe: Pipeline, requests: Iterable[Envelope], now_ms: int, lately: Lately) -> None:
    """Add the command that keeps who of these has asked for work; none where nobody did."""
    askers: dict[tuple[str, str, tuple[str, ...]], None] = {}
    for request in requests:
        if type(request) is Claim:
            body = request.body  # of which queue: empty where it asks for a job by its name
            askers[request.factory_id, body.queue if body.job_id is None else "", body.offers] = None
    if asked := lately.news(askers, now_ms):
        pipe.zadd(ASKED, {_BETWEEN.join((*who, *offers)): asked_ms for (*who, offers), asked_ms in asked.items()})


def trim(connection: Redis, now_ms: int) -> None:
    """Forget who has not asked for long, who asked in the future (nobody of ours has written that), and all but the
    latest `ASKED_MAX`.
    """
    with connection.pipeline(transaction=False) as pipe:
        pipe.zremrangebyscore(ASKED, now_ms + SET_BACK_MS, "+inf")
        pipe.zremrangebyscore(ASKED, "-inf", now_ms - ASKED_MS_MAX)
        pipe.zremrangebyrank(ASKED, 0, -ASKED_MAX - 1)
        pipe.execute()


class Demand:
    """Reads the hint, where an explanation asks for it."""

    def __init__(self, connection: Redis) -> None:
        self._redis = connection

    def askers(self, *, queue: str | None = None, factory_id: str | None = None) -> list[Asker]:
        """What each factory offered when it last asked, of this queue or of each; the latest first."""
        found = cast(list[tuple[bytes, float]], self._redis.zrevrange(ASKED, 0, ASKED_MAX, withscores=True))
        latest: dict[tuple[str, str], Asker] = {}
        for text, asked_ms in found:
            parts = (index.text_of(text) or "").split(_BETWEEN)
            if len(parts) < 2 or not isfinite(asked_ms):  # nobody of ours has written that
                continue
            factory, asked_queue, *offers = parts
            if queue in (None, asked_queue) and factory_id in (None, factory):
                asker = Asker(factory, asked_queue, tuple(offers), int(asked_ms))
                latest.setdefault((factory, asked_queue), asker)
        return list(latest.values())

    def parked(self, job: Job) -> int:
        """How many claims wait that would fit such a job."""
        sets = cast(set[bytes], self._redis.smembers(index.sets_key(index.PARKED, job.queue)))
        wanted = index.encode_job_terms(job.requires, job.prefers)
        fitting = [index.members_key(index.PARKED, job.queue, terms) for terms, _ in index.awaiting(wanted, sets)]
        return sum(cast(list[int], [self._redis.zcard(key) for key in fitting]))
