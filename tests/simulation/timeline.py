"""Simulated time: what happens next, in an order that the seed decides."""

from collections.abc import Callable
from functools import partial
from heapq import heappop, heappush
from random import Random
from typing import TypeAlias

Action: TypeAlias = Callable[[], None]


class Timeline:
    """A queue of actions by time, in milliseconds. Of two at one time the seed says which comes first."""

    def __init__(self, random: Random) -> None:
        self.now_ms = 0.0
        self.steps = 0
        self._draw = random.random
        self._queue: list[tuple[float, float, int, Action]] = []
        self._added = 0
        self._until_ms = 0.0
        self._done: Callable[[], bool] | None = None

    def now_ns(self) -> int:
        """The same in nanoseconds, as histories have it."""
        return int(self.now_ms * 1_000_000)

    def after(self, ms: float, action: Action) -> None:
        """Do `action` in `ms` milliseconds."""
        self._added += 1
        heappush(self._queue, (self.now_ms + ms, self._draw(), self._added, action))

    def slept(self, ms: float, wake: Callable[[int], None], number: int) -> bool:
        """Let `ms` pass for whoever's turn it is.

        False: others come first, or it is the end; then `wake` is called with `number`.
        """
        self._added += 1
        at_ms, order, queue = self.now_ms + ms, self._draw(), self._queue
        if at_ms > self._until_ms or (queue and queue[0] < (at_ms, order)) or (self._done and self._done()):
            action: Action = partial(wake, number)
            heappush(queue, (at_ms, order, self._added, action))
            return False
        self.now_ms = at_ms
        self.steps += 1
        return True

    def run(self, *, until_ms: float, done: Callable[[], bool] | None = None) -> None:
        """Let time pass until then, or until something is `done`, which is asked before each step."""
        self._until_ms, self._done = until_ms, done
        queue = self._queue
        while queue and queue[0][0] <= until_ms:
            if done and done():
                return
            self.now_ms, _, _, action = heappop(queue)
            self.steps += 1
            action()
        self.now_ms = max(self.now_ms, until_ms)


class BrokerClock:
    """The clock of the machine that Redis runs on: broker time. It may jump."""

    START_MS = 1_700_000_000_000

    def __init__(self, timeline: Timeline, *, ahead_ms: int) -> None:
        """`ahead_ms`: how much later than at `START_MS` it begins."""
        self._timeline = timeline
        self._ahead_ms = self.START_MS + ahead_ms
        self.jumps: list[float] = []
        """When it jumped, in time of the timeline. Leases end before their holders expect it where it jumps forwards,
        and where a worker still goes by the time before it jumped back."""
        self.shown_before_ms = 0
        """The times up to this one it shows for a second time, or has: it was set back."""

    def now_ms(self) -> int:
        """Unix milliseconds."""
        return self._ahead_ms + int(self._timeline.now_ms)

    def jump(self, ms: int) -> None:
        """Be `ms` milliseconds ahead of before, or behind."""
        if ms < 0:
            self.shown_before_ms = max(self.shown_before_ms, self.now_ms())
        self._ahead_ms += ms
        self.jumps.append(self._timeline.now_ms)


class HostClock:
    """A host's monotonic clock, running at a rate of its own."""

    def __init__(self, timeline: Timeline, *, start_ms: int, rate: float) -> None:
        self._timeline = timeline
        self._start_ms = start_ms
        self.rate = rate

    def steady_ms(self) -> int:
        """Milliseconds since some moment that no other host knows."""
        return self._start_ms + int(self._timeline.now_ms * self.rate)

    def lasts_ms(self, steady_ms: float) -> float:
        """How long a span of this clock takes on the timeline."""
        return steady_ms / self.rate
