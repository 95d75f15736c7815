"""What a campaign does to a fleet: one function for each kind of fault, and the table of them."""

import os
import signal
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from random import Random
from typing import Final

from broker.clock import monotonic_ms, sleep_ms
from tests.chaos.fleet import Fleet
from tests.chaos.proxy import Proxy
from tests.chaos.servers import Servers
from tests.chaos.work import TTL_MS

PAUSE_MS: Final = 1_000
OUT_OF_MEMORY_MS: Final = 1_500
BEHIND_MS: Final = 500
"""How long the replica has missed writes as it is promoted."""
STOPPED_MS: Final = 3 * TTL_MS


@dataclass(slots=True)
class Stage:
    """What faults act on. `later` holds what is to be undone in time."""

    fleet: Fleet
    servers: Servers
    proxy: Proxy
    random: Random
    kills: int = 0
    later: list[tuple[int, Callable[[], None]]] = field(default_factory=list)

    def undo_due(self, *, all_of_them: bool = False) -> None:
        """Undo what is due by now."""
        due = [each for each in self.later if all_of_them or each[0] <= monotonic_ms()]
        self.later = [each for each in self.later if each not in due]
        for _, undo in due:
            undo()


Fault = Callable[[Stage], int | None]
"""Carries itself out and returns when the fault ends (this host's monotonic clock, ms); None: nobody was there."""


def _kill(kind: str) -> Fault:
    def fault(stage: Stage) -> int | None:
        pid = stage.fleet.pick(kind, stage.random)
        if pid is None:
            return None
        os.kill(pid, signal.SIGKILL)
        stage.kills += 1
        return monotonic_ms()

    return fault


def _stop(kind: str) -> Fault:
    def fault(stage: Stage) -> int | None:
        pid = stage.fleet.pick(kind, stage.random)
        if pid is None:
            return None
        os.kill(pid, signal.SIGSTOP)
        ends_ms = monotonic_ms() + STOPPED_MS
        stage.later.append((ends_ms, lambda: _continue(pid)))
        return ends_ms

    return fault


def _continue(pid: int) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGCONT)


def _restart(*, keep: bool) -> Fault:
    def fault(stage: Stage) -> int:
        stage.servers.kill()
        stage.kills += 1
        stage.servers.restart(keep=keep)
        return monotonic_ms()

    return fault


def _flushall(stage: Stage) -> int:
    stage.servers.command("FLUSHALL")
    return monotonic_ms()


def _pause(stage: Stage) -> int:
    stage.servers.command("CLIENT", "PAUSE", PAUSE_MS, "ALL")
    return monotonic_ms() + PAUSE_MS


def _redis_stopped(stage: Stage) -> int:
    pid = stage.servers.running.pid
    os.kill(pid, signal.SIGSTOP)
    sleep_ms(STOPPED_MS)
    os.kill(pid, signal.SIGCONT)
    return monotonic_ms()


def _out_of_memory(stage: Stage) -> int:
    stage.servers.command("CONFIG", "SET", "maxmemory", 1)
    sleep_ms(OUT_OF_MEMORY_MS)
    stage.servers.command("CONFIG", "SET", "maxmemory", 0)
    return monotonic_ms()


def _dropped(stage: Stage) -> int:
    stage.proxy.drop()
    return monotonic_ms()


def _reset(stage: Stage) -> int:
    stage.proxy.reset()
    return monotonic_ms()


def _half_open(stage: Stage) -> int:
    stage.proxy.half_open()
    return monotonic_ms()


def _stale_replica(stage: Stage) -> int:
    replica = stage.servers.replica()
    replica.cut_off()
    sleep_ms(BEHIND_MS)
    stage.servers.promote(replica)
    stage.kills += 1
    stage.proxy.lead_to(stage.servers.socket)
    stage.proxy.drop()
    return monotonic_ms()


FAULTS: Final[Mapping[str, Fault]] = {
    "kill a worker": _kill("worker"),
    "kill the sweep": _kill("sweep"),
    "kill a factory": _kill("factory"),
    "kill the supervisor": _kill("supervisor"),
    "stop a worker 3 ttl": _stop("worker"),
    "stop a factory 3 ttl": _stop("factory"),
    "stop the sweep 3 ttl": _stop("sweep"),
    "redis: killed, keeps its data": _restart(keep=True),
    "redis: killed, loses all": _restart(keep=False),
    "redis: FLUSHALL": _flushall,
    "redis: CLIENT PAUSE": _pause,
    "redis: stopped 3 ttl": _redis_stopped,
    "redis: out of memory": _out_of_memory,
    "redis: connections dropped": _dropped,
    "redis: connections half-open": _half_open,
    "redis: connections closed on one side": _reset,
    "redis: stale replica promoted": _stale_replica,
}
