"""What the product gains over each peer: the whole system with its own client, and the worker alone with the same."""

from collections.abc import Sequence

from benchmarks.bars import MANY, ONE, SOME
from benchmarks.results import Cell, Results
from benchmarks.words import spread

OURS = "memory-rq"
REPLAYED = "With the same client only the best Python peer and BullMQ are asked: those of the others are not recorded."
HEADINGS = ("against", "own clients, 1", "own clients, 16", "own clients, 256", "same client, 256")


def gains(results: Results, rows: Sequence[str]) -> list[Sequence[str]]:
    """A line for each row that was measured: same-round ratios, ours by theirs."""
    found: list[Sequence[str]] = []
    for row in rows:
        pairs = [(OURS, row, level) for level in (ONE, SOME, MANY)] + [(f"{OURS}-replayed", f"{row}-replayed", MANY)]
        ratios = [results.ratio(Cell(ours, level), Cell(theirs, level)) for ours, theirs, level in pairs]
        if any(ratios):
            found.append((row, *(spread(ratio, "{:.3g}") for ratio in ratios)))
    return found
