"""The job of a stock rq worker: one compare-and-set, one answer."""

import os
from functools import lru_cache

from redis import Redis
from redis.commands.core import Script

from benchmarks.load.record import CLAIM, claim_arguments


def claim(number: int) -> int:
    """Take a record and answer on the list."""
    keys, arguments = claim_arguments(number, reply=True)
    return int(_script()(keys=keys, args=arguments))


@lru_cache(maxsize=1)
def _script() -> Script:
    return Redis.from_url(os.environ["BENCH_REDIS_URL"]).register_script(CLAIM)
