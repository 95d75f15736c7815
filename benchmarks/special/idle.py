"""What a fleet costs that has nothing to do: 1,000 parked claims, 10 workers."""

import json
import time
from pathlib import Path

from benchmarks.contestant import Stage
from benchmarks.ours.rows import Ours
from benchmarks.processes import Processes, scratch, wait_for
from benchmarks.server import start_server
from broker import claim_next
from broker.queues import intake_key

PARKED = 1_000
WORKERS = 10
SETTLE_S = 2.0
WINDOW_S = 10.0
WAIT_MS = 60_000


def measure() -> dict[str, list[float]]:
    """CPU of Redis, workers and sweep together, in percent of a core, and commands a second on Redis."""
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
                before, commands = processes.cpu_s(), connection.info("stats")["total_commands_processed"]
                time.sleep(WINDOW_S)
                after = processes.cpu_s()
                commands = connection.info("stats")["total_commands_processed"] - commands - 1
            used_s = sum(after.values()) - sum(before.values())
            return {
                "idle_percent_of_a_core": [100 * used_s / WINDOW_S],
                "idle_redis_commands_per_s": [commands / WINDOW_S],
            }
        finally:
            processes.close()


def _claim(number: int) -> str:
    envelope = {"op": "claim", "request_id": f"parked-{number}", "factory_id": "idle", "incarnation": "idle"}
    return json.dumps({**envelope, "instance": "idle", "body": {"queue": f"q{number % 10}", "wait_ms": WAIT_MS}})
