"""The results as tables in the terminal."""

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from benchmarks.bars import Bar
from benchmarks.results import Cell, Results, cpu_us, p50_us, p99_us
from benchmarks.words import middle, split, spread

COLOURS = {"holds": "green", "missed": "red", "not measured": "yellow"}
WIDE = 190
"""Columns from which the times of an answer have their least and most, too."""


def show_rows(console: Console, results: Results, *, baseline: str) -> None:
    """Every cell: how many a second, how long each took, and what it cost in which process."""
    table = Table(title="Round trips: request, compare-and-set, answer. Median (least to most) of the rounds")
    took = spread if console.width >= WIDE else middle
    for heading in ("row", "outstanding", "answers/s", f"x {baseline}", "p50 ms", "p99 ms", "CPU us", "CPU by process"):
        table.add_column(heading, justify="left" if heading in {"row", "CPU by process"} else "right")
    for cell in sorted(results.cells(), key=lambda cell: (-cell.outstanding, _rate(results, cell))):
        table.add_row(
            cell.row,
            str(cell.outstanding),
            spread(results.spread(cell), "{:,.0f}"),
            spread(results.ratio(cell, Cell(baseline, cell.outstanding)), "{:.3g}"),
            took(results.spread(cell, lambda measure: p50_us(measure) / 1000), "{:.3g}"),
            took(results.spread(cell, lambda measure: p99_us(measure) / 1000), "{:.3g}"),
            spread(results.spread(cell, cpu_us), "{:,.0f}"),
            split(results, cell),
        )
    console.print(table)


def show_bars(console: Console, results: Results, bars: Sequence[Bar]) -> None:
    """Each bar and how it stands."""
    table = Table(title="Bars: median (least to most) of same-round figures")
    for heading in ("measure", "bar", "measured", "stands"):
        table.add_column(heading)
    for bar in bars:
        verdict = bar.verdict(results)
        table.add_row(bar.measure, bar.bar, bar.measured(results), Text(verdict, COLOURS[verdict]))
    console.print(table)


def show_table(console: Console, title: str, headings: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Words in columns; nothing where there are no rows."""
    if not rows:
        return
    table = Table(title=title)
    for heading in headings:
        table.add_column(heading)
    for row in rows:
        table.add_row(*row)
    console.print(table)


def _rate(results: Results, cell: Cell) -> float:
    found = results.spread(cell)
    return found.median if found else 0.0
