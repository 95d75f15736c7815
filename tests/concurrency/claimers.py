"""A herd of claimers, each process with a few claims: `claimers.py REDIS_URL PROCESSES EACH JOB…`.

It prints the replies, one JSON object a line: `{"job": …, "replies": […]}`. JOB `*` is a claim-next for everybody.
"""

import json
import os
import sys
from typing import Any

from redis import Redis

from tests.caller import Caller


def herd(redis_url: str, job: str, *, processes: int, each: int) -> list[dict[str, Any]]:
    """All processes send all their claims at the same moment; every reply."""
    hold, go = os.pipe()
    answers, told = os.pipe()
    children = []
    for number in range(processes):
        child = os.fork()
        if child == 0:
            os.close(go)
            os.read(hold, 1)  # ends once the parent lets go: everybody starts together
            for reply in _claims(redis_url, f"f{number}", job, each):
                os.write(told, json.dumps(reply).encode() + b"\n")
            os._exit(0)
        children.append(child)
    os.close(go)
    os.close(told)
    with os.fdopen(answers) as lines:
        replies = [json.loads(line) for line in lines]
    for child in children:
        assert os.waitpid(child, 0)[1] == 0
    os.close(hold)
    return replies


def _claims(redis_url: str, factory: str, job: str, each: int) -> list[Any]:
    with Redis.from_url(redis_url) as connection:
        caller = Caller(connection, factory)
        requests = [caller.make("claim", job_id=None if job == "*" else job) for _ in range(each)]
        caller.send(*requests)
        return list(caller.replies(*requests, deadline_ms=60_000))


if __name__ == "__main__":
    url, count, claims = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    for job_id in sys.argv[4:]:
        print(json.dumps({"job": job_id, "replies": herd(url, job_id, processes=count, each=claims)}), flush=True)  # noqa: T201  # its output is its result
