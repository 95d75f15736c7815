"""One timer of the event loop for any number of waits: most of them end long before their time."""

import asyncio
from heapq import heappop, heappush
from itertools import count

from broker.clock import Steady, monotonic_ms


class Alarm:
    """Completes futures at their time, unless they are complete by then."""

    def __init__(self, steady_ms: Steady = monotonic_ms) -> None:
        self._steady_ms = steady_ms
        self._waits: list[tuple[int, int, asyncio.Future[None]]] = []
        self._order = count()
        self._timer: asyncio.TimerHandle | None = None
        self._rings_ms = 0

    def at(self, due_ms: int, now_ms: int, wake: "asyncio.Future[None]") -> None:
        """Complete `wake` at `due_ms`, where it is `now_ms` now; both on the steady clock."""
        heappush(self._waits, (due_ms, next(self._order), wake))
        if self._timer is None or due_ms < self._rings_ms:
            self._set(due_ms, now_ms)

    def _set(self, due_ms: int, now_ms: int) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._rings_ms = due_ms
        # A millisecond later: the clocks are cut to milliseconds, and who is woken must find its time over.
        self._timer = asyncio.get_running_loop().call_later(max(0, due_ms - now_ms + 1) / 1000, self._ring)

    def _ring(self) -> None:
        self._timer = None
        now_ms, waits = self._steady_ms(), self._waits  # after a stop of the process much more may be due than planned
        while waits and (waits[0][0] <= now_ms or waits[0][2].done()):
            wake = heappop(waits)[2]
            if not wake.done():
                wake.set_result(None)
        if waits:
            self._set(waits[0][0], now_ms)
