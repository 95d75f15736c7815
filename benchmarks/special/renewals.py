"""Renewals as rows: single, a hundred a message, and single while 100,000 claims are queued."""

import sys
from dataclasses import dataclass

from benchmarks.contestant import Command, Stage
from benchmarks.ours.rows import Ours
from benchmarks.special.crowd import QUEUED

BATCH = 100


@dataclass(frozen=True, slots=True)
class Renewals(Ours):
    """Our worker with the memory store, asked to renew."""

    batch: int = 1
    crowded: bool = False

    def environment(self, stage: Stage) -> dict[str, str]:
        """The crowd is to stand in the queue, not to be turned away from it."""
        return {**Ours.environment(self, stage), "BROKER_QUEUE_MAX": str(2 * QUEUED)}

    def driver(self, stage: Stage, outstanding: int) -> Command:  # noqa: ARG002 - the same for any number
        """Renewals in a closed loop; a crowd waits for the leases to be held."""
        options = ["--url", stage.server.url, "--batch", str(self.batch)]
        if self.crowded:
            options.append("--crowded")
            argv = (sys.executable, "-m", "benchmarks.special.crowd", "--url", stage.server.url)
            stage.processes.start("crowd", argv)
        return Command((sys.executable, "-m", "benchmarks.special.renew_load", *options))

    def winners(self, stage: Stage) -> int | None:  # noqa: ARG002 - a renewal wins nothing; the driver saw each succeed
        """Nothing to win."""
        return None


SINGLE = Renewals("renew-single", "memory")
BATCHED = Renewals("renew-batch-100", "memory", batch=BATCH)
CROWDED = Renewals("renew-crowded", "memory", crowded=True)
