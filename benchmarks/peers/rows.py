"""A peer as a row: its worker's own command, its own client, in its own environment."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from benchmarks import environments
from benchmarks.contestant import Command, Stage
from benchmarks.peers.settings import SETTINGS, Setting
from benchmarks.processes import BenchError
from benchmarks.records import count_winners

STEADY_S = 0.6
"""For so long no further connection is made: every worker is up."""
START_S = 20.0
NODE = Path(__file__).parent / "bullmq"


@dataclass(frozen=True, slots=True)
class Peer:
    """One peer in one setting."""

    name: str
    setting: Setting
    pooled: bool = False

    @property
    def node(self) -> bool:
        """Whether it runs under Node."""
        return self.name in environments.NODE_PEERS

    def serve(self, stage: Stage) -> None:
        """Start the workers, and wait until all of them are connected."""
        for _ in range(self.setting.copies):
            stage.processes.start("worker", self._argv(), env=self._env(stage))
        with stage.server.connect() as connection:
            seen, since, until = -1, time.monotonic(), time.monotonic() + START_S
            while seen < self.setting.copies + 1 or time.monotonic() - since < STEADY_S:
                clients = len(connection.client_list())
                if clients != seen:
                    seen, since = clients, time.monotonic()
                if time.monotonic() > until:
                    raise BenchError(f"{self.setting.name}: {seen} connections after {START_S} s")
                time.sleep(0.05)

    def driver(self, stage: Stage, outstanding: int) -> Command:  # noqa: ARG002 - the same for any number
        """Its own client."""
        if self.node:
            return Command(("node", str(NODE / "load.mjs")), self._env(stage))
        argv = (environments.program(self.name), "-m", f"benchmarks.peers.{self.name}_peer")
        return Command(argv, self._env(stage))

    def watch(self, stage: Stage) -> Callable[[], Mapping[str, str]]:  # noqa: ARG002 - the setting is known beforehand
        """Which setting it was."""
        return lambda: {"setting": self.setting.name}

    def winners(self, stage: Stage) -> int:
        """Records that were taken."""
        return count_winners(stage.server)

    def _argv(self) -> tuple[str, ...]:
        program, *rest = self.setting.command
        if self.node:
            return ("node", str(NODE / program), *rest)
        return (environments.program(self.name, program), *rest)

    def _env(self, stage: Stage) -> dict[str, str]:
        own = {"BENCH_REDIS_URL": stage.server.url, "BENCH_ANSWERS": self.setting.answers}
        if self.node:
            own["BENCH_MODULES"] = str(environments.FOLDER / self.name / "node_modules")
        return {**own, **self.setting.env}


def peer(name: str) -> Peer:
    """A peer in the setting that the table names first."""
    return Peer(name, SETTINGS[name][0])
