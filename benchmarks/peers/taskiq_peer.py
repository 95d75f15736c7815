"""taskiq: asyncio workers over a Redis list."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import lru_cache
from typing import Any

from taskiq_redis import ListQueueBroker, RedisAsyncResultBackend

from benchmarks.peers.driving import AsyncClaimer, Opened, answers_on_list, drive_async, redis_url

broker = ListQueueBroker(redis_url())
if not answers_on_list():
    broker = broker.with_result_backend(RedisAsyncResultBackend(redis_url(), keep_results=False))


@lru_cache(maxsize=1)
def claimer() -> AsyncClaimer:
    """One connection pool for each worker process."""
    return AsyncClaimer()


@broker.task(task_name="claim")
async def claim(number: int) -> int:
    """The work."""
    return await claimer().claim(number)


@asynccontextmanager
async def opened() -> AsyncIterator[Opened]:
    """A client."""
    await broker.startup()

    async def result(task: Any) -> Any:
        return (await task.wait_result(check_interval=0.002, timeout=15)).return_value

    yield claim.kiq, result
    await broker.shutdown()


if __name__ == "__main__":
    drive_async(opened)
