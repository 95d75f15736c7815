"""Who asks for work, and offering what: a hint in Redis, kept to explain why a job waits and read for nothing else."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from math import isfinite
from typing import cast

from redis import Redis
from redis.client import Pipeline

from broker import index, parked_sets
from broker.clock import SET_BACK_MS
from broker.documents import Job
from broker.lately import Lately
from broker.messages import Claim, Envelope
from broker.offered_jobs import offered_jobs
from broker.parked_sets import KnownOffers

ASKED = "broker:asked"
"""Sorted set: factory, queue and offers by the broker time of its last claim."""
ASKED_MAX = 10_000
ASKED_BYTES_MAX = 4 << 20
"""Of these all that is kept. A factory with a few offers takes some 100 bytes, one with as many as it may, 4 KiB."""
READ_BYTES_MAX = 1 << 20
"""Of these what an explanation reads, the latest: for it everybody waits."""
FEW = 1_000
"""Entries whose bytes need not be counted: there can't be too many."""
PAGE = 250
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
    latest `ASKED_MAX`, or fewer where they take more than `ASKED_BYTES_MAX`.
    """
    with connection.pipeline(transaction=False) as pipe:
        pipe.zremrangebyscore(ASKED, now_ms + SET_BACK_MS, "+inf")
        pipe.zremrangebyscore(ASKED, "-inf", now_ms - ASKED_MS_MAX)
        pipe.zremrangebyrank(ASKED, 0, -ASKED_MAX - 1)
        pipe.zcard(ASKED)
        count = pipe.execute()[-1]
    if count > FEW:
        kept = sum(1 for _ in _latest(connection, bytes_max=ASKED_BYTES_MAX))
        connection.zremrangebyrank(ASKED, 0, -kept - 1)


def _latest(connection: Redis, *, bytes_max: int) -> Iterator[tuple[bytes, float]]:
    """The latest entries, as many as take so many bytes."""
    left = bytes_max
    for start in range(0, ASKED_MAX, PAGE):
        page = cast(list[tuple[bytes, float]], connection.zrevrange(ASKED, start, start + PAGE - 1, withscores=True))
        for text, asked_ms in page:
            if (left := left - len(text)) < 0:
                return
            yield text, asked_ms
        if len(page) < PAGE:
            return


class Demand:
    """Reads the hint, where an explanation asks for it: once, for all those of a batch."""

    def __init__(self, connection: Redis, known_offers: KnownOffers) -> None:
        self._redis = connection
        self._askers: list[Asker] | None = None
        self._parked: dict[tuple[str, str], int] = {}
        self._known_offers = known_offers
        self.more = False
        """Whether more have asked than were looked at."""

    def askers(self, *, queue: str | None = None, factory_id: str | None = None) -> list[Asker]:
        """What each factory offered when it last asked, of this queue or of each; the latest first."""
        if self._askers is None:
            self._askers = self._read()
        return [
            asker for asker in self._askers if queue in (None, asker.queue) and factory_id in (None, asker.factory_id)
        ]

    def _read(self) -> list[Asker]:
        latest: dict[tuple[str, str], Asker] = {}
        looked_at = 0
        for text, asked_ms in _latest(self._redis, bytes_max=READ_BYTES_MAX):
            looked_at += 1
            parts = (index.text_of(text) or "").split(_BETWEEN)
            if len(parts) < 2 or not isfinite(asked_ms):  # nobody of ours has written that
                continue
            factory, queue, *offers = parts
            latest.setdefault((factory, queue), Asker(factory, queue, tuple(offers), int(asked_ms)))
        self.more = self._redis.zcard(ASKED) > looked_at
        return list(latest.values())

    def offered(self, queues: Sequence[str], *, at_most: int) -> list[str]:
        """Jobs that are ready in these queues, as `offered_jobs` has it."""
        return offered_jobs(self._redis, queues, at_most=at_most)

    def parked(self, job: Job) -> int:
        """How many claims wait that would fit such a job."""
        wanted = job.queue, index.encode_job_terms(job.requires, job.prefers)
        if wanted not in self._parked:
            self._parked[wanted] = self._count_parked(*wanted)
        return self._parked[wanted]

    def _count_parked(self, queue: str, terms: str) -> int:
        lines = self._known_offers.lines(self._redis, [queue])[queue]
        with self._redis.pipeline(transaction=False) as pipe:
            for name, _ in parked_sets.awaiting(terms, lines):
                pipe.zcard(index.members_key(index.PARKED, queue, name))
            return sum(cast(list[int], pipe.execute()))
