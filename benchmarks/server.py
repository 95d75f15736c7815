"""A Valkey of its own for each row: nothing of an earlier row can be left in it, and nobody else reads it."""

import subprocess
from dataclasses import dataclass
from pathlib import Path

import redis
from redis.exceptions import ConnectionError as RedisConnectionError

from benchmarks.processes import Processes, free_port, wait_for
from workers.embedded import find_server

SETTINGS = {"save": "", "appendonly": "no", "bind": "127.0.0.1", "maxmemory-policy": "noeviction"}
"""Without persistence, for every row alike: what is compared is the work, not the disk under Redis."""


@dataclass(frozen=True, slots=True)
class Server:
    """A server that answers, over TCP on loopback: the one way that every peer knows."""

    port: int
    process: "subprocess.Popen[str]"

    @property
    def url(self) -> str:
        """How to reach it."""
        return f"redis://127.0.0.1:{self.port}/0"

    def connect(self) -> redis.Redis:
        """A connection of the harness's own."""
        return redis.Redis.from_url(self.url, client_name="bench-harness", socket_timeout=30)

    def strangers(self) -> list[str]:
        """Clients that are connected and are not the harness."""
        with self.connect() as connection:
            return [str(client) for client in connection.client_list() if client.get("name") != "bench-harness"]


def start_server(folder: Path, processes: Processes) -> Server:
    """A server in `folder`; it ends with `processes`, or with this process."""
    port = free_port()
    argv = [str(find_server()), "--port", str(port), "--dir", str(folder)]
    for name, value in SETTINGS.items():
        argv += [f"--{name}", value]
    server = Server(port, processes.start("redis", argv))

    def answers() -> bool:
        try:
            with server.connect() as connection:
                return bool(connection.ping())
        except RedisConnectionError:
            return False

    wait_for(answers, "the server answers", alive=server.process)
    return server
