"""How much one batch reads for those who only look: whatever comes meanwhile waits, and all answers are in memory."""

from broker.answers import Answer
from broker.replies import encode

BYTES = 4 * 1024 * 1024
"""Of answers as JSON, all of which are in memory at once until the batch has ended: several times over, there."""
TIME_MS = 50
"""Renewals wait for the end of a batch."""


class Looks:
    """What one batch has spent on looking."""

    def __init__(self) -> None:
        self._bytes = 0
        self._ms = 0

    @property
    def over(self) -> bool:
        """Whether no more of them are looked at. The first always is."""
        return self._bytes >= BYTES or self._ms >= TIME_MS

    def spend(self, answer: Answer, took_ms: int) -> None:
        """Note what one of them came to."""
        self._bytes += len(encode(answer.body))
        self._ms += took_ms
