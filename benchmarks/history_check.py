"""How fast `broker check-history` is: a made-up history of many operations, and the time to judge it on one core.

`python -m benchmarks.history_check [--operations 1000000] [--keep FILE]`. Needs no server.
"""

import argparse
import os
import platform
import random
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec

from broker.history import Log, Record, verdict
from broker.history.reading import read

FACTORIES = 20
OPERATIONS_A_JOB = 5
"""Submit, claim, renew, a claim that is refused, complete."""


def operations(number: int, seed: int) -> Iterator[Record]:
    """The lines of `number` calls by several factories, mixed: every tenth lease is lost and taken over."""
    chance = random.Random(seed)
    clients = [f"{chance.getrandbits(64):016x}" for _ in range(FACTORIES)]
    calls = [0] * FACTORIES
    clock = 1_000_000_000
    waiting: list[Iterator[tuple[int, dict[str, object], dict[str, object]]]] = []
    made = jobs = 0
    while made < number:
        while len(waiting) < 2 * FACTORIES:
            jobs += 1
            waiting.append(_life(f"job-{jobs}", chance))
        place = chance.randrange(len(waiting))
        step = next(waiting[place], None)
        if step is None:
            waiting[place] = waiting[-1]
            waiting.pop()
            continue
        who, asked, learned = step
        calls[who] += 1
        made += 1
        invoked = Record(
            type="invoke",
            at=clock,
            client=clients[who],
            call=calls[who],
            request=f"{chance.getrandbits(128):032x}",
            factory=f"factory-{who}",
            incarnation=clients[who][:8],
            **asked,  # type: ignore[arg-type]  # fields of the record
        )
        yield invoked
        clock += chance.randrange(100_000, 900_000)
        yield msgspec.structs.replace(invoked, at=clock, sent=invoked.at, **learned)
        clock += 1_000


def _life(job: str, chance: random.Random) -> Iterator[tuple[int, dict[str, object], dict[str, object]]]:
    """What is done to one job: by which factory, what is asked and what is learned."""
    yield chance.randrange(FACTORIES), {"op": "submit", "job": job}, {"type": "ok", "answer": "ok", "state": "ready"}
    epoch = 1
    while True:
        who, token = chance.randrange(FACTORIES), f"{chance.getrandbits(64):016x}"
        fence = {"epoch": epoch, "token": token}
        yield who, {"op": "claim"}, {"type": "ok", "answer": "granted", "job": job, **fence}
        yield who, {"op": "renew", "job": job, **fence}, {"type": "ok", "answer": "renewed"}
        seen = {"seen": epoch, "state": "leased", "answer": "conflict", "reason": "held"}
        yield chance.randrange(FACTORIES), {"op": "claim", "job": job}, {"type": "refused", **seen}
        if chance.random() >= 0.1:
            yield who, {"op": "complete", "job": job, **fence}, {"type": "ok", "answer": "ok", "state": "succeeded"}
            return
        yield who, {"op": "complete", "job": job, **fence}, {"type": "unknown"}
        epoch += 1


def main() -> None:
    """Make a history, judge it, print what it took."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--operations", type=int, default=1_000_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--keep", type=Path, help="keep the history in this file")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path = options.keep or Path(folder) / "history.jsonl"
        encoder = msgspec.json.Encoder()
        with path.open("wb") as file:
            file.writelines(encoder.encode(each) + b"\n" for each in operations(options.operations, options.seed))
        print(f"machine:  {os.cpu_count()} CPUs, load {os.getloadavg()[0]:.1f}, {platform.platform()}")
        print(f"versions: Python {platform.python_version()}, msgspec {msgspec.__version__}")
        print(f"history:  {options.operations:,} operations, {path.stat().st_size / 1e6:,.0f} MB, seed {options.seed}")
        wall, cpu = time.perf_counter(), time.process_time()
        log = Log()
        for records in read([path]):
            log.feed(records)
        report = verdict(log)
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    if not report.ok or report.calls != options.operations:
        sys.exit(f"a sound history was misjudged: {report.violations[:1]}")
    print(f"checked:  {report.plain()}")
    each_us = 1e6 * cpu / report.calls
    print(f"took:     {cpu:.1f} s of CPU on one core ({wall:.1f} s of time), {each_us:.1f} µs an operation")


if __name__ == "__main__":
    main()
