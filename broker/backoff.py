"""Pauses before Redis is tried again, for clients and workers alike."""

from broker.entropy import Entropy

BACKOFF_MIN_S = 0.05
BACKOFF_MAX_S = 2.0


class Backoff:
    """Growing, jittered pauses before Redis is tried again."""

    def __init__(self, entropy: Entropy) -> None:
        self._entropy = entropy
        self._failures = 0

    def next_s(self) -> float:
        """The pause after one more failure, in seconds: full jitter below a doubling bound."""
        bound = min(BACKOFF_MAX_S, BACKOFF_MIN_S * float(1 << min(self._failures, 10)))
        self._failures += 1
        return BACKOFF_MIN_S + bound * self._entropy.jitter()

    def reset(self) -> None:
        """It worked; the next failure is the first again."""
        self._failures = 0
