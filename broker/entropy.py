"""Randomness as an argument: tokens, write ids and jitter."""

import random
from typing import Protocol

from datastore.randomness import Ids


class Entropy(Protocol):
    """Where tokens, ids and jitter come from."""

    def token(self) -> str:
        """128 random bits, hex; what a holder proves itself with."""
        ...

    def write_id(self) -> str:
        """A mark that no other write carries, so that a writer recognises its own."""
        ...

    def jitter(self) -> float:
        """A share in [0, 1)."""
        ...


class SystemEntropy:
    """The operating system's randomness. Safe under threads and after a fork."""

    def __init__(self) -> None:
        self._ids = Ids()

    def token(self) -> str:
        return self._ids() + self._ids()

    def write_id(self) -> str:
        return self._ids()

    def jitter(self) -> float:
        return random.random()  # noqa: S311  # spreads retries; nobody gains by guessing it


class SeededEntropy:
    """Repeatable randomness, for tests and simulation."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)  # noqa: S311  # repeatable is the point

    def token(self) -> str:
        return f"{self._random.getrandbits(128):032x}"

    def write_id(self) -> str:
        return f"{self._random.getrandbits(64):016x}"

    def jitter(self) -> float:
        return self._random.random()
