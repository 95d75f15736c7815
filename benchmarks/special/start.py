"""How long a worker takes from its start to the answer of a claim that was waiting for it."""

import json
import re
import sys
import time
from collections import Counter
from dataclasses import dataclass
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
IMPORTS = "imports, "
"""And the package, in milliseconds."""
PACKAGES = 8
PYTHON = "Python's own"
TOLD_MS = "start that tells of its imports, ms"
IMPORT = re.compile(r"import time:\s+(?P<us>\d+) \|\s+\d+ \|\s+(?P<package>[^.\s]+)\S*")


def measure() -> dict[str, list[float]]:
    """Seconds from the spawn to the grant, for some starts on one SQLite file, and the imports of one more."""
    row = Ours("start", "sqlite")
    with scratch() as name:
        processes = Processes(Path(name))
        try:
            server = start_server(Path(name), processes)
            stage = Stage(Path(name), server, processes)
            row.start_worker(stage)
            with Client.connect(server.url, factory_id=FACTORY, timeout_ms=WAIT_S * 1000) as client:
                for number in range(STARTS + 1):
                    client.submit(job_id=f"job-{number}")
            took = [_start(stage, row, number) for number in range(STARTS)]
            (stage.folder / "worker.log").unlink()
            told = _start(stage, Told("start", "sqlite"), STARTS)
            imports = by_package((stage.folder / "worker.log").read_text(encoding="utf-8"))
            shares = {f"{IMPORTS}{package}": [ms] for package, ms in imports.items()}
            return {"start_to_first_claim_s": took, TOLD_MS: [told * 1000], **shares}
        finally:
            processes.close()


@dataclass(frozen=True, slots=True)
class Told(Ours):
    """Whose worker tells how long each of its imports takes, which makes it a little slower."""

    def environment(self, stage: Stage) -> dict[str, str]:
        """As `-X importtime`."""
        return {**Ours.environment(self, stage), "PYTHONPROFILEIMPORTTIME": "1"}


def by_package(log: str) -> dict[str, float]:
    """Milliseconds of the imports of each package, without what it imports from others, as `-X importtime` tells."""
    found: Counter[str] = Counter()
    for line in log.splitlines():
        if told := IMPORT.fullmatch(line):
            package = told["package"]
            found[PYTHON if package.lstrip("_") in sys.stdlib_module_names else package] += int(told["us"])
    named = dict(found.most_common(PACKAGES))
    return {package: us / 1000 for package, us in {**named, "others": found.total() - sum(named.values())}.items()}


def _start(stage: Stage, row: Ours, number: int) -> float:
    """Seconds from the spawn of a worker to the grant of a claim that waits, once no other worker is left."""
    for worker in stage.processes.of_role("worker"):
        stage.processes.end(worker)
    with stage.server.connect() as connection:
        connection.rpush(intake_key("claims"), _claim(number))
        begin = time.perf_counter()
        row.start_worker(stage)
        answer = connection.blpop([reply_key(FACTORY, "x")], WAIT_S)
        took = time.perf_counter() - begin
    if not answer or json.loads(answer[1])["answer"] != "granted":
        raise BenchError(f"a started worker answered {answer!r}")
    return took


def _claim(number: int) -> str:
    envelope = {"op": "claim", "request_id": f"start-{number}", "factory_id": FACTORY, "incarnation": "start"}
    return json.dumps({**envelope, "instance": "x", "body": {"job_id": f"job-{number}"}})
