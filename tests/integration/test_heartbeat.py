"""A worker's heart beats for as long as the worker lives, whatever goes wrong with one beat."""

import dataclasses
import threading
from itertools import chain, repeat
from pathlib import Path
from typing import ClassVar

import pytest
import redis

from broker.settings import load
from tests.processes import wait_for
from workers import heartbeat
from workers.memory_owner import MemoryOwner
from workers.runtime import open_runtime
from workers.taking import WORKERS

pytestmark = pytest.mark.redis


def _never() -> None:
    raise AssertionError("no other store is served")


class Stumbling(MemoryOwner):
    """The owner of a memory, which by a mistake of ours can't be said once."""

    beats: ClassVar[list[str]] = []

    def keep(self, connection: redis.Redis) -> None:
        self.beats.append(self.mark)
        if len(self.beats) == 1:
            raise RuntimeError("scripted")
        super().keep(connection)


def test_a_beat_that_fails_is_followed_by_others(
    redis_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(heartbeat, "BEAT_S", 0.01)
    runtime = open_runtime(load(redis_url=redis_url, datastore_url=f"sqlite:///{tmp_path}/jobs.db"))
    owner = Stumbling(runtime.connection, "mark")
    beating = dataclasses.replace(runtime, memory=owner)
    with heartbeat.Heartbeat(beating, lambda: "w1", displaced=_never):
        wait_for(lambda: len(owner.beats) > 1, "it beats on")
        assert runtime.connection.zscore(WORKERS, "w1") is not None
    owner.release()
    runtime.close()


@pytest.mark.parametrize("takeover_ms", [2_000, 6_000, 60_000])
def test_two_beats_may_be_lost_before_a_worker_is_taken_for_dead(
    redis_url: str, tmp_path: Path, takeover_ms: int
) -> None:
    waited_s: list[float] = []

    class Counted(threading.Event):
        """Ends the thread at its third wait."""

        def wait(self, timeout: float | None = None) -> bool:
            waited_s.append(timeout or 0.0)
            return len(waited_s) == 3

    settings = load(redis_url=redis_url, datastore_url=f"sqlite:///{tmp_path}/jobs.db", takeover_ms=takeover_ms)
    runtime = open_runtime(settings)
    beating = heartbeat.Heartbeat(runtime, lambda: "w1", displaced=_never)
    beating._stop = Counted()
    with beating:
        wait_for(lambda: len(waited_s) == 3, "it waits before each beat")
    assert sum(waited_s) * 1_000 <= takeover_ms
    runtime.close()


def test_each_beat_is_of_the_session_that_the_worker_is_in(
    redis_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(heartbeat, "BEAT_S", 0.01)
    runtime = open_runtime(load(redis_url=redis_url, datastore_url=f"sqlite:///{tmp_path}/jobs.db"))
    sessions = chain(["w1~1"], repeat("w1~2"))
    with heartbeat.Heartbeat(runtime, lambda: next(sessions), displaced=_never):
        wait_for(lambda: runtime.connection.zcard(WORKERS) == 2, "it beats for both")
    assert runtime.connection.zrange(WORKERS, 0, -1) == [b"w1~1", b"w1~2"]
    runtime.close()
