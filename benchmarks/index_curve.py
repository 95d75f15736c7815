"""How long claim-next looks for a job among 1,000 to 1,000,000 of 50 sets of requirements: a flat curve is the claim.

`python -m benchmarks.index_curve [--sizes 1000,10000] [--rounds 20]`. It fills the index of a Valkey of its own, one
queue for each size, with and without fairness keys, and asks for proposals in interleaved rounds.
"""

import argparse
import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

import redis

from benchmarks.conditions import told
from broker import index, proposals
from broker.clock import ManualClock
from broker.index import Place
from broker.messages import Claim
from broker.ready_sets import ReadySets
from workers.embedded import start_embedded
from workers.state_dir import StateDir

SETS = 50
TENANTS = 1_000
SIZES = (1_000, 10_000, 100_000, 1_000_000)
IN_A_ROUND = 50
ROUNDS = 20
NOW_MS = 1_700_000_000_000
STEP_MS = 600_000
OFFERS = tuple(f"tool-{number}" for number in range(0, SETS, 2))
"""Half of the sets fit."""


@dataclass(frozen=True, slots=True)
class Point:
    """One size of the index, with or without fairness keys, and how long each proposal took, in microseconds."""

    jobs: int
    keyed: bool
    took_us: tuple[float, ...]
    """Of one round after the other."""
    redis_us: tuple[float, ...]
    """CPU time of Redis for a proposal, of each round."""


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", default=",".join(map(str, SIZES)))
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    options = parser.parse_args()
    sizes = [int(size) for size in options.sizes.split(",")]
    points = measure_curve(sizes, rounds=options.rounds, tell=print)
    print(f"{options.rounds} interleaved rounds of {IN_A_ROUND} proposals, {SETS} sets, {len(OFFERS)} of which fit")
    print(f"{'jobs':>9}  {'fairness keys':>13}  {'median µs':>9}  {'p99 µs':>8}  {'Redis µs':>8}")
    for point in points:
        percents = statistics.quantiles(point.took_us, n=100)
        keys = TENANTS if point.keyed else "none"
        redis_us = statistics.median(point.redis_us)
        print(f"{point.jobs:>9,}  {keys:>13}  {percents[49]:>9.0f}  {percents[98]:>8.0f}  {redis_us:>8.0f}")


def measure_curve(sizes: Sequence[int], *, rounds: int, tell: Callable[[str], None]) -> list[Point]:
    """Proposals at each size on a server of its own, in interleaved rounds; `tell` hears what it was measured on."""
    with tempfile.TemporaryDirectory() as folder:
        server = start_embedded(StateDir.at(Path(folder) / "state"))
        try:
            with redis.Redis.from_url(server.url) as connection:
                tell(told(connection))
                return _measure(connection, sizes, rounds=rounds)
        finally:
            server.stop()


def _measure(connection: redis.Redis, sizes: Sequence[int], *, rounds: int) -> list[Point]:
    queues = [(size, keyed, f"q{size}{'k' if keyed else ''}") for size in sizes for keyed in (False, True)]
    for size, keyed, queue in queues:
        fill(connection, queue, size, keyed=keyed)
    took: defaultdict[str, list[float]] = defaultdict(list)
    used: defaultdict[str, list[float]] = defaultdict(list)
    sets = ReadySets()
    for turn in range(rounds):
        for _, keyed, queue in queues:
            before_us = _redis_us(connection)
            found = [propose(connection, queue, sets) for _ in range(IN_A_ROUND)]
            used[queue].append((_redis_us(connection) - before_us) / IN_A_ROUND)
            took[queue] += [each for each, _ in found]
            with connection.pipeline(transaction=False) as pipe:  # they go back to the end, so that none runs out
                for number in (number for _, number in found):
                    index.offer(pipe, place(queue, number, score=NOW_MS + turn, keyed=keyed))
                pipe.execute()
    return [Point(size, keyed, tuple(took[queue]), tuple(used[queue])) for size, keyed, queue in queues]


def _redis_us(connection: redis.Redis) -> float:
    used = connection.info("cpu")
    return float(1e6 * (used["used_cpu_user"] + used["used_cpu_sys"]))


def fill(connection: redis.Redis, queue: str, jobs: int, *, keyed: bool) -> None:
    """Put jobs into the ready index of a queue, as a batch of submissions would."""
    for start in range(0, jobs, 10_000):
        with connection.pipeline(transaction=False) as pipe:
            for number in range(start, min(jobs, start + 10_000)):
                index.offer(pipe, place(queue, number, score=NOW_MS - jobs + number, keyed=keyed))
            pipe.execute()


def place(queue: str, number: int, *, score: int, keyed: bool) -> Place:
    """Where a job stands. Neighbours differ in their key and in their set, so that every key is in every set."""
    terms = index.encode_job_terms((f"tool-{number % SETS}",), ())
    return Place(f"job-{number:07}", queue, terms, score, f"~0~tenant-{number // SETS % TENANTS}" if keyed else "")


def propose(connection: redis.Redis, queue: str, sets: ReadySets) -> tuple[float, int]:
    """Ask for one job: how long it took, in microseconds, and its number."""
    name = uuid4().hex
    claim = Claim.model_validate(
        {
            "request_id": name,
            "factory_id": "f",
            "incarnation": "i",
            "instance": "x",
            "body": {"queue": queue, "offers": OFFERS},
        }
    )
    begin = time.perf_counter_ns()
    [proposal] = proposals.propose(
        connection,
        [proposals.Asking(claim)],
        worker="w",
        clock=ManualClock(NOW_MS),
        until_ms=NOW_MS + 1,
        step_ms=STEP_MS,
        sets=sets,
    )
    took = (time.perf_counter_ns() - begin) / 1_000
    if not isinstance(proposal, proposals.Candidate):
        raise SystemExit(f"{queue}: no job was proposed; larger --sizes are needed")
    return took, int(proposal.job_ids[0].removeprefix("job-"))


if __name__ == "__main__":
    main()
