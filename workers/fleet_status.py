"""What a fleet looks like from outside: its processes, its workers' heartbeats, its queues."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from math import isfinite
from typing import Any, cast

from redis import Redis
from redis.connection import parse_url
from redis.exceptions import ResponseError

from broker import claim_next, index
from broker.clock import RedisClock
from broker.queues import QUEUES, intake_key, rq_queue_key, rq_workers_key
from workers import inflight, wrong_types
from workers.taking import DEAD, WORKERS

CLAIM_WORKER = "claim_worker"
"""The field by which a `ClaimWorker` is told from rq's own workers where rq registers both."""
_LOOPBACK = ("localhost", "127.0.0.1", "::1")
_RQ_WORKER = "rq:worker:"


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
    unreadable: tuple[str, ...] = ()
    """Keys of another type than they should have: somebody else has written them. They count as empty."""

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
    reading = _Reading(redis)
    sessions = {
        name: max(0, round(now_ms - beat_ms))
        for text, beat_ms in reading.beats()
        if (name := index.text_of(text)) is not None and isfinite(beat_ms)  # else nobody of ours has written it
    }
    counts = [("LLEN", key) for queue in QUEUES for key in (rq_queue_key(queue), intake_key(queue))]
    counts += [("HLEN", claim_next.WAITING), ("LLEN", DEAD)]
    counts += [("LLEN", key) for name in sessions for key in inflight.lists(name)]
    members = [("SMEMBERS", rq_workers_key(queue)) for queue in QUEUES]
    told = reading.all_of([*counts, *members])
    rq_and_intake, (parked, dead, *in_flight) = told[: 2 * len(QUEUES)], told[2 * len(QUEUES) : len(counts)]
    depths = [count or 0 for count in rq_and_intake]
    queues = {queue: {"rq": depths[2 * at], "intake": depths[2 * at + 1]} for at, queue in enumerate(QUEUES)}
    registered = {queue: keys or () for queue, keys in zip(QUEUES, told[len(counts) :], strict=True)}
    workers: dict[str, int] = {}
    for name, ago_ms in sessions.items():
        worker = inflight.worker_of(name)
        workers[worker] = min(ago_ms, workers.get(worker, ago_ms))
    stock = _stock(reading, registered)
    in_hand = sum(count or 0 for count in in_flight)
    return Serving(workers, queues, in_hand, parked or 0, dead or 0, stock, tuple(reading.unreadable))


class _Reading:
    """Reads keys, and goes on past one of another type than it should have."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis
        self.unreadable: list[str] = []

    def beats(self) -> list[tuple[bytes, float]]:
        """When each session was heard of last."""
        try:
            return cast(list[tuple[bytes, float]], self._redis.zrange(WORKERS, 0, -1, withscores=True))
        except ResponseError as error:
            self._skip(WORKERS, error)
            return []

    def all_of(self, commands: Sequence[tuple[str, ...]]) -> list[Any]:
        """What each command says, whose second word is its key; None of a key that it can't read."""
        with self._redis.pipeline(transaction=False) as pipe:
            for command in commands:
                pipe.execute_command(*command)  # type: ignore[no-untyped-call]  # redis-py's
            told: list[Any] = pipe.execute(raise_on_error=False)
        for at, (command, answer) in enumerate(zip(commands, told, strict=True)):
            if isinstance(answer, Exception):
                self._skip(command[1], answer)
                told[at] = None
        return told

    def _skip(self, key: str, error: Exception) -> None:
        if not wrong_types.met(error):
            raise error
        self.unreadable.append(key)


def _stock(reading: _Reading, registered: Mapping[str, Collection[bytes]]) -> dict[str, tuple[str, ...]]:
    """Of the workers that rq has registered for each queue those that are not ours, and have not ended."""
    named = {key: name for keys in registered.values() for key in keys if (name := index.text_of(key)) is not None}
    keys = sorted(named)
    told = reading.all_of([("HMGET", named[key], "birth", "death", CLAIM_WORKER) for key in keys])
    return {
        named[key].removeprefix(_RQ_WORKER): tuple(queue for queue, serving in registered.items() if key in serving)
        for key, fields in zip(keys, told, strict=True)
        if fields and fields[0] and not fields[1] and not fields[2]
    }
