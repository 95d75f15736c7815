"""A herd of factories that work a queue off: `holders.py REDIS_URL PROCESSES WITNESS JOBS QUEUE…`.

Each writes `+job` into the witness once it was granted a job, and `-job` before it says that it is done: one line is
one write at the end of the file, so what overlaps there has overlapped, whatever the broker believes.
"""

import os
import random
import sys
from pathlib import Path

from redis import Redis

from broker.clock import monotonic_ms, sleep_ms
from tests.caller import Caller

DONE = "test:done"
REACH = "test:reach"
"""How many are to hold a job at one moment; until that has come about each works for longer, up to `REACH_MS`."""
HOLDING = "test:holding"
REACHED = "test:reached"
REACH_MS = 3_000
WORK_MS = 40
WAIT_MS = 300
IDLE_MS = 15_000
"""A factory that gets nothing for so long gives up: what is left has been lost."""


def herd(redis_url: str, processes: int, witness: str, jobs: int, queues: list[str]) -> None:
    """All processes work until so many jobs are done."""
    children = []
    for number in range(processes):
        child = os.fork()
        if child == 0:
            try:
                _work(redis_url, f"f{number}", witness, jobs, queues[number % len(queues)])
            finally:
                os._exit(0)
        children.append(child)
    for child in children:
        assert os.waitpid(child, 0)[1] == 0


def _work(redis_url: str, factory: str, witness: str, jobs: int, queue: str) -> None:
    file = os.open(witness, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    end_ms = monotonic_ms() + IDLE_MS
    with Redis.from_url(redis_url) as connection:
        caller = Caller(connection, factory)
        while int(connection.get(DONE) or 0) < jobs and monotonic_ms() < end_ms:
            reply = caller.ask("claim", queue=queue, wait_ms=WAIT_MS, wire="intake")
            if reply["answer"] != "granted":
                sleep_ms(random.uniform(5, 20))  # as a factory does that is told to come later
                continue
            end_ms = monotonic_ms() + IDLE_MS
            lease = {name: reply["body"][name] for name in ("job_id", "epoch", "token")}
            os.write(file, f"+{lease['job_id']}\n".encode())
            _hold_together(connection)
            sleep_ms(random.uniform(WORK_MS / 2, WORK_MS))
            os.write(file, f"-{lease['job_id']}\n".encode())
            if caller.ask("complete", **lease, wire="intake")["answer"] == "ok":
                connection.incr(DONE)


def _hold_together(connection: Redis) -> None:
    """Wait for others who hold a job, too: a slow store may hand out one after the other, and no limit matter."""
    reach = int(connection.get(REACH) or 0)
    if connection.incr(HOLDING) >= reach:
        connection.set(REACHED, 1)
    end_ms = monotonic_ms() + REACH_MS
    while not connection.exists(REACHED) and monotonic_ms() < end_ms:
        sleep_ms(5)
    connection.decr(HOLDING)


def overlaps(witness: Path) -> list[frozenset[str]]:
    """Every set of jobs that was held at one moment."""
    held: set[str] = set()
    found = []
    for line in witness.read_text(encoding="utf-8").splitlines():
        assert (line[1:] in held) == (line[0] == "-"), f"{line[1:]} was granted twice"
        held ^= {line[1:]}
        found.append(frozenset(held))
    assert not held
    return found


if __name__ == "__main__":
    herd(sys.argv[1], int(sys.argv[2]), sys.argv[3], int(sys.argv[4]), sys.argv[5:])
