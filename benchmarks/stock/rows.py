"""Stock rq, and our worker asked by rq's own client."""

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from benchmarks.contestant import Command, Stage
from benchmarks.ours.rows import Ours
from benchmarks.processes import wait_for
from benchmarks.records import count_winners

WORKERS = 2


@dataclass(frozen=True, slots=True)
class StockRq:
    """`SimpleWorker` x 2, JSON, quiet, `result_ttl=60`."""

    name: str = "stock-rq"
    pooled: bool = False

    def serve(self, stage: Stage) -> None:
        """Start the workers."""
        for _ in range(WORKERS):
            argv = (sys.executable, "-m", "benchmarks.stock.worker")
            stage.processes.start("worker", argv, env={"BENCH_REDIS_URL": stage.server.url})
        with stage.server.connect() as connection:
            wait_for(lambda: connection.scard("rq:workers") == WORKERS, "every stock worker serves")

    def driver(self, stage: Stage, outstanding: int) -> Command:  # noqa: ARG002 - the same for any number
        """rq's own client."""
        return Command((sys.executable, "-m", "benchmarks.stock.load", "--url", stage.server.url, "--of", "stock"))

    def watch(self, stage: Stage) -> Callable[[], Mapping[str, float]]:  # noqa: ARG002 - nothing is counted here
        """Nothing more."""
        return dict

    def winners(self, stage: Stage) -> int:
        """Records that were taken."""
        return count_winners(stage.server)


@dataclass(frozen=True, slots=True)
class RqClientOnOurs(Ours):
    """Our worker, asked with `Queue.enqueue`."""

    def driver(self, stage: Stage, outstanding: int) -> Command:  # noqa: ARG002 - the same for any number
        """rq's own client."""
        return Command((sys.executable, "-m", "benchmarks.stock.load", "--url", stage.server.url, "--of", "ours"))


STOCK_RQ = StockRq()
RQ_CLIENT = RqClientOnOurs("memory-rq-enqueue", "memory")
