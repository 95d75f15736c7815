"""What one run measures, and for how long."""

from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks.contestant import Contestant


@dataclass(frozen=True, slots=True)
class Row:
    """A contestant, and the numbers of outstanding requests it is measured at."""

    contestant: Contestant
    levels: tuple[int, ...]
    rounds: int | None = None
    """How many rounds visit it; None: all."""


@dataclass(frozen=True, slots=True)
class Plan:
    """Interleaved rounds of all rows."""

    rows: tuple[Row, ...]
    rounds: int
    warm_s: float
    window_s: float
    repeats: int = 0
    """How often windows are measured anew that ended early, as records ran out."""
    budget_s: float | None = None
    """No further round begins that would not end within it, counted from the first; None: all of them."""

    def of_round(self, round: int) -> Sequence[Row]:
        """The rows of a round: each round begins with another one, so that no row always follows the same."""
        at = round * max(1, len(self.rows) // max(1, self.rounds)) % max(1, len(self.rows))
        rotated = self.rows[at:] + self.rows[:at]
        return [row for row in rotated if row.rounds is None or round < row.rounds]
