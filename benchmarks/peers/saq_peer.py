"""saq: asyncio workers; enqueues through a Lua script, may wait for results over pub/sub."""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import lru_cache
from typing import Any

from saq import Queue

from benchmarks.peers.driving import AsyncClaimer, Opened, answers_on_list, drive_async, redis_url

CONCURRENCY = "BENCH_CONCURRENCY"


@lru_cache(maxsize=1)
def claimer() -> AsyncClaimer:
    """One connection pool for each worker process."""
    return AsyncClaimer()


async def claim(_context: Any, *, number: int) -> int:
    """The work."""
    return await claimer().claim(number)


def new_queue() -> Any:
    """A queue on the server of this row."""
    return Queue.from_url(redis_url(), name="bench")


settings = {
    "queue": new_queue(),
    "functions": [claim],
    "concurrency": int(os.environ.get(CONCURRENCY, "10")),
}


@asynccontextmanager
async def opened() -> AsyncIterator[Opened]:
    """A client."""
    queue = new_queue()
    await queue.connect()

    async def enqueue(number: int) -> Any:
        return await queue.enqueue("claim", number=number, ttl=60) if answers_on_list() else number

    async def result(number: int) -> Any:
        # Not `job.refresh(15)`: a job that ends before that has subscribed is waited for in vain.
        return await queue.apply("claim", number=number, timeout=15, poll_interval=0.002)

    yield enqueue, result
    await queue.disconnect()


if __name__ == "__main__":
    drive_async(opened)
