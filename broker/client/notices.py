"""Who is to renew at once, because the broker sent a notice nobody asked for."""

import threading
from collections.abc import Callable

import pydantic_core


class Notices:
    """Guards by the job they hold. Safe under threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._guards: dict[tuple[str, int], Callable[[], None]] = {}

    def watch(self, job_id: str, epoch: int, renew: Callable[[], None]) -> None:
        """Call `renew` where a notice for this lease comes. It must not block."""
        with self._lock:
            self._guards[job_id, epoch] = renew

    def forget(self, job_id: str, epoch: int) -> None:
        """The lease is over."""
        with self._lock:
            self._guards.pop((job_id, epoch), None)

    def deliver(self, text: bytes) -> bool:
        """Whether this is a notice. One for a lease that nobody keeps here is dropped."""
        try:
            wire = pydantic_core.from_json(text)
            lease = (str(wire["job_id"]), int(wire["epoch"])) if wire["notice"] == "renew" else ("", 0)
        except (ValueError, KeyError, TypeError):
            return False
        with self._lock:
            renew = self._guards.get(lease)
        if renew is not None:
            renew()
        return True
