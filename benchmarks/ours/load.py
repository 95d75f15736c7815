"""Claims jobs that were submitted before, each by its id, through the product's own client; every claim wins."""

import argparse
import asyncio
import gc
import os
import signal
import time
from collections import deque
from collections.abc import Awaitable, Callable, Iterator
from functools import partial
from typing import Literal, get_args

from benchmarks.load.driver import Order, Tally, serve
from benchmarks.load.loops import drive_async_calls, drive_calls
from broker.client import AsyncClient, Client
from broker.client.reply import Reply
from broker.messages import SubmitBody
from broker.queues import Wire

Mode = Literal["claim", "mixed", "next"]
"""`mixed`: claim, renew, complete, counted as one; `next`: whichever job comes next."""

TTL_MS = 600_000
"""No lease ends while a row is measured."""
TIMEOUT_MS = 30_000
SLICE = 512
PAYLOAD = {"repository": "git@example.org:team/project.git", "commit": "0123456789abcdef", "steps": ["build", "test"]}


def main() -> None:
    """Serve the harness's orders."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--url", required=True)
    parser.add_argument("--wire", choices=get_args(Wire), default="rq")
    parser.add_argument("--mode", choices=get_args(Mode), default="claim")
    parser.add_argument("--client", choices=("sync", "async"), default="async")
    parser.add_argument("--kill", type=int, metavar="PID", help="kill this worker in the middle of the window")
    options = parser.parse_args()
    if options.kill:
        serve(lambda order, tally: asyncio.run(_drive_and_kill(options, order, tally)))
        return
    run = _run_sync if options.client == "sync" else _run_async
    serve(lambda order, tally: run(options.url, options.wire, options.mode, order, tally))


def _run_async(url: str, wire: Wire, mode: Mode, order: Order, tally: Tally) -> None:
    asyncio.run(_drive_async(url, wire, mode, order, tally))


async def _drive_async(url: str, wire: Wire, mode: Mode, order: Order, tally: Tally) -> None:
    async with AsyncClient.connect(url, factory_id="bench", wire=wire, timeout_ms=TIMEOUT_MS) as client:
        jobs = await submit(client, order)
        freeze()
        await drive_async_calls(order, tally, _async_calls(client, mode, jobs))


async def _drive_and_kill(options: argparse.Namespace, order: Order, tally: Tally) -> None:
    async def kill() -> None:
        while not tally.begun:
            await asyncio.sleep(0.01)
        await asyncio.sleep(order.window_s / 3)
        os.kill(options.kill, signal.SIGKILL)
        tally.extra["killed"] = 1

    killing = asyncio.create_task(kill())
    await _drive_async(options.url, options.wire, options.mode, order, tally)
    await killing


def _run_sync(url: str, wire: Wire, mode: Mode, order: Order, tally: Tally) -> None:
    async def prepare() -> deque[str]:
        async with AsyncClient.connect(url, factory_id="bench", wire=wire, timeout_ms=TIMEOUT_MS) as client:
            return await submit(client, order)

    jobs = asyncio.run(prepare())
    with Client.connect(url, factory_id="bench", wire=wire, timeout_ms=TIMEOUT_MS) as client:
        freeze()
        drive_calls(order, tally, _sync_calls(client, mode, jobs))


async def submit(client: AsyncClient, order: Order, *, at_most: int | None = None) -> deque[str]:
    """Submit the pool of an order; the ids of its jobs."""
    pool = order.pool if at_most is None else min(at_most, order.pool)
    jobs: deque[str] = deque()
    begin = time.perf_counter()
    while len(jobs) < pool:
        if time.perf_counter() - begin > order.make_s:
            break
        slice = [f"job-{order.first + len(jobs) + number}" for number in range(min(SLICE, pool - len(jobs)))]
        bodies = [SubmitBody(job_id=job, payload=PAYLOAD, ttl_ms=TTL_MS, queue=f"w{order.first}") for job in slice]
        answers = await client.submit_many(bodies)
        if refused := [answer.summary for answer in answers if not answer.good]:
            raise SystemExit(f"{len(refused)} submissions were refused: {refused[0]}")
        jobs += slice
    return jobs


def _async_calls(client: AsyncClient, mode: Mode, jobs: deque[str]) -> Iterator[Callable[[], Awaitable[bool]]]:
    async def claim(job: str) -> bool:
        return _won(await client.claim(job), job)

    async def mixed(job: str) -> bool:
        grant = await client.claim(job)
        if not _won(grant, job):
            return False
        fence = {"epoch": grant.body["epoch"], "token": grant.body["token"]}
        renewed = await client.renew(job, **fence)
        completed = await client.complete(job, **fence)
        return renewed.good and completed.good

    async def next_one(queue: str) -> bool:
        return (await client.claim(queue=queue)).granted

    act = {"claim": claim, "mixed": mixed, "next": next_one}[mode]
    queue = f"w{jobs[0].removeprefix('job-')}"
    return (partial(act, queue if mode == "next" else job) for job in jobs)


def _sync_calls(client: Client, mode: Mode, jobs: deque[str]) -> Iterator[Callable[[], bool]]:
    def mixed(job: str) -> bool:
        grant = client.claim(job)
        fence = {"epoch": grant.body["epoch"], "token": grant.body["token"]}
        return _won(grant, job) and client.renew(job, **fence).good and client.complete(job, **fence).good

    def claim(job: str) -> bool:
        return _won(client.claim(job), job)

    def next_one(queue: str) -> bool:
        return client.claim(queue=queue).granted

    act = {"claim": claim, "mixed": mixed, "next": next_one}[mode]
    queue = f"w{jobs[0].removeprefix('job-')}"
    return (partial(act, queue if mode == "next" else job) for job in jobs)


def _won(grant: Reply, job: str) -> bool:
    """A grant of this job at its first epoch, with what was submitted."""
    return grant.granted and grant.body["job_id"] == job and grant.body["epoch"] == 1 and "payload" in grant.body


def freeze() -> None:
    """What was made so far stays: collections in the window look at requests only."""
    gc.collect()
    gc.freeze()


if __name__ == "__main__":
    main()
