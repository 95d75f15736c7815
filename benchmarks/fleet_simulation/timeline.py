"""Simulated time: what is to happen, in its order."""

import heapq
from collections.abc import Callable
from itertools import count


class Timeline:
    """Events by time, in milliseconds since the simulation began."""

    def __init__(self) -> None:
        self.now_ms = 0.0
        self.happened = 0
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._order = count()

    def at(self, at_ms: float, act: Callable[[], None]) -> None:
        """Let `act` happen then."""
        heapq.heappush(self._events, (at_ms, next(self._order), act))

    def after(self, ms: float, act: Callable[[], None]) -> None:
        """Let `act` happen that much later."""
        self.at(self.now_ms + ms, act)

    def run(self, until: Callable[[], bool]) -> None:
        """Let things happen until `until` holds after one of them, or nothing more is to happen."""
        while self._events and not until():
            self.now_ms, _, act = heapq.heappop(self._events)
            self.happened += 1
            act()


class Station:
    """So many servers that take requests in the order in which they come."""

    def __init__(self, servers: int) -> None:
        self.busy_ms = 0.0
        self._free_ms = [0.0] * servers

    def serve(self, come_ms: float, takes_ms: float) -> float:
        """When a request that comes then is served."""
        done_ms = max(come_ms, self._free_ms[0]) + takes_ms
        heapq.heapreplace(self._free_ms, done_ms)
        self.busy_ms += takes_ms
        return done_ms
