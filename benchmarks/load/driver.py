"""A driver's side of the pipe: orders come in as JSON lines, `begin`, `end` and a result go out.

The harness reads the CPU time of every process as `begin` and `end` arrive, so a driver says them on the dot.
"""

import json
import sys
import time
from array import array
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

QUANTILES = 100


@dataclass(frozen=True, slots=True)
class Order:
    """One window to drive."""

    outstanding: int
    warm_s: float
    window_s: float
    first: int
    """Number of the first record: those of two windows never meet."""
    pool: int
    """How many records to make beforehand, where a contestant needs that."""
    make_s: float = 60.0
    """For how long at most they are made; with fewer the window may end early."""


class Tally:
    """Counts what happened in a window, and how long each took."""

    def __init__(self, order: Order) -> None:
        self.order = order
        self.wins = 0
        """Of the whole window, warm-up and end included: what the store must show afterwards."""
        self.refused = 0
        self.weight = 1
        """How much one answer counts, such as the leases of one message."""
        self.longest_gap_s = 0.0
        self.extra: dict[str, Any] = {}
        self._took = array("d")
        self._opened = 0.0
        self._begin = float("inf")
        self._end = float("inf")
        self._closed = 0.0
        self._last = 0.0

    @property
    def begun(self) -> bool:
        """Whether the window has begun, after its warm-up."""
        return self._last > 0

    def open(self) -> None:
        """The first request goes out now."""
        self._opened = time.perf_counter()
        self._begin = self._opened + self.order.warm_s
        self._end = self._begin + self.order.window_s

    def going(self, now: float) -> bool:
        """Whether another request is to be sent at `now`; tells the harness as the window begins and ends."""
        if now < self._begin:
            return True
        if not self._last:
            self._last = self._begin = now  # answers may come many at once: the window spans whole intervals
            self._end = now + self.order.window_s
            _say("begin")
        if now < self._end:
            return not self._closed
        self.close(now)
        return False

    def close(self, now: float) -> None:
        """The window is over, before its time where the records ran out."""
        if self._closed:
            return
        if not self._last:
            raise SystemExit("the records ran out in the warm-up; a larger pool is needed")
        self._closed = now
        _say("end")

    def note(self, sent: float, now: float, *, won: bool) -> None:
        """One answer came at `now`."""
        if won:
            self.wins += 1
        else:
            self.refused += 1
        if self._last and not self._closed:
            self._took.append(now - sent)
            if now - self._last > self.longest_gap_s:
                self.longest_gap_s = now - self._last
            self._last = now

    def told(self) -> dict[str, Any]:
        """The result, as it goes to the harness. Times in microseconds."""
        took = sorted(self._took)
        count = len(took)
        at = [took[min(count - 1, count * number // QUANTILES)] * 1e6 for number in range(QUANTILES)] if count else []
        return {
            "count": count * self.weight,
            "seconds": self._closed - self._begin,
            "wins": self.wins,
            "refused": self.refused,
            "longest_gap_ms": self.longest_gap_s * 1000,
            "quantiles_us": [round(value, 1) for value in at],
            "p99_us": took[count * 99 // 100] * 1e6 if count else 0.0,
            **self.extra,
        }


def serve(run: Callable[[Order, Tally], None]) -> None:
    """Carry out orders until standard input ends."""
    _say("ready")
    for line in sys.stdin:
        order = Order(**json.loads(line))
        tally = Tally(order)
        run(order, tally)
        _say(json.dumps(tally.told()))


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()
