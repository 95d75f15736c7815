"""arq: asyncio workers that poll a sorted set."""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import lru_cache
from typing import Any, ClassVar

from arq import create_pool
from arq.connections import RedisSettings

from benchmarks.peers.driving import AsyncClaimer, Opened, answers_on_list, drive_async, redis_url

CONCURRENCY = "BENCH_CONCURRENCY"
POLL_S = "BENCH_POLL_S"


@lru_cache(maxsize=1)
def claimer() -> AsyncClaimer:
    """One connection pool for each worker process."""
    return AsyncClaimer()


async def claim(_context: Any, number: int) -> int:
    """The work."""
    return await claimer().claim(number)


class WorkerSettings:
    """What arq's own command reads."""

    functions: ClassVar = [claim]
    redis_settings = RedisSettings.from_dsn(redis_url())
    max_jobs = int(os.environ.get(CONCURRENCY, "10"))
    poll_delay = float(os.environ.get(POLL_S, "0.5"))
    keep_result = 0 if answers_on_list() else 60
    log_results = False


@asynccontextmanager
async def opened() -> AsyncIterator[Opened]:
    """A client."""
    pool = await create_pool(RedisSettings.from_dsn(redis_url()))

    async def enqueue(number: int) -> Any:
        return await pool.enqueue_job("claim", number)

    async def result(job: Any) -> Any:
        return await job.result(timeout=15, poll_delay=0.002)

    yield enqueue, result
    await pool.aclose()


if __name__ == "__main__":
    drive_async(opened)
