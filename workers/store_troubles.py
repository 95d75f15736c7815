"""Logs what a store tells beside its answers: at once, and then no more than once a minute, however often it is met."""

from threading import Lock

import structlog

from broker.clock import Steady, monotonic_ms
from datastore.interface import Trouble

log = structlog.get_logger(__name__)

EVERY_MS = 60_000
"""A worker that is not let in meets that with every call of every request: thousands a second."""


class Troubles:
    """An `OnTrouble` that logs. Safe under threads."""

    def __init__(self, steady_ms: Steady = monotonic_ms) -> None:
        self._steady_ms = steady_ms
        self._lock = Lock()
        self._logged_ms: dict[Trouble, int] = {}
        self._left_out: dict[Trouble, int] = {}

    def __call__(self, trouble: Trouble, text: str) -> None:
        """Log it, with how often it was met since the last time, unless that is less than a minute ago."""
        with self._lock:
            now_ms, last_ms = self._steady_ms(), self._logged_ms.get(trouble)
            if last_ms is not None and now_ms - last_ms < EVERY_MS:
                self._left_out[trouble] = self._left_out.get(trouble, 0) + 1
                return
            self._logged_ms[trouble] = now_ms
            more = self._left_out.pop(trouble, 0)
        write = log.error if trouble is Trouble.DENIED else log.warning  # the other is some people's choice
        write(trouble.value, error=text, left_out=more)
