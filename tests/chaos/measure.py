"""Throughput and recovery, from the times at which factories heard that a job of theirs was completed."""

import math
from bisect import bisect_left
from collections.abc import Sequence

WINDOW_MS = 1_000
ENOUGH = 0.9


def rate(times_ms: Sequence[int], begins_ms: int) -> int:
    """Completions in the second that begins then. `times_ms` ascends."""
    return bisect_left(times_ms, begins_ms + WINDOW_MS) - bisect_left(times_ms, begins_ms)


def baseline(times_ms: Sequence[int], begins_ms: int, ends_ms: int) -> float:
    """The median second of a time without faults."""
    rates = sorted(rate(times_ms, second) for second in range(begins_ms, ends_ms - WINDOW_MS + 1, WINDOW_MS // 4))
    return float(rates[len(rates) // 2]) if rates else 0.0


def recovered_after_ms(times_ms: Sequence[int], ended_ms: int, usual: float, now_ms: int) -> int | None:
    """From the end of a fault to the first second with at least `ENOUGH` of the usual rate; None: not by now.

    Between two completions nothing changes, so that only seconds which begin with one are looked at.
    """
    if rate(times_ms, ended_ms) >= ENOUGH * usual and ended_ms + WINDOW_MS <= now_ms:
        return 0
    for begins_ms in times_ms[bisect_left(times_ms, ended_ms) :]:
        if begins_ms + WINDOW_MS > now_ms:
            return None
        if rate(times_ms, begins_ms) >= ENOUGH * usual:
            return begins_ms - ended_ms
    return None


def percentile(values: Sequence[int], share: float) -> int:
    """The nearest rank of some values."""
    ascending = sorted(values)
    return ascending[max(1, math.ceil(share * len(ascending))) - 1]
