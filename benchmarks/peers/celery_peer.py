"""celery: kombu over Redis; solo workers or a pool of processes."""

from functools import lru_cache

from celery import Celery

from benchmarks.peers.driving import Claimer, answers_on_list, drive, redis_url

app = Celery("bench", broker=redis_url(), backend=None if answers_on_list() else redis_url())
app.conf.update(
    task_ignore_result=answers_on_list(),
    task_default_queue="bench",
    broker_connection_retry_on_startup=True,
    worker_hijack_root_logger=False,
)


@lru_cache(maxsize=1)
def claimer() -> Claimer:
    """One connection for each worker process."""
    return Claimer()


@app.task(name="claim")
def claim(number: int) -> int:
    """The work."""
    return claimer().claim(number)


if __name__ == "__main__":
    drive(claim.delay, lambda result: result.get(timeout=15))
