"""A local fleet for tests: real worker processes on a real server and a store in a file."""

import signal
import subprocess
from collections.abc import Mapping
from pathlib import Path

import redis

from broker.queues import QUEUES
from tests.processes import DEADLINE_MS, end, start, start_python, wait_for
from workers.inflight import WIRES
from workers.taking import WORKERS
from workers.waiters import BLOCK_S

_WORKER = (
    "import sys; from broker.settings import load; from workers.runtime import run_worker; sys.exit(run_worker(load()))"
)
_SWEEP = (
    "import sys; from broker.settings import load; from workers.runtime import run_sweep; "
    "sys.exit(run_sweep(load(), once=False))"
)


class Fleet:
    """Workers and sweeps that end with the test. `env` holds further BROKER_* settings."""

    def __init__(self, redis_url: str, folder: Path, *, datastore_url: str | None = None) -> None:
        self.redis_url = redis_url
        self.datastore_url = datastore_url or f"sqlite:///{folder / 'jobs.db'}"
        self.redis = redis.Redis.from_url(redis_url)
        self._processes: list[subprocess.Popen[str]] = []

    def environment(self, env: Mapping[str, str] | None = None) -> dict[str, str]:
        """What a process of this fleet needs to find Redis and the store."""
        return {"BROKER_REDIS_URL": self.redis_url, "BROKER_DATASTORE_URL": self.datastore_url, **(env or {})}

    def start_worker(self, env: Mapping[str, str] | None = None) -> "subprocess.Popen[str]":
        """A ClaimWorker in a process of its own, once it serves."""
        before = self.redis.zcard(WORKERS)
        worker = self._keep(start_python(_WORKER, env=self.environment(env)))
        wait_for(
            lambda: self.redis.zcard(WORKERS) > before or worker.poll() is not None,
            "a worker serves",
            deadline_ms=2 * DEADLINE_MS,
        )
        assert worker.poll() is None, worker.stdout.read() if worker.stdout else "the worker ended"
        return worker

    def waits_stand(self) -> bool:
        """Whether the only worker waits on all its lists, for a second more at least. It is known before it does."""
        waits = [each for each in self.redis.client_list() if each["cmd"] == "blmove" and "b" in each["flags"]]
        return len(waits) == len(QUEUES) * len(WIRES) and all(int(each["idle"]) < BLOCK_S - 1 for each in waits)

    def stop_at_its_waits(self, worker: "subprocess.Popen[str]") -> None:
        """Stop the only worker (SIGSTOP) such that Redis moves what comes next into its hands."""

        def stopped() -> bool:
            wait_for(self.waits_stand, "it waits on all its lists")
            worker.send_signal(signal.SIGSTOP)
            if self.waits_stand():
                return True
            worker.send_signal(signal.SIGCONT)
            return False

        wait_for(stopped, "it is stopped while it waits")

    def start_sweep(self, env: Mapping[str, str] | None = None) -> "subprocess.Popen[str]":
        """The sweep in a process of its own."""
        return self._keep(start_python(_SWEEP, env=self.environment(env)))

    def start(self, argv: list[str], env: Mapping[str, str] | None = None) -> "subprocess.Popen[str]":
        """Any other process with the fleet's environment."""
        return self._keep(start(argv, env=self.environment(env)))

    def close(self) -> None:
        """Kill what still runs."""
        for process in self._processes:
            end(process)
        self.redis.close()

    def _keep(self, process: "subprocess.Popen[str]") -> "subprocess.Popen[str]":
        self._processes.append(process)
        return process
