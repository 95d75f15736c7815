"""Our rows: by wire, by store, by number of workers, and by client."""

import statistics
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

from benchmarks.contestant import Command, Stage
from benchmarks.ours.shares import lesser_share_percent, sent_bytes
from benchmarks.ours.winners import by_client, by_store
from benchmarks.processes import wait_for
from benchmarks.special.disk import BESIDE, fsyncs_us
from benchmarks.telling import FSYNC_US
from broker.queues import Wire
from datastore import connect
from workers.taking import WORKERS

START_S = 120
"""For ten workers on a machine that is busy."""


@dataclass(frozen=True, slots=True)
class Ours:
    """The product as a user runs it: `broker worker` processes, and the sweep beside a store of several."""

    name: str
    store: Literal["memory", "sqlite"]
    wire: Wire = "rq"
    workers: int = 1
    mode: Literal["claim", "mixed", "next"] = "claim"
    load: str = "benchmarks.ours.load"
    pooled: bool = True

    def serve(self, stage: Stage) -> None:
        """Start the workers and the sweep."""
        for _ in range(self.workers):
            self.start_worker(stage)
        if self.store == "sqlite":
            stage.processes.start("sweep", self._process("sweep"), env=self.environment(stage))
        with stage.server.connect() as connection:
            serving = f"{self.workers} workers serve"
            wait_for(lambda: connection.zcard(WORKERS) >= self.workers, serving, deadline_s=START_S)

    def start_worker(self, stage: Stage) -> None:
        """One more worker process."""
        stage.processes.start("worker", self._process("worker"), env=self.environment(stage))

    def environment(self, stage: Stage) -> dict[str, str]:
        """The settings of a broker process."""
        store = self.datastore_url(stage)
        return {"BROKER_REDIS_URL": stage.server.url, "BROKER_DATASTORE_URL": store, "BROKER_LOG_LEVEL": "ERROR"}

    def datastore_url(self, stage: Stage) -> str:
        """Where the jobs are."""
        return "memory://" if self.store == "memory" else f"sqlite:///{stage.folder / 'jobs.db'}"

    def driver(self, stage: Stage, outstanding: int) -> Command:
        """The product's client: the one for threads for one claim at a time, else the one for asyncio."""
        client = "sync" if outstanding == 1 else "async"
        options = ("--url", stage.server.url, "--wire", self.wire, "--mode", self.mode, "--client", client)
        return Command((sys.executable, "-m", self.load, *options))

    def watch(self, stage: Stage) -> Callable[[], Mapping[str, float]]:
        """With several workers, how much of a window's work the least busy one did; with SQLite, an fsync's time."""
        workers = [process.pid for process in stage.processes.of_role("worker")]
        before = sent_bytes(stage.server, workers) if self.workers > 1 else {}

        def told() -> Mapping[str, float]:
            figures: dict[str, float] = {}
            if self.workers > 1:
                figures["lesser_worker_percent"] = lesser_share_percent(before, sent_bytes(stage.server, workers))
            if self.store == "sqlite":
                figures[FSYNC_US] = statistics.median(fsyncs_us(stage.folder, BESIDE))
            return figures

        return told

    def winners(self, stage: Stage) -> int | None:
        """Jobs that were granted, as the store has them."""
        if self.store == "memory":  # nobody but its worker can read it
            return by_client(stage.server.url)
        store = connect(self.datastore_url(stage))
        try:
            return by_store(store)
        finally:
            store.close()

    def _process(self, kind: str) -> tuple[str, ...]:
        return (sys.executable, "-m", "workers.cli", kind)


MEMORY_RQ = Ours("memory-rq", "memory")
MEMORY_INTAKE = Ours("memory-intake", "memory", wire="intake")
SQLITE_1 = Ours("sqlite-1", "sqlite")
SQLITE_2 = Ours("sqlite-2", "sqlite", workers=2)
MEMORY_MIXED = Ours("memory-mixed", "memory", mode="mixed")
SQLITE_MIXED = Ours("sqlite-mixed", "sqlite", workers=2, mode="mixed")

__all__ = ["MEMORY_INTAKE", "MEMORY_MIXED", "MEMORY_RQ", "SQLITE_1", "SQLITE_2", "SQLITE_MIXED", "Ours"]
