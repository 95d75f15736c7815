"""How long a worker takes from its start to the answer of a claim that was waiting for it."""

import json
import time
from pathlib import Path

from benchmarks.contestant import Stage
from benchmarks.ours.rows import Ours
from benchmarks.processes import BenchError, Processes, scratch
from benchmarks.server import start_server
from broker.client import Client
from broker.queues import intake_key
from broker.replies import reply_key

STARTS = 5
FACTORY = "starter"
WAIT_S = 20


def measure() -> dict[str, list[float]]:
    """Seconds from the spawn to the grant, for some starts on one SQLite file."""
    row = Ours("start", "sqlite")
    with scratch() as name:
        processes = Processes(Path(name))
        try:
            server = start_server(Path(name), processes)
            stage = Stage(Path(name), server, processes)
            row.start_worker(stage)
            with Client.connect(server.url, factory_id=FACTORY, timeout_ms=WAIT_S * 1000) as client:
                for number in range(STARTS):
                    client.submit(job_id=f"job-{number}")
            took = []
            for number in range(STARTS):
                for worker in processes.of_role("worker"):
                    processes.end(worker)
                with server.connect() as connection:
                    connection.rpush(intake_key("claims"), _claim(number))
                    begin = time.perf_counter()
                    row.start_worker(stage)
                    answer = connection.blpop([reply_key(FACTORY, "x")], WAIT_S)
                    took.append(time.perf_counter() - begin)
                if not answer or json.loads(answer[1])["answer"] != "granted":
                    raise BenchError(f"a started worker answered {answer!r}")
            return {"start_to_first_claim_s": took}
        finally:
            processes.close()


def _claim(number: int) -> str:
    envelope = {"op": "claim", "request_id": f"start-{number}", "factory_id": FACTORY, "incarnation": "start"}
    return json.dumps({**envelope, "instance": "x", "body": {"job_id": f"job-{number}"}})
