"""Replays recorded requests over one connection, and reads the answers from one list: the least a client can do."""

import argparse
import asyncio
import json
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from redis import Redis

from benchmarks.load.driver import Order, Tally, serve
from benchmarks.load.loops import Answer, drive_lines
from benchmarks.load.record import DRAIN, REPLIES, REPLY_WAIT_S, parse_answers
from benchmarks.ours.load import TIMEOUT_MS, submit
from benchmarks.replay.requests import FACTORY, INSTANCE, Requests, our_requests, read_requests
from broker.client import AsyncClient
from broker.replies import reply_key


def main() -> None:
    """Serve the harness's orders."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--url", required=True)
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--recorded", type=Path, help="requests of a peer")
    what.add_argument("--wire", choices=("rq", "intake"), help="requests of ours")
    options = parser.parse_args()
    redis = Redis.from_url(options.url, socket_timeout=60)

    def run(order: Order, tally: Tally) -> None:
        if options.recorded:
            requests = read_requests(options.recorded)
            drive_lines(order, tally, Replay(redis, requests, REPLIES, parse_answers), at_most=len(requests.texts))
            return
        jobs = asyncio.run(_submit(options.url, order))
        requests = our_requests(jobs, options.wire)
        drive_lines(
            order, tally, Replay(redis, requests, reply_key(FACTORY, INSTANCE), _our_answers), at_most=len(jobs)
        )

    serve(run)


class Replay:
    """Requests as bytes, one write for all that may go out; numbers count up from the first, whatever is asked."""

    def __init__(
        self, redis: "Redis", requests: Requests, replies: str, parse: Callable[[Sequence[bytes]], list[Answer]]
    ) -> None:
        self._redis = redis
        self._replies = replies
        self._parse = parse
        self._texts: Iterator[bytes] = iter(requests.texts)
        self._commands = requests.commands
        self._connection: Any = redis.connection_pool.get_connection()
        self._numbers: dict[int, int] = {}
        """The number that the driver knows, by that of the recording."""
        self._sent = 0

    def send(self, numbers: Sequence[int]) -> None:
        """Put as many requests on their way."""
        texts = list(islice(self._texts, len(numbers)))
        for number in numbers:
            self._numbers[self._sent] = number
            self._sent += 1
        self._connection.send_packed_command([b"".join(texts)], check_health=False)
        for _ in range(len(texts) * self._commands):
            self._connection.read_response()

    def receive(self) -> list[Answer]:
        """All the answers there are."""
        with self._redis.pipeline(transaction=False) as pipe:
            pipe.blpop([self._replies], REPLY_WAIT_S)
            pipe.lpop(self._replies, DRAIN)
            first, rest = pipe.execute()
        answers = self._parse(([first[1]] if first else []) + (rest or []))
        return [Answer(self._numbers.get(answer.number, -1), answer.won) for answer in answers]


def _our_answers(texts: Sequence[bytes]) -> list[Answer]:
    replies = map(json.loads, texts)
    return [Answer(int(reply["request_id"].rpartition("-")[2]), reply["answer"] == "granted") for reply in replies]


async def _submit(url: str, order: Order) -> list[str]:
    async with AsyncClient.connect(url, factory_id=FACTORY, timeout_ms=TIMEOUT_MS) as client:
        return list(await submit(client, order))


if __name__ == "__main__":
    main()
