"""The one place that asks for time, so that everything else takes it as an argument."""

import platform
import time
from collections.abc import Callable
from pathlib import Path
from typing import Protocol, TypeAlias

from redis import Redis

# Linux's monotonic clock stands still while a machine is suspended, and a holder would trust its lease too long.
_STEADY = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


SET_BACK_MS = 600_000
"""No worker is late by as much: what is so far ahead of its time is from before broker time was set back."""

Steady: TypeAlias = Callable[[], int]
"""A host's monotonic clock: `monotonic_ms`, or in a simulation one that drifts and stands still when told."""


def monotonic_ms() -> int:
    """This host's monotonic clock, milliseconds from an arbitrary start. Holders count their deadline on it (I9)."""
    return time.clock_gettime_ns(_STEADY) // 1_000_000


def steady_ns() -> int:
    """The same clock in nanoseconds. All processes of a machine read the same one, until it is started anew."""
    return time.clock_gettime_ns(_STEADY)


class Clock(Protocol):
    """Broker time."""

    def now_ms(self) -> int:
        """Unix milliseconds."""
        ...


class RedisClock:
    """Broker time: Redis `TIME`, one round trip. Hosts' clocks are never compared (design §6)."""

    def __init__(self, connection: Redis) -> None:
        self._connection = connection

    def now_ms(self) -> int:
        """Unix milliseconds, as Redis sees them."""
        seconds, micros = self._connection.time()
        return int(seconds) * 1000 + int(micros) // 1000


class AnchoredClock:
    """Broker time read once, carried on by this host's monotonic clock: no round trip, and right after a pause too.

    A process that was stopped between taking a request and settling it must not judge by the old time (I7).
    """

    def __init__(self, now_ms: int, steady_ms: Steady = monotonic_ms) -> None:
        self._steady_ms = steady_ms
        self._ahead_ms = now_ms - steady_ms()

    def now_ms(self) -> int:
        """Unix milliseconds of broker time."""
        return self._ahead_ms + self._steady_ms()


class ManualClock:
    """A clock that moves when told; for tests and simulation."""

    def __init__(self, now_ms: int = 1_700_000_000_000) -> None:
        self._now_ms = now_ms

    def now_ms(self) -> int:
        """Unix milliseconds last set."""
        return self._now_ms

    def advance(self, ms: int) -> int:
        """Move by `ms` milliseconds and return the new time."""
        self._now_ms += ms
        return self._now_ms


def host_now_ms() -> int:
    """This host's wall clock, Unix milliseconds. For display and for a client's first guess; no lease depends on it."""
    return time.time_ns() // 1_000_000


def clock_name() -> str:
    """Names this machine's steady clock: two histories with the same name can be compared moment by moment."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:  # not Linux
        return platform.node()


def sleep_ms(ms: float) -> None:
    """Pause this thread for `ms` milliseconds."""
    time.sleep(ms / 1000)
