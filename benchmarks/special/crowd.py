"""Keeps 100,000 claims queued, once it is told to: they are of a job that is held, and nobody reads their answers."""

import argparse
import json
import time

from redis import Redis

from broker.queues import intake_key

QUEUED = 100_000
SLICE = 5_000
PAUSE_S = 0.02
HELD = "job-0"
GO = "bench:crowd"
"""Set by the driver when its own leases are held."""


def main() -> None:
    """Push until killed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--url", required=True)
    options = parser.parse_args()
    redis = Redis.from_url(options.url)
    key = intake_key("claims")
    claims = [_claim(number) for number in range(SLICE)]  # made once: a crowd must not cost the cores it is to fill
    while not redis.exists(GO):
        time.sleep(PAUSE_S)
    while True:
        missing = QUEUED - redis.llen(key)
        if missing > 0:
            redis.rpush(key, *claims[:missing])
        else:
            time.sleep(PAUSE_S)


def call_the_crowd(url: str) -> None:
    """Let the claims come, and wait until they are queued."""
    with Redis.from_url(url) as redis:
        redis.set(GO, 1)
        while redis.llen(intake_key("claims")) < QUEUED * 0.9:
            time.sleep(PAUSE_S)


def _claim(number: int) -> str:
    envelope = {"op": "claim", "request_id": f"crowd-{number}", "factory_id": "crowd", "incarnation": "crowd"}
    return json.dumps({**envelope, "instance": f"crowd-{number % 64}", "body": {"job_id": HELD}})


if __name__ == "__main__":
    main()
