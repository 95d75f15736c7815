"""Renews leases that were claimed before the window: one a message, or a hundred."""

import argparse
import asyncio
import itertools
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

from benchmarks.load.driver import Order, Tally, serve
from benchmarks.load.loops import drive_async_calls
from benchmarks.ours.load import TIMEOUT_MS, TTL_MS, freeze, submit
from benchmarks.special.crowd import call_the_crowd
from broker.client import AsyncClient

LEASES = 2_000
FENCE = ("job_id", "epoch", "token")


def main() -> None:
    """Serve the harness's orders."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--url", required=True)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--crowded", action="store_true")
    options = parser.parse_args()
    serve(lambda order, tally: asyncio.run(_drive(options, order, tally)))


async def _drive(options: argparse.Namespace, order: Order, tally: Tally) -> None:
    batch: int = options.batch
    tally.weight = batch
    async with AsyncClient.connect(options.url, factory_id="bench", timeout_ms=TIMEOUT_MS) as client:
        jobs = await submit(client, order, at_most=LEASES)
        grants = await asyncio.gather(*(client.claim(job) for job in jobs))
        leases = [{**{name: grant.body[name] for name in FENCE}, "ttl_ms": TTL_MS} for grant in grants]
        calls = _single(client, leases) if batch == 1 else _together(client, leases, batch)
        if options.crowded:
            await asyncio.to_thread(call_the_crowd, options.url)
        freeze()
        await drive_async_calls(order, tally, calls)


def _single(client: AsyncClient, leases: Sequence[Mapping[str, Any]]) -> Iterator[Callable[[], Awaitable[bool]]]:
    async def renew(lease: Mapping[str, Any]) -> bool:
        return (await client.renew(**lease)).good

    return (partial(renew, lease) for lease in itertools.cycle(leases))


def _together(
    client: AsyncClient, leases: Sequence[Mapping[str, Any]], batch: int
) -> Iterator[Callable[[], Awaitable[bool]]]:
    async def renew(part: Sequence[Mapping[str, Any]]) -> bool:
        results = (await client.renew_many(part)).results
        return len(results) == batch and all(each.good for each in results)

    parts = [leases[start : start + batch] for start in range(0, len(leases) - batch + 1, batch)]
    return (partial(renew, part) for part in itertools.cycle(parts))


if __name__ == "__main__":
    main()
