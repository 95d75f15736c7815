"""Randomness as an argument: tokens, write ids and jitter."""

import os
import random
from typing import Protocol


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
    """The operating system's randomness; for what is no secret, Python's, which it seeds. Safe after a fork."""

    def token(self) -> str:
        return os.urandom(16).hex()

    def write_id(self) -> str:
        return f"{random.getrandbits(64):016x}"  # a mark, which nobody gains by guessing; after a fork seeded anew

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
