"""What one window showed, as plain values that go into the JSON."""

from collections.abc import Mapping, Sequence
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
    """Shorter than asked where the records ran out: see `whole`."""
    cpu_us: Mapping[str, float]
    """CPU microseconds of each process for one answer."""
    wins: int
    quantiles_us: tuple[float, ...] = ()
    extra: Mapping[str, Any] = field(default_factory=dict)
    commands: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """How the processes were started, by role."""

    def whole(self, asked_s: float) -> bool:
        """Whether the window lasted as long as was asked."""
        return self.window_s > asked_s * (1 - 1e-6)  # a window ends at the first answer after its time

    @property
    def cpu_total_us(self) -> float:
        """All processes together."""
        return sum(self.cpu_us.values())
