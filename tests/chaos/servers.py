"""The Redis of a campaign: restarted, or replaced by a replica that has missed the last writes."""

import os
import shutil
import signal
from contextlib import closing
from pathlib import Path
from typing import Any

import redis

from tests.processes import free_port, wait_for
from workers.embedded import EmbeddedServer, start_embedded
from workers.server_files import ServerFiles
from workers.state_dir import StateDir

SERVER_MS = 30_000


class Servers:
    """The server in use. To be used from the main thread: servers are tied to the one that starts them."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._number = 0
        self.running = self._start(self._state(0))

    @property
    def socket(self) -> Path:
        """Where the server in use listens."""
        return ServerFiles.of(self._state(self._number)).socket

    def command(self, *words: Any) -> Any:
        """Ask the server in use, not through the proxy."""
        with closing(redis.Redis.from_url(self.running.url)) as connection:
            return connection.execute_command(*words)  # type: ignore[no-untyped-call]  # redis-py leaves it untyped

    def kill(self) -> None:
        """SIGKILL; its files stay."""
        os.kill(self.running.pid, signal.SIGKILL)
        self.running.stop()

    def restart(self, *, keep: bool) -> None:
        """After `kill`: start again, with its append-only file or without."""
        state = self._state(self._number)
        if not keep:
            shutil.rmtree(state.path / "appendonlydir", ignore_errors=True)
        self.running = self._start(state)

    def replica(self) -> "Replica":
        """A copy of the server in use that follows it."""
        port = free_port()
        self.command("CONFIG", "SET", "port", port)
        spare = self._start(self._state(self._number + 1))
        replica = Replica(spare)
        replica.command("REPLICAOF", "127.0.0.1", port)
        wait_for(replica.in_step, "the replica has caught up", deadline_ms=SERVER_MS)
        return replica

    def promote(self, replica: "Replica") -> None:
        """Kill the server in use; the replica takes its place, with what it has."""
        self.kill()
        self._number += 1
        self.running = replica.server

    def stop(self) -> None:
        """End the server in use."""
        self.running.stop()

    def _state(self, number: int) -> StateDir:
        return StateDir.at(self._folder / f"redis-{number}")

    def _start(self, state: StateDir) -> EmbeddedServer:
        return start_embedded(state)


class Replica:
    """A server that follows another until it is cut off."""

    def __init__(self, server: EmbeddedServer) -> None:
        self.server = server

    def command(self, *words: Any) -> Any:
        """Ask it."""
        with closing(redis.Redis.from_url(self.server.url)) as connection:
            return connection.execute_command(*words)  # type: ignore[no-untyped-call]  # redis-py leaves it untyped

    def in_step(self) -> bool:
        """Whether it has had a first copy of everything."""
        with closing(redis.Redis.from_url(self.server.url)) as connection:
            return bool(connection.info("replication").get("master_link_status") == "up")

    def cut_off(self) -> None:
        """From here on it misses every write."""
        self.command("REPLICAOF", "NO", "ONE")
