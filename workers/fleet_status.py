"""What a fleet looks like from outside: its processes, its workers' heartbeats, its queues."""

from dataclasses import dataclass
from math import isfinite
from typing import Any, cast

from redis import Redis

from broker import claim_next, index
from broker.clock import RedisClock
from broker.queues import QUEUES, intake_key, rq_queue_key
from workers import inflight
from workers.taking import DEAD, WORKERS


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

    def alive(self, *, within_ms: int) -> list[str]:
        """Workers heard of that recently."""
        return [name for name, ago_ms in self.workers.items() if ago_ms <= within_ms]


def look(redis: Redis) -> Serving:
    """Read it all, in two round trips. Redis errors pass through."""
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
        counts: list[Any] = pipe.execute()
    split = 2 * len(QUEUES)
    queues = {queue: {"rq": counts[2 * at], "intake": counts[2 * at + 1]} for at, queue in enumerate(QUEUES)}
    parked, dead, *in_flight = counts[split:]
    workers: dict[str, int] = {}
    for name, ago_ms in sessions.items():
        worker = inflight.worker_of(name)
        workers[worker] = min(ago_ms, workers.get(worker, ago_ms))
    return Serving(workers, queues, sum(in_flight), parked, dead)
