"""Rows with the same client: our worker by both wires, and a peer's worker with its recorded requests."""

import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from benchmarks.contestant import Command, Stage
from benchmarks.ours.rows import Ours
from benchmarks.peers.rows import Peer
from benchmarks.processes import BenchError
from benchmarks.replay.recorder import Recorder
from benchmarks.replay.requests import group, write_requests

RECORDED_MIN = 20_000
"""At least, which takes some five seconds; more where the rate that a peer has shown with this client asks for it."""
RECORD_S = 90
FILE = "requests.bin"
LOAD = (sys.executable, "-m", "benchmarks.replay.load")


@dataclass(frozen=True, slots=True)
class OursReplayed(Ours):
    """Our worker, asked with bytes made beforehand."""

    def driver(self, stage: Stage, outstanding: int) -> Command:  # noqa: ARG002 - the same for any number
        """The replaying client."""
        return Command((*LOAD, "--url", stage.server.url, "--wire", self.wire))


@dataclass(frozen=True, slots=True)
class PeerReplayed:
    """A peer's workers, asked with what its own client was heard to send."""

    peer: Peer
    pooled: bool = False

    @property
    def name(self) -> str:
        """The peer's, marked."""
        return f"{self.peer.name}-replayed"

    def serve(self, stage: Stage) -> None:
        """Record on the server of this row, empty it (scripts stay loaded), then start the workers."""
        recorder = Recorder(stage.server.port)
        try:
            count = max(RECORDED_MIN, stage.records or 0)
            self._record(stage, recorder, count)
            requests = group(recorder.commands, count)
        except ValueError as error:
            raise BenchError(str(error)) from error
        finally:
            recorder.close()
        write_requests(stage.folder / FILE, requests)
        with stage.server.connect() as connection:
            connection.flushall()
        self.peer.serve(stage)

    def driver(self, stage: Stage, outstanding: int) -> Command:  # noqa: ARG002 - the same for any number
        """The replaying client."""
        return Command((*LOAD, "--url", stage.server.url, "--recorded", str(stage.folder / FILE)))

    def watch(self, stage: Stage) -> Callable[[], Mapping[str, str]]:
        """Which setting it was."""
        return self.peer.watch(stage)

    def winners(self, stage: Stage) -> int:
        """Records that were taken."""
        return self.peer.winners(stage)

    def _record(self, stage: Stage, recorder: Recorder, count: int) -> None:
        command = self.peer.driver(stage, 1)
        heard = {"BENCH_REDIS_URL": f"redis://127.0.0.1:{recorder.port}/0", "BENCH_RECORD": str(count)}
        process = stage.processes.start("recording", command.argv, env={**command.env, **heard}, talks=True)
        assert process.stdin is not None
        assert process.stdout is not None
        if process.stdout.readline() != "warm\n":
            raise BenchError(f"{self.peer.name} could not be recorded")
        recorder.commands.clear()
        process.stdin.write("go\n")
        process.stdin.flush()
        try:
            process.wait(RECORD_S)
        except subprocess.TimeoutExpired as error:
            raise BenchError(f"{self.peer.name} sent no {count} requests within {RECORD_S} s") from error
        stage.processes.end(process)


MEMORY_RQ_REPLAYED = OursReplayed("memory-rq-replayed", "memory")
MEMORY_INTAKE_REPLAYED = OursReplayed("memory-intake-replayed", "memory", wire="intake")
