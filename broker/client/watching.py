"""Watching the event stream over a connection of its own, for threads and for asyncio."""

from collections.abc import AsyncIterator, Iterator
from typing import Any

from redis import Redis
from redis.asyncio import Redis as AsyncRedis
from redis.asyncio.retry import Retry as AsyncRetry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError, ResponseError
from redis.retry import Retry

from broker.backoff import Backoff
from broker.client.connection import DEAD_AFTER_S, options
from broker.client.errors import BrokerUnavailable
from broker.client.tail import BLOCK_MS, NOW, PAGE_ENTRIES, Tail, Wanted
from broker.clock import monotonic_ms
from broker.entropy import Entropy
from broker.events import STREAM, Event

AWAY_MS_MAX = 60_000
"""How long a follower waits for a Redis that is away."""


class Patience:
    """Decides whether a failed read is tried again, and after which pause (seconds)."""

    def __init__(self, entropy: Entropy, *, follow: bool) -> None:
        self._backoff = Backoff(entropy)
        self._follow = follow
        self._since_ms: int | None = None

    def pause_s(self, error: RedisError | OSError) -> float:
        """The pause before the next try.

        Raises:
          BrokerUnavailable: Redis refused, has been away for too long, or nobody follows.
        """
        refused = isinstance(error, ResponseError)
        now_ms = monotonic_ms()
        self._since_ms = now_ms if self._since_ms is None else self._since_ms
        if refused or not self._follow or now_ms - self._since_ms > AWAY_MS_MAX:
            advice = f"give this user +xread on {STREAM}" if refused else "start Redis, or check its URL"
            raise BrokerUnavailable(f"the events can't be read: {error}; {advice}", refused=refused) from error
        return self._backoff.next_s()

    def reset(self) -> None:
        """It worked."""
        self._since_ms = None
        self._backoff.reset()


def watch(
    url: str, *, password: str | None, entropy: Entropy, since: str | None, follow: bool, wanted: Wanted, pause: Any
) -> Iterator[Event]:
    """The events after `since`; with `follow` without end. `pause(seconds)` waits before Redis is tried again."""
    patience = Patience(entropy, follow=follow)
    with Redis.from_url(url, retry=Retry(NoBackoff(), 0), **options(password, DEAD_AFTER_S)) as redis:
        tail: Tail | None = None
        while True:
            try:
                if tail is None:
                    tail = _begin(since, redis.time() if since == NOW else None)
                    yield from tail.gap(redis.xread({STREAM: "0-0"}, count=1) if tail.resumed else None)
                found = redis.xread(tail.streams, count=PAGE_ENTRIES, block=BLOCK_MS if follow else None)
            except (RedisError, OSError) as error:
                pause(patience.pause_s(error))
                continue
            patience.reset()
            yield from (event for event in tail.feed(found) if event in wanted)
            if not found and not follow:
                return


async def watch_async(
    url: str, *, password: str | None, entropy: Entropy, since: str | None, follow: bool, wanted: Wanted, pause: Any
) -> AsyncIterator[Event]:
    """`watch`, to be iterated with `async for`."""
    patience = Patience(entropy, follow=follow)
    async with AsyncRedis.from_url(url, retry=AsyncRetry(NoBackoff(), 0), **options(password, DEAD_AFTER_S)) as redis:
        tail: Tail | None = None
        while True:
            try:
                if tail is None:
                    tail = _begin(since, await redis.time() if since == NOW else None)
                    for event in tail.gap(await redis.xread({STREAM: "0-0"}, count=1) if tail.resumed else None):
                        yield event
                found = await redis.xread(tail.streams, count=PAGE_ENTRIES, block=BLOCK_MS if follow else None)
            except (RedisError, OSError) as error:
                await pause(patience.pause_s(error))
                continue
            patience.reset()
            for event in tail.feed(found):
                if event in wanted:
                    yield event
            if not found and not follow:
                return


def _begin(since: str | None, now: Any) -> Tail:
    """A tail where the reader wants to begin. `now`: the answer to TIME, where that is from now on."""
    if now is None:
        return Tail(since)
    tail = Tail(f"{int(now[0]) * 1000 + int(now[1]) // 1000 - 1}-{(1 << 63) - 1}")
    tail.resumed = False
    return tail
