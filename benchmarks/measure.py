"""What one window showed, as plain values that go into the JSON."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Measure:
    """One window of one row."""

    row: str
    round: int
    outstanding: int
    per_s: float
    p50_us: float
    p99_us: float
    window_s: float
    """Shorter than asked where the records ran out."""
    cpu_us: Mapping[str, float]
    """CPU microseconds of each process for one answer."""
    wins: int
    quantiles_us: tuple[float, ...] = ()
    extra: Mapping[str, Any] = field(default_factory=dict)

    @property
    def cpu_total_us(self) -> float:
        """All processes together."""
        return sum(self.cpu_us.values())
