"""dramatiq: actors over a Redis broker, processes of threads."""

import os
from functools import lru_cache

import dramatiq
from dramatiq.brokers.redis import RedisBroker
from dramatiq.results import Results
from dramatiq.results.backends import RedisBackend

from benchmarks.peers.driving import Claimer, answers_on_list, drive, pooled_url

LEAN = "BENCH_DRAMATIQ_LEAN"

broker = RedisBroker(url=pooled_url(), **({"middleware": []} if os.environ.get(LEAN) else {}))
if not answers_on_list():
    broker.add_middleware(Results(backend=RedisBackend(url=pooled_url())))
dramatiq.set_broker(broker)


@lru_cache(maxsize=1)
def claimer() -> Claimer:
    """One connection pool for each worker process."""
    return Claimer()


@dramatiq.actor(store_results=not answers_on_list()) if not answers_on_list() else dramatiq.actor
def claim(number: int) -> int:
    """The work."""
    return claimer().claim(number)


if __name__ == "__main__":
    from benchmarks.peers import dramatiq_peer

    drive(dramatiq_peer.claim.send, lambda message: message.get_result(block=True, timeout=15_000))
