"""Drives the server with nothing between: PING, and the claim of a record as one Lua call, alone or in a pipeline."""

import argparse
import itertools
import time
from collections.abc import Callable, Sequence

from redis import Redis

from benchmarks.load.driver import Order, Tally, serve
from benchmarks.load.record import CLAIM, claim_arguments


def main() -> None:
    """Serve the harness's orders."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--url", required=True)
    parser.add_argument("--what", choices=("ping", "claim"), required=True)
    options = parser.parse_args()
    redis = Redis.from_url(options.url)
    script = redis.register_script(CLAIM)

    def ping(numbers: Sequence[int]) -> list[bool]:
        return [bool(redis.ping()) for _ in numbers]

    def claim(numbers: Sequence[int]) -> list[bool]:
        with redis.pipeline(transaction=False) as pipe:
            for number in numbers:
                keys, arguments = claim_arguments(number, reply=False)
                script(keys=keys, args=arguments, client=pipe)
            return [won == 1 for won in pipe.execute()]

    serve(lambda order, tally: _drive(order, tally, ping if options.what == "ping" else claim))


def _drive(order: Order, tally: Tally, act: Callable[[Sequence[int]], list[bool]]) -> None:
    numbers = itertools.count(order.first)
    tally.open()
    while tally.going(sent := time.perf_counter()):
        answers = act(list(itertools.islice(numbers, order.outstanding)))
        now = time.perf_counter()
        for won in answers:
            tally.note(sent, now, won=won)


if __name__ == "__main__":
    main()
