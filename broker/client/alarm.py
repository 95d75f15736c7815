"""One timer of the event loop for any number of waits: most of them end long before their time."""

import asyncio

from broker.clock import Steady, monotonic_ms

LOOKED_AT_PER_MS = 1_000
"""However short the waits are, and however many: looking at all of them takes a tenth of the time at most."""


class Alarm:
    """Completes futures at their time, unless they are complete by then."""

    def __init__(self, steady_ms: Steady = monotonic_ms) -> None:
        self._steady_ms = steady_ms
        self._waits: dict[asyncio.Future[None], int] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._rings_ms = 0

    def at(self, due_ms: int, now_ms: int, wake: "asyncio.Future[None]") -> None:
        """Complete `wake` at `due_ms`, where it is `now_ms` now; both on the steady clock."""
        self._waits[wake] = due_ms
        if self._timer is None or due_ms < self._rings_ms:
            self._set(due_ms, now_ms)

    def off(self, wake: "asyncio.Future[None]") -> None:
        """Nobody waits for `wake` any more. The timer is left alone: another one may want it."""
        self._waits.pop(wake, None)

    def _set(self, due_ms: int, now_ms: int) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._rings_ms = due_ms
        # A millisecond later: the clocks are cut to milliseconds, and who is woken must find its time over.
        pause_ms = max(0, due_ms - now_ms + 1, len(self._waits) // LOOKED_AT_PER_MS)
        self._timer = asyncio.get_running_loop().call_later(pause_ms / 1000, self._ring)

    def _ring(self) -> None:
        self._timer = None
        now_ms = self._steady_ms()  # after a stop of the process much more may be due than planned
        over = [(due_ms, wake) for wake, due_ms in self._waits.items() if due_ms <= now_ms]
        for _, wake in sorted(over, key=lambda wait: wait[0]):
            del self._waits[wake]
            if not wake.done():
                wake.set_result(None)
        if self._waits:
            self._set(min(self._waits.values()), now_ms)
