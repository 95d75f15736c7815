"""Asks with rq's own `Queue.enqueue`: a stock worker for a record, or ours for a job of the broker."""

import argparse
import asyncio
import json
from collections.abc import Sequence

from redis import Redis
from rq import Queue
from rq.serializers import JSONSerializer

from benchmarks.load.driver import Order, Tally, serve
from benchmarks.load.lists import ReplyList
from benchmarks.load.loops import Answer, drive_lines
from benchmarks.load.record import DRAIN, REPLY_WAIT_S
from benchmarks.ours.load import TIMEOUT_MS, submit
from benchmarks.stock.worker import QUEUE
from broker.client import AsyncClient
from broker.replies import reply_key

RESULT_TTL_S = 60
FACTORY = "bench"


def main() -> None:
    """Serve the harness's orders."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--url", required=True)
    parser.add_argument("--of", choices=("stock", "ours"), required=True)
    options = parser.parse_args()
    redis = Redis.from_url(options.url, socket_timeout=60)

    def run(order: Order, tally: Tally) -> None:
        if options.of == "stock":
            drive_lines(order, tally, stock_lines(redis))
            return
        asyncio.run(_submit(options.url, order))
        drive_lines(order, tally, OurLines(redis))

    serve(run)


def stock_lines(redis: "Redis") -> ReplyList:
    """Requests as rq jobs of a stock worker."""
    queue = Queue(QUEUE, connection=redis, serializer=JSONSerializer)

    def send(numbers: Sequence[int]) -> None:
        for number in numbers:
            queue.enqueue("benchmarks.stock.task.claim", number, result_ttl=RESULT_TTL_S)

    return ReplyList(redis, send)


class OurLines:
    """The same client, asking the broker: what its own client would send, by hand."""

    def __init__(self, redis: "Redis") -> None:
        self._redis = redis
        self._queue = Queue("claims", connection=redis, serializer=JSONSerializer)

    def send(self, numbers: Sequence[int]) -> None:
        """One rq job for each number."""
        for number in numbers:
            envelope = {
                "op": "claim",
                "request_id": f"request-{number}",
                "factory_id": FACTORY,
                "incarnation": "bench",
                "instance": "rq",
                "body": {"job_id": f"job-{number}"},
            }
            self._queue.enqueue("workers.tasks.settle", envelope, result_ttl=RESULT_TTL_S)

    def receive(self) -> list[Answer]:
        """Answers from the reply channel."""
        key = reply_key(FACTORY, "rq")
        with self._redis.pipeline(transaction=False) as pipe:
            pipe.blpop([key], REPLY_WAIT_S)
            pipe.lpop(key, DRAIN)
            first, rest = pipe.execute()
        replies = [json.loads(text) for text in ([first[1]] if first else []) + (rest or [])]
        return [
            Answer(int(reply["request_id"].removeprefix("request-")), reply["answer"] == "granted") for reply in replies
        ]


async def _submit(url: str, order: Order) -> None:
    async with AsyncClient.connect(url, factory_id=FACTORY, timeout_ms=TIMEOUT_MS) as client:
        await submit(client, order)


if __name__ == "__main__":
    main()
