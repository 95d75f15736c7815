"""streaq: asyncio workers over Redis streams, by way of coredis."""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import lru_cache
from typing import Any

from streaq import Worker

from benchmarks.peers.driving import AsyncClaimer, Opened, drive_async, redis_url

CONCURRENCY = "BENCH_CONCURRENCY"

worker = Worker(redis_url=redis_url(), concurrency=int(os.environ.get(CONCURRENCY, "16")))


@lru_cache(maxsize=1)
def claimer() -> AsyncClaimer:
    """One connection pool for each worker process."""
    return AsyncClaimer()


@worker.task(name="claim", ttl=60)
async def claim(number: int) -> int:
    """The work."""
    return await claimer().claim(number)


@asynccontextmanager
async def opened() -> AsyncIterator[Opened]:
    """A client."""
    async with worker:

        async def enqueue(number: int) -> Any:
            return await claim.enqueue(number)

        async def result(task: Any) -> Any:
            return (await task.result(timeout=15)).result

        yield enqueue, result


if __name__ == "__main__":
    drive_async(opened)
