"""Herds of factories that all send at one moment, one herd for each line that comes in: `{"url", "asked"}`.

`asked` has an item for each process, a list of `[op, body]`. What goes out is one line too: a list of the replies of
each, in their order. The processes are forks of this one, which has loaded everything once.
"""

import json
import os
import sys
from typing import Any

from redis import Redis

from tests.caller import Caller

DEADLINE_MS = 60_000


def herd(url: str, asked: list[list[tuple[str, dict[str, Any]]]]) -> list[list[Any]]:
    """Every process sends all of its requests at the same moment; the replies of each."""
    hold, go = os.pipe()
    answers, told = os.pipe()
    children = []
    for number, requests in enumerate(asked):
        child = os.fork()
        if child == 0:
            os.close(go)
            with Redis.from_url(url) as connection:
                caller = Caller(connection, f"f{number}")
                made = [caller.make(op, **body) for op, body in requests]
                os.read(hold, 1)  # ends once the parent lets go: everybody starts together
                caller.send(*made)
                replies = caller.replies(*made, deadline_ms=DEADLINE_MS)
            os.write(told, json.dumps([number, replies]).encode() + b"\n")
            os._exit(0)
        children.append(child)
    os.close(go)
    os.close(told)
    with os.fdopen(answers) as lines:
        found = dict(json.loads(line) for line in lines)
    for child in children:
        assert os.waitpid(child, 0)[1] == 0
    os.close(hold)
    return [found[number] for number in range(len(asked))]


if __name__ == "__main__":
    for line in sys.stdin:
        print(json.dumps(herd(**json.loads(line))), flush=True)  # noqa: T201  # its output is its result
