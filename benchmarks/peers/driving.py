"""What every peer's driver shares. It runs in the peer's environment: standard library and redis-py only."""

import asyncio
import itertools
import os
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial
from typing import Any

from redis import Redis
from redis import asyncio as redis_asyncio

from benchmarks.load.driver import Order, Tally, serve
from benchmarks.load.lists import AsyncReplyList, ReplyList
from benchmarks.load.loops import drive_async_calls, drive_async_lines, drive_calls, drive_lines
from benchmarks.load.record import CLAIM, claim_arguments, record_key

REDIS_URL = "BENCH_REDIS_URL"
ANSWERS = "BENCH_ANSWERS"
PROBE = -1
"""A request before the first window shows that a worker serves; its record is taken away again."""


def redis_url() -> str:
    """The server of this row."""
    return os.environ[REDIS_URL]


def pooled_url() -> str:
    """The same for a client that blocks: room for a connection to each thread that waits for a result."""
    return f"{redis_url()}?max_connections=1024"


def answers_on_list() -> bool:
    """Whether the worker is to answer on the list; else the peer's own results carry the answer."""
    return os.environ.get(ANSWERS, "list") == "list"


class Claimer:
    """The work, for a worker that blocks."""

    def __init__(self) -> None:
        self._script = Redis.from_url(redis_url()).register_script(CLAIM)
        self._on_list = answers_on_list()

    def claim(self, number: int) -> int:
        """Take the record of a number: 1 where it was free."""
        keys, arguments = claim_arguments(number, reply=self._on_list)
        return int(self._script(keys=keys, args=arguments))


class AsyncClaimer:
    """The work, for a worker in asyncio."""

    def __init__(self) -> None:
        self._script = redis_asyncio.Redis.from_url(redis_url()).register_script(CLAIM)
        self._on_list = answers_on_list()

    async def claim(self, number: int) -> int:
        """Take the record of a number: 1 where it was free."""
        keys, arguments = claim_arguments(number, reply=self._on_list)
        return int(await self._script(keys=keys, args=arguments))


def drive(enqueue: Callable[[int], Any], result: Callable[[Any], Any]) -> None:
    """Drive a peer whose client blocks. `result` waits for what `enqueue` returned."""
    redis = Redis.from_url(redis_url(), socket_timeout=60)

    def send(numbers: Sequence[int]) -> None:
        for number in numbers:
            enqueue(number)

    def call(number: int) -> bool:
        return int(result(enqueue(number))) == 1

    def run(order: Order, tally: Tally) -> None:
        if answers_on_list():
            drive_lines(order, tally, ReplyList(redis, send))
        else:
            drive_calls(order, tally, map(partial(partial, call), itertools.count(order.first)))

    if (count := recorded()) is not None:
        enqueue(PROBE)  # connects, and loads scripts
        say_warm()
        send(range(count))
        return
    if answers_on_list():
        send([PROBE])
        ReplyList(redis, send).receive()
    else:
        call(PROBE)
    redis.delete(record_key(PROBE))
    serve(run)


def recorded() -> int | None:
    """How many requests are to be sent for a recorder; None: none, they are to be answered."""
    count = os.environ.get("BENCH_RECORD")
    return None if count is None else int(count)


def say_warm() -> None:
    """Tell the recorder that what comes now counts, and wait for its word."""
    print("warm", flush=True)
    sys.stdin.readline()


Opened = tuple[Callable[[int], Awaitable[Any]], Callable[[Any], Awaitable[Any]]]
Opener = Callable[[], AbstractAsyncContextManager[Opened]]
Lines = tuple[AsyncReplyList, Callable[[int], Awaitable[bool]]]


def drive_async(open_client: Opener) -> None:
    """Drive a peer whose client is for asyncio: the context gives what enqueues, and what waits for a result."""

    async def window(order: Order, tally: Tally) -> None:
        async with _lines(open_client) as (lines, call):
            if answers_on_list():
                await drive_async_lines(order, tally, lines)
            else:
                await drive_async_calls(order, tally, map(partial(partial, call), itertools.count(order.first)))

    if (count := recorded()) is not None:
        asyncio.run(_enqueue_all(open_client, count))
        return
    asyncio.run(_probe(open_client))
    Redis.from_url(redis_url()).delete(record_key(PROBE))
    serve(lambda order, tally: asyncio.run(window(order, tally)))


@asynccontextmanager
async def _lines(open_client: Opener) -> AsyncIterator[Lines]:
    """A client, and both ways to wait for answers."""
    async with (
        redis_asyncio.Redis.from_url(redis_url(), socket_timeout=60) as redis,
        open_client() as (enqueue, result),
    ):

        async def send(numbers: Sequence[int]) -> None:
            await asyncio.gather(*(enqueue(number) for number in numbers))

        async def call(number: int) -> bool:
            return int(await result(await enqueue(number))) == 1

        yield AsyncReplyList(redis, send), call


async def _probe(open_client: Opener) -> None:
    async with _lines(open_client) as (lines, call):
        if answers_on_list():
            await lines.send([PROBE])
            await lines.receive()
        else:
            await call(PROBE)


async def _enqueue_all(open_client: Opener, count: int) -> None:
    async with open_client() as (enqueue, _):
        await enqueue(PROBE)  # connects, and loads scripts
        say_warm()
        for number in range(count):
            await enqueue(number)
