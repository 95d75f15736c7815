"""A factory that works on several jobs at once, with asyncio: one client, one lease for each job.

BROKER_REDIS_URL=redis://localhost python examples/async_factory.py --factory build-7 --at-once 4
"""

import argparse
import asyncio
import os
import sys
from typing import Any

from broker.answers import Word
from broker.client import AsyncClient, AsyncLease, BrokerTimeout, BrokerUnavailable, InvalidUrl, LeaseLost, NotGranted


async def work(lease: AsyncLease) -> dict[str, Any]:
    """Your work goes here. If the lease is lost, the await that runs just then is cancelled."""
    await lease.progress({"step": "begun"})
    await asyncio.sleep(0.05)
    return {"words": len(str((lease.payload or {}).get("body", "")).split())}


async def take_one(client: AsyncClient, queue: str, wait_ms: int) -> bool:
    """Wait for a job and do it. Whether there was one."""
    try:
        async with client.lease(queue=queue, wait_ms=wait_ms) as lease:
            await lease.complete(await work(lease))
            print(f"{lease.job_id}: done at epoch {lease.epoch}")
    except NotGranted as refused:
        if refused.reply.answer is not Word.NONE_AVAILABLE:  # draining, at a limit: the broker says for how long
            await asyncio.sleep((refused.reply.retry_after_ms or 1_000) / 1000)
        return False
    except LeaseLost as lost:
        print(f"{lost}; `broker job {lost.job_id}` says where it stands now")
    except (BrokerTimeout, BrokerUnavailable) as error:
        print(f"no broker: {error}")
        await asyncio.sleep(1)
        return False
    except Exception as error:  # reported as this try's failure when it left the lease's block; the lanes go on
        print(f"failed: {error!r}")
    return True


async def run(url: str, given: argparse.Namespace) -> None:
    """Keep `--at-once` jobs going; with `--jobs`, until that many are done."""
    left = given.jobs

    async def lane(client: AsyncClient) -> None:
        nonlocal left
        while left is None or left > 0:
            if left is not None:
                left -= 1
            if not await take_one(client, given.queue, wait_ms=10_000) and left is not None:
                left += 1

    async with (
        AsyncClient.connect(url, factory_id=given.factory) as client,
        asyncio.TaskGroup() as lanes,
    ):
        for _ in range(given.at_once):
            lanes.create_task(lane(client))


def main() -> int:
    """Be a factory until interrupted."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--factory", required=True, help="this factory's name")
    parser.add_argument("--queue", default="default")
    parser.add_argument("--at-once", type=int, default=4)
    parser.add_argument("--jobs", type=int, help="end after this many")
    given = parser.parse_args()
    url = os.environ.get("BROKER_REDIS_URL") or sys.exit("set BROKER_REDIS_URL, such as to redis://localhost")
    asyncio.run(run(url, given))
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:  # the lease was given back on the way here
        sys.exit(130)
    except InvalidUrl as error:
        sys.exit(str(error))
