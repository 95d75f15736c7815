"""Says in a worker's log what it refuses. Whoever may send decides how much that is, but not how long the log gets."""

from collections.abc import Sequence

import structlog

from broker.clock import Steady
from workers.finishing import Refused

log = structlog.get_logger(__name__)

AGAIN_MS = 1_000
"""From one line to the next. The dead letters have each of them, with its reason."""


class Refusals:
    """Counts them, and tells of the first at once. A line shows one of those it counts."""

    def __init__(self, worker: str, *, steady_ms: Steady) -> None:
        self._worker = worker
        self._steady_ms = steady_ms
        self._said_ms: int | None = None
        self._shown: Refused | None = None
        """The first that is not told of yet."""
        self._count = 0

    def after(self, refused: Sequence[Refused]) -> None:
        """Of a batch."""
        if refused:
            self._shown = self._shown or refused[0]
            self._count += len(refused)
            self.tell()

    def tell(self, *, at_once: bool = False) -> None:
        """Say how many there were since the last line, if it is time."""
        if self._shown is None:
            return
        now_ms = self._steady_ms()
        if not at_once and self._said_ms is not None and now_ms - self._said_ms < AGAIN_MS:
            return
        error = self._shown.error
        named = getattr(error, "sender", {}).get("factory_id")
        log.warning(
            "request_refused",
            worker=self._worker,
            count=self._count,
            wire=self._shown.entry.wire,
            reason=str(error),
            **({} if named is None else {"factory": named}),
        )
        self._said_ms, self._shown, self._count = now_ms, None, 0
