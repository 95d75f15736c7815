"""huey: tasks in a Redis list, worker processes, threads or greenlets."""

from functools import lru_cache

from huey import RedisHuey

from benchmarks.peers.driving import Claimer, answers_on_list, drive, pooled_url

huey = RedisHuey("bench", url=pooled_url(), results=not answers_on_list())


@lru_cache(maxsize=1)
def claimer() -> Claimer:
    """One connection for each worker process."""
    return Claimer()


@huey.task()
def claim(number: int) -> int:
    """The work."""
    return claimer().claim(number)


if __name__ == "__main__":
    from benchmarks.peers import huey_peer  # under its own name, which is the task's

    drive(huey_peer.claim, lambda result: result.get(blocking=True, timeout=15, backoff=1.0, max_delay=0.001))
