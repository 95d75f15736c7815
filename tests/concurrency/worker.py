"""A real broker worker on whatever store it is told to open, broken ones too: `worker.py REDIS_URL OPENER PATH`."""

import sys

from redis import Redis

from broker.clock import RedisClock
from broker.settings import load
from tests.concurrency.race import context
from tests.contract.racing import open_store
from workers.claim_worker import ClaimWorker
from workers.runtime import Runtime, worker_name


def serve(redis_url: str, opener: str, path: str) -> None:
    """Serve until told to stop. Small batches, so that two workers share a herd of claims."""
    connection = Redis.from_url(redis_url)
    store = open_store(opener, path)
    settings = load(redis_url=redis_url, batch_max=4)
    runtime = Runtime(settings, connection, store, context(store), RedisClock(connection), None, mark=path)
    ClaimWorker.for_runtime(runtime, name=worker_name()).work()
    runtime.close()


if __name__ == "__main__":
    serve(*sys.argv[1:4])
