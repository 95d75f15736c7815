"""When each factory was last heard of: a display value in Redis, kept in the pipeline of a batch, never decided by."""

from collections.abc import Iterable, Mapping, Sequence
from math import isfinite

from redis import Redis
from redis.client import Pipeline
from redis.exceptions import RedisError

from broker.clock import SET_BACK_MS
from broker.lately import Lately
from broker.messages import KINDS, RegisterFactory, Request

SEEN = "broker:seen"
"""Sorted set: factory by the broker time of its last request."""
_OF_FACTORIES = frozenset(
    {RegisterFactory, *(kind for kind in KINDS.values() if kind.queue_name in {"leases", "claims"})}
)
"""What only factories send: claims, what holders send, starts."""
SEEN_MAX = 10_000
"""Whoever was heard of least recently goes first: anybody may send under any name."""


def note(pipe: Pipeline, requests: Iterable[Request], now_ms: int, lately: Lately) -> None:
    """Add the command that keeps when those were heard of who sent these, as far as they are factories."""
    senders = dict.fromkeys([request.factory_id for request in requests if type(request) in _OF_FACTORIES])
    if heard := lately.news(senders, now_ms):
        pipe.zadd(SEEN, heard)


def trim(connection: Redis, now_ms: int) -> None:
    """Forget all but the latest `SEEN_MAX`, and who was heard of in the future: nobody of ours has written that."""
    with connection.pipeline(transaction=False) as pipe:
        pipe.zremrangebyscore(SEEN, now_ms + SET_BACK_MS, "+inf")
        pipe.zremrangebyrank(SEEN, 0, -SEEN_MAX - 1)
        pipe.execute()


def last_seen(connection: Redis, factories: Sequence[str]) -> Mapping[str, int]:
    """Broker time at which each was last heard of; without those nobody knows of."""
    if not factories:
        return {}
    try:
        scores = connection.zmscore(SEEN, list(factories))
    except RedisError:
        return {}
    heard = zip(factories, scores, strict=True)
    return {name: int(score) for name, score in heard if score is not None and isfinite(score)}
