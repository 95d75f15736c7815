"""Everything one run has shown, and the two questions asked of it: how much, and how much more than another row."""

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Self

from benchmarks.measure import Measure


@dataclass(frozen=True, slots=True)
class Spread:
    """A figure over the rounds."""

    median: float
    least: float
    most: float
    rounds: int

    @classmethod
    def of(cls, values: Sequence[float]) -> Self | None:
        """None where nothing was measured."""
        if not values:
            return None
        return cls(statistics.median(values), min(values), max(values), len(values))


@dataclass(frozen=True, slots=True)
class Cell:
    """One row at one number of outstanding requests."""

    row: str
    outstanding: int


Of = Callable[[Measure], float]


def per_s(measure: Measure) -> float:
    """Answers a second."""
    return measure.per_s


def p50_us(measure: Measure) -> float:
    """Median time of one answer."""
    return measure.p50_us


def p99_us(measure: Measure) -> float:
    """The time that one answer in a hundred takes longer than."""
    return measure.p99_us


def cpu_us(measure: Measure) -> float:
    """CPU time of all processes for one answer."""
    return measure.cpu_total_us


@dataclass(slots=True)
class Results:
    """Windows by row, samples by name, and what could not be measured."""

    measures: list[Measure] = field(default_factory=list)
    samples: dict[str, list[float]] = field(default_factory=dict)
    failures: list[str] = field(default_factory=list)
    violations: list[str] = field(default_factory=list)
    """Records without a single winner."""
    swept: list[Measure] = field(default_factory=list)
    """Short windows of every setting of every peer: what the settings of their rows were chosen by."""

    def cells(self) -> list[Cell]:
        """What was measured, in the order of the rows."""
        return list(dict.fromkeys(Cell(each.row, each.outstanding) for each in self.measures))

    def at(self, cell: Cell) -> list[Measure]:
        """The windows of a cell."""
        return [each for each in self.measures if (each.row, each.outstanding) == (cell.row, cell.outstanding)]

    def spread(self, cell: Cell, of: Of = per_s) -> Spread | None:
        """A figure of one cell over the rounds."""
        return Spread.of([of(each) for each in self.at(cell)])

    def ratio(self, above: Cell, below: Cell, of: Of = per_s) -> Spread | None:
        """One cell by another, each round by itself: a machine that slows down slows both."""
        rounds = {each.round: of(each) for each in self.at(below)}
        return Spread.of([of(each) / rounds[each.round] for each in self.at(above) if rounds.get(each.round)])

    def short(self, window_s: float) -> list[Measure]:
        """Windows that ended before their time, as the records ran out."""
        return [each for each in self.measures if not each.whole(window_s)]

    def best(self, rows: Sequence[str], outstanding: int) -> str | None:
        """The row of these that answers most at this level, by its median."""
        medians = {row: spread.median for row in rows if (spread := self.spread(Cell(row, outstanding)))}
        return max(medians, key=lambda row: medians[row]) if medians else None

    def sampled(self, name: str) -> Spread | None:
        """A figure that was sampled by itself."""
        return Spread.of(self.samples.get(name, []))
