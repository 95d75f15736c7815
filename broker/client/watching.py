"""Watching the event stream over a connection of its own, for threads and for asyncio."""

from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

from redis import Redis
from redis.asyncio import Redis as AsyncRedis
from redis.asyncio.retry import Retry as AsyncRetry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError, ResponseError
from redis.retry import Retry

from broker.backoff import Backoff
from broker.client.connection import DEAD_AFTER_S, NotLetIn, is_refused, options
from broker.client.errors import BrokerUnavailable
from broker.client.tail import BLOCK_MS, NOW, PAGE_ENTRIES, Tail, Wanted
from broker.clock import monotonic_ms
from broker.entropy import Entropy
from broker.events import STREAM, Event
from broker.redis_password import Password, let_in

OLDEST: dict[Any, Any] = {STREAM: "0-0"}  # as redis-py types it
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
        advice, refused = "start Redis, or check its URL", True
        if is_refused(error):
            advice = NotLetIn.advice
        elif isinstance(error, ResponseError):
            advice = f"give this user +xread on {STREAM}"
        else:
            refused = False
        now_ms = monotonic_ms()
        self._since_ms = now_ms if self._since_ms is None else self._since_ms
        if refused or not self._follow or now_ms - self._since_ms > AWAY_MS_MAX:
            raise BrokerUnavailable(f"the events can't be read: {error}; {advice}", refused=refused) from error
        return self._backoff.next_s()

    def reset(self) -> None:
        """It worked."""
        self._since_ms = None
        self._backoff.reset()


def watch(
    url: str,
    *,
    password: Password | None,
    entropy: Entropy,
    since: str | None,
    follow: bool,
    wanted: Wanted,
    pause: Any,
    check_open: Callable[[], None],
) -> Iterator[Event]:
    """The events after `since`; with `follow` as long as `check_open` allows it.

    `pause(seconds)` waits before Redis is tried again.
    """
    patience = Patience(entropy, follow=follow)
    with Redis.from_url(url, retry=Retry(NoBackoff(), 0)) as redis:
        _prepare(redis.connection_pool, password)
        tail: Tail | None = None
        block_ms: int | None = None  # not the first time: what was missed is told at once
        while True:
            check_open()
            try:
                tail = tail or _begin(since, redis.time() if since == NOW else None)
                found = redis.xread(tail.streams, count=PAGE_ENTRIES, block=block_ms)
                if tail.resumed and (found or block_ms is None):
                    yield from tail.gap(redis.xread(OLDEST, count=1))
            except (RedisError, OSError) as error:
                pause(patience.pause_s(error))
                continue
            block_ms = BLOCK_MS if follow else None
            patience.reset()
            yield from (event for event in tail.feed(found) if event in wanted)
            if not found and not follow:
                return


async def watch_async(
    url: str,
    *,
    password: Password | None,
    entropy: Entropy,
    since: str | None,
    follow: bool,
    wanted: Wanted,
    pause: Any,
    check_open: Callable[[], None],
) -> AsyncIterator[Event]:
    """`watch`, to be iterated with `async for`."""
    patience = Patience(entropy, follow=follow)
    async with AsyncRedis.from_url(url, retry=AsyncRetry(NoBackoff(), 0)) as redis:
        _prepare(redis.connection_pool, password)
        tail: Tail | None = None
        block_ms: int | None = None  # not the first time: what was missed is told at once
        while True:
            check_open()
            try:
                tail = tail or _begin(since, await redis.time() if since == NOW else None)
                found = await redis.xread(tail.streams, count=PAGE_ENTRIES, block=block_ms)
                if tail.resumed and (found or block_ms is None):
                    for event in tail.gap(await redis.xread(OLDEST, count=1)):
                        yield event
            except (RedisError, OSError) as error:
                await pause(patience.pause_s(error))
                continue
            block_ms = BLOCK_MS if follow else None
            patience.reset()
            for event in tail.feed(found):
                if event in wanted:
                    yield event
            if not found and not follow:
                return


def _prepare(pool: Any, password: Password | None) -> None:
    """Of what the URL may say, too, these are ours: a blocked read may take `BLOCK_MS`, and its answer is bytes."""
    pool.connection_kwargs.update(options(DEAD_AFTER_S), decode_responses=False)
    let_in(pool, password)


def _begin(since: str | None, now: Any) -> Tail:
    """A tail where the reader wants to begin. `now`: the answer to TIME, where that is from now on."""
    if now is None:
        return Tail(since)
    tail = Tail(f"{int(now[0]) * 1000 + int(now[1]) // 1000 - 1}-{(1 << 63) - 1}")
    tail.resumed = False
    return tail
