"""What a fleet costs that has nothing to do: 1,000 parked claims, 10 workers."""

import json
import time
from collections import defaultdict
from pathlib import Path

from redis import Redis

from benchmarks.contestant import Stage
from benchmarks.ours.rows import Ours
from benchmarks.processes import Processes, scratch, wait_for
from benchmarks.server import start_server
from broker import claim_next
from broker.queues import intake_key

PARKED = 1_000
WORKERS = 10
SETTLE_S = 2.0
PERCENT = "idle_percent_of_a_core"
COMMANDS = "idle_redis_commands_per_s"
WINDOWS = 5
WINDOW_S = 10.0
"""CPU time comes in steps of 10 ms a process, and a shorter window would see few of them."""
WAIT_MS = 60_000


def measure() -> dict[str, list[float]]:
    """CPU of Redis, workers and sweep, in percent of a core, and commands a second on Redis; of several windows."""
    found: defaultdict[str, list[float]] = defaultdict(list)
    with scratch() as name:
        processes = Processes(Path(name))
        try:
            server = start_server(Path(name), processes)
            stage = Stage(Path(name), server, processes)
            Ours("idle", "sqlite", workers=WORKERS).serve(stage)
            with server.connect() as connection:
                connection.rpush(intake_key("claims"), *(_claim(number) for number in range(PARKED)))
                wait_for(lambda: connection.hlen(claim_next.WAITING) == PARKED, "every claim is parked")
                time.sleep(SETTLE_S)
                for _ in range(WINDOWS):
                    for figure, value in _window(processes, connection).items():
                        found[figure].append(value)
            return dict(found)
        finally:
            processes.close()


def _window(processes: Processes, connection: Redis) -> dict[str, float]:
    before, commands = _used_s(processes), connection.info("stats")["total_commands_processed"]
    begin = time.monotonic()
    time.sleep(WINDOW_S)
    seconds, after = time.monotonic() - begin, _used_s(processes)
    commands = connection.info("stats")["total_commands_processed"] - commands - 1
    shares = {role: 100 * (used_s - before[role]) / seconds for role, used_s in after.items()}
    return {
        PERCENT: sum(shares.values()),
        **{f"{PERCENT} {role}": share for role, share in shares.items()},
        COMMANDS: commands / seconds,
    }


def _used_s(processes: Processes) -> dict[str, float]:
    """CPU seconds by role: ten workers are one figure."""
    used: defaultdict[str, float] = defaultdict(float)
    for name, seconds in processes.cpu_s().items():
        used[name.split()[0]] += seconds
    return used


def _claim(number: int) -> str:
    envelope = {"op": "claim", "request_id": f"parked-{number}", "factory_id": "idle", "incarnation": "idle"}
    return json.dumps({**envelope, "instance": "idle", "body": {"queue": f"q{number % 10}", "wait_ms": WAIT_MS}})
