"""What a fleet looks like from outside: its processes, its workers' heartbeats, its queues."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from math import isfinite
from typing import Any, cast

from redis import Redis
from redis.connection import parse_url

from broker import claim_next, index
from broker.clock import RedisClock
from broker.queues import QUEUES, intake_key, rq_queue_key, rq_workers_key
from workers import inflight
from workers.taking import DEAD, WORKERS

CLAIM_WORKER = "claim_worker"
"""The field by which a `ClaimWorker` is told from rq's own workers where rq registers both."""
_LOOPBACK = ("localhost", "127.0.0.1", "::1")
_RQ_WORKER = b"rq:worker:"


@dataclass(frozen=True, slots=True)
class Serving:
    """What Redis knows of those who serve."""

    workers: dict[str, int]
    """Workers, and how long ago each was heard of last, in ms. The dead are among them for a while."""
    queues: dict[str, dict[str, int]]
    """Requests that wait, by queue and wire."""
    in_flight: int
    parked: int
    """Claims that wait for work."""
    dead_letters: int
    stock: Mapping[str, tuple[str, ...]]
    """rq's own workers, and the queues each serves. One that was killed is among them until rq's record of it ends."""

    def alive(self, *, within_ms: int) -> list[str]:
        """Workers heard of that recently."""
        return [name for name, ago_ms in self.workers.items() if ago_ms <= within_ms]

    def unserved(self, *, within_ms: int) -> list[str]:
        """Queues that no worker serves. Any of ours serves them all."""
        if self.alive(within_ms=within_ms):
            return []
        return [queue for queue in QUEUES if not any(queue in served for served in self.stock.values())]


def same_redis(one: str, other: str) -> bool:
    """Whether two URLs surely lead to one database of one server. Names of hosts are not looked up."""
    try:
        return _place(one) == _place(other)
    except ValueError:  # one that nothing connects to
        return False


def _place(url: str) -> tuple[str, int, int]:
    where = parse_url(url)  # type: ignore[no-untyped-call]  # redis-py's
    database = int(where.get("db") or 0)
    if path := where.get("path"):
        return str(path), 0, database
    host = str(where.get("host") or _LOOPBACK[0]).lower()
    return _LOOPBACK[0] if host in _LOOPBACK else host, int(where.get("port") or 6379), database


def look(redis: Redis) -> Serving:
    """Read it all, in two round trips; in three where rq has registered workers. Redis errors pass through."""
    now_ms = RedisClock(redis).now_ms()
    beats = cast(list[tuple[bytes, float]], redis.zrange(WORKERS, 0, -1, withscores=True))
    sessions = {
        name: max(0, round(now_ms - beat_ms))
        for text, beat_ms in beats
        if (name := index.text_of(text)) is not None and isfinite(beat_ms)  # else nobody of ours has written it
    }
    with redis.pipeline(transaction=False) as pipe:
        for queue in QUEUES:
            pipe.llen(rq_queue_key(queue))
            pipe.llen(intake_key(queue))
        pipe.hlen(claim_next.WAITING)
        pipe.llen(DEAD)
        for name in sessions:
            for key in inflight.lists(name):
                pipe.llen(key)
        for queue in QUEUES:
            pipe.smembers(rq_workers_key(queue))
        told: list[Any] = pipe.execute()
    counts, registered = told[: -len(QUEUES)], dict(zip(QUEUES, told[-len(QUEUES) :], strict=True))
    split = 2 * len(QUEUES)
    queues = {queue: {"rq": counts[2 * at], "intake": counts[2 * at + 1]} for at, queue in enumerate(QUEUES)}
    parked, dead, *in_flight = counts[split:]
    workers: dict[str, int] = {}
    for name, ago_ms in sessions.items():
        worker = inflight.worker_of(name)
        workers[worker] = min(ago_ms, workers.get(worker, ago_ms))
    return Serving(workers, queues, sum(in_flight), parked, dead, _stock(redis, registered))


def _stock(redis: Redis, registered: Mapping[str, Collection[bytes]]) -> dict[str, tuple[str, ...]]:
    """Of the workers that rq has registered for each queue those that are not ours, and have not ended."""
    keys: Sequence[bytes] = sorted(frozenset().union(*registered.values()))
    if not keys:
        return {}
    with redis.pipeline(transaction=False) as pipe:
        for key in keys:
            pipe.hmget(key, "birth", "death", CLAIM_WORKER)
        told: list[Any] = pipe.execute()
    return {
        name: tuple(queue for queue, serving in registered.items() if key in serving)
        for key, (birth, death, ours) in zip(keys, told, strict=True)
        if birth and not death and not ours and (name := index.text_of(key.removeprefix(_RQ_WORKER))) is not None
    }
