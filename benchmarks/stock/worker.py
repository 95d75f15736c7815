"""A stock rq worker at its best: no fork, JSON, no log of each job."""

import os

from redis import Redis
from rq import Queue, SimpleWorker
from rq.serializers import JSONSerializer

QUEUE = "bench"


def main() -> None:
    """Serve until killed. One queue, so that rq pops without losing."""
    connection = Redis.from_url(os.environ["BENCH_REDIS_URL"])
    queue = Queue(QUEUE, connection=connection, serializer=JSONSerializer)
    worker = SimpleWorker([queue], connection=connection, serializer=JSONSerializer, log_job_description=False)
    worker.work(logging_level="WARNING")


if __name__ == "__main__":
    main()
