"""The ceilings as rows: no worker, one client, the same Python."""

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from benchmarks.contestant import Command, Stage
from benchmarks.records import count_winners


@dataclass(frozen=True, slots=True)
class Ceiling:
    """One thing a server can do at most."""

    name: str
    what: str
    pooled: bool = False

    def serve(self, stage: Stage) -> None:
        """The server is all there is."""

    def driver(self, stage: Stage, outstanding: int) -> Command:  # noqa: ARG002 - the same for any number
        """Bare redis-py."""
        return Command(
            (sys.executable, "-m", "benchmarks.ceilings.load", "--url", stage.server.url, "--what", self.what)
        )

    def watch(self, stage: Stage) -> Callable[[], Mapping[str, float]]:  # noqa: ARG002 - nothing is counted here
        """Nothing more."""
        return dict

    def winners(self, stage: Stage) -> int | None:
        """Records that were taken; a PING takes none."""
        return count_winners(stage.server) if self.what == "claim" else None


PING = Ceiling("ping", "ping")
LUA = Ceiling("lua-claim", "claim")
