"""A minimal factory: takes one job after another, works on it under a lease, and says how it went.

BROKER_REDIS_URL=redis://localhost python examples/factory.py --factory build-7 --offers engine=python
"""

import argparse
import os
import signal
import sys
import time
from typing import Any

from broker.answers import Word
from broker.client import BrokerTimeout, BrokerUnavailable, Client, InvalidUrl, Lease, LeaseLost, NotGranted


def work(lease: Lease) -> dict[str, Any]:
    """Your work goes here. Call `lease.check()` before each step that others will see."""
    lease.progress({"step": "begun"})
    words = len(str((lease.payload or {}).get("body", "")).split())
    lease.check()
    return {"words": words}


def take_one(client: Client, queue: str, offers: list[str], wait_ms: int) -> bool:
    """Wait for a job and do it. Whether there was one."""
    try:
        with client.lease(queue=queue, offers=offers, wait_ms=wait_ms) as lease:
            print(f"{lease.job_id}: begun at epoch {lease.epoch}")
            lease.complete(work(lease))
            print(f"{lease.job_id}: done")
    except NotGranted as refused:
        if refused.reply.answer is not Word.NONE_AVAILABLE:  # throttled, draining: the broker says for how long
            time.sleep((refused.reply.retry_after_ms or 1_000) / 1000)
        return False
    except LeaseLost as lost:
        print(f"{lost}; `broker job {lost.job_id}` says where it stands now")
    except (BrokerTimeout, BrokerUnavailable) as error:
        print(f"no broker: {error}")
        time.sleep(1)
        return False
    except Exception as error:  # reported as this try's failure when it left the lease's block
        print(f"failed: {error!r}")
    return True


def main() -> int:
    """Be a factory until told to stop."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--factory", required=True, help="this factory's name")
    parser.add_argument("--queue", default="default")
    parser.add_argument("--offers", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--jobs", type=int, help="end after this many")
    given = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # leaves the block, which gives the job back
    url = os.environ.get("BROKER_REDIS_URL") or sys.exit("set BROKER_REDIS_URL, such as to redis://localhost")
    left = given.jobs
    with Client.connect(url, factory_id=given.factory) as client:
        while left is None or left > 0:
            if take_one(client, given.queue, given.offers, wait_ms=30_000) and left is not None:
                left -= 1
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:  # the lease was given back on the way here
        sys.exit(130)
    except InvalidUrl as error:
        sys.exit(str(error))
