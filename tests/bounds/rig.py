"""A broker whose memory is watched: a server, two workers and a sweep, and a driver that pushes texts."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, cast

import psutil
import redis

from broker import replies
from broker.events import STREAM as EVENTS
from broker.index import INDEXED
from broker.queues import intake_key
from tests.processes import wait_for
from workers.embedded import start_embedded
from workers.leash import leashed
from workers.state_dir import StateDir
from workers.taking import WORKERS

ROOT = Path(__file__).parents[2]
MB = 1_048_576
ANSWERS_MS = 600_000
CHUNK = 1_000
WORKER = ("-m", "workers.cli", "worker")
"""What Python runs as a worker."""


@dataclass(frozen=True, slots=True)
class Memory:
    """Megabytes at one moment: the larger worker, the sweep, and what Redis uses but for the stream of events.

    That stream is bounded in itself and fills up at first: it would hide whatever else grows.
    """

    worker: float
    sweep: float
    redis: float


class Rig(AbstractContextManager["Rig"]):
    """Everything ends with the block. `worker`: as `WORKER`; `settings`: BROKER_* of them and the sweep."""

    def __init__(self, folder: Path, *, worker: Sequence[str] = WORKER, **settings: object) -> None:
        self._server = start_embedded(StateDir.at(folder / "redis"))
        self.redis: redis.Redis = redis.Redis.from_url(self._server.url, socket_timeout=None)
        """Without a time-out, which would send an LPOP again: what the first one took would be lost."""
        self.redis_url = self._server.url
        self.store_url = f"sqlite:///{folder / 'jobs.db'}"
        env = {f"BROKER_{name.upper()}": str(value) for name, value in settings.items()}
        self._env = {
            **os.environ,
            **env,
            "BROKER_REDIS_URL": self.redis_url,
            "BROKER_DATASTORE_URL": self.store_url,
            "BROKER_LOG_LEVEL": "ERROR",
            "PYTHONPATH": str(ROOT),
        }
        self._workers = [self._start(*worker) for _ in range(2)]
        wait_for(lambda: self.redis.zcard(WORKERS) >= 2, "two workers serve", deadline_ms=60_000)
        self._sweep = self._start("-m", "workers.cli", "sweep")
        wait_for(lambda: self.redis.exists(INDEXED), "the first sweep is over", deadline_ms=60_000)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for process in (*self._workers, self._sweep):
            process.kill()
            process.wait()
        self.redis.close()
        self._server.stop()

    def memory(self) -> Memory:
        """Now."""
        assert all(process.poll() is None for process in self._workers), "a worker has ended"
        rss = [psutil.Process(process.pid).memory_info().rss / MB for process in (*self._workers, self._sweep)]
        used = cast(Mapping[str, Any], self.redis.info("memory"))["used_memory"] / MB
        events = (self.redis.memory_usage(EVENTS, samples=0) or 0) / MB
        return Memory(max(rss[:2]), rss[2], used - events)

    @contextmanager
    def workers_stopped(self) -> Iterator[None]:
        """Within the block no worker serves: what is pushed waits, however slow this process is."""
        for process in self._workers:
            process.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            for process in self._workers:
                process.send_signal(signal.SIGCONT)

    def push(self, queue: str, texts: Iterable[str]) -> None:
        """Onto the intake, in one go."""
        self.redis.rpush(intake_key(queue), *texts)

    def answers(self, instance: str, count: int) -> list[bytes]:
        """Wait for so many replies to one client, and take them."""
        taken: list[bytes] = []
        key = replies.reply_key("f", instance)

        def enough() -> bool:
            taken.extend(cast(list[bytes], self.redis.lpop(key, CHUNK * 4) or []))
            return len(taken) >= count

        wait_for(enough, f"{count} replies", deadline_ms=ANSWERS_MS)
        return taken

    def ask(self, queue: str, instance: str, texts: Sequence[str]) -> list[bytes]:
        """Push, and wait for as many replies."""
        self.push(queue, texts)
        return self.answers(instance, len(texts))

    def _start(self, *arguments: str) -> "subprocess.Popen[bytes]":
        return subprocess.Popen(
            leashed([sys.executable, *arguments]),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env=self._env,
        )
