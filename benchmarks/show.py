"""The results as tables in the terminal."""

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from benchmarks.bars import Bar
from benchmarks.results import Cell, Results, Spread, cpu_us, p50_us, p99_us

COLOURS = {"holds": "green", "missed": "red", "not measured": "yellow"}


def show_rows(console: Console, results: Results, *, baseline: str) -> None:
    """Every cell: how many a second, how long each took, and what it cost in which process."""
    table = Table(title="Round trips: request, compare-and-set, answer. Median (least to most) of the rounds")
    for heading in ("row", "outstanding", "answers/s", f"x {baseline}", "p50 ms", "p99 ms", "CPU us", "CPU by process"):
        table.add_column(heading, justify="left" if heading in {"row", "CPU by process"} else "right")
    for cell in sorted(results.cells(), key=lambda cell: (-cell.outstanding, _rate(results, cell))):
        table.add_row(
            cell.row,
            str(cell.outstanding),
            spread(results.spread(cell), "{:,.0f}"),
            spread(results.ratio(cell, Cell(baseline, cell.outstanding)), "{:.3g}"),
            _ms(results.spread(cell, p50_us)),
            _ms(results.spread(cell, p99_us)),
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
        table.add_row(bar.measure, bar.bar, spread(bar.figure(results), "{:.3g}"), Text(verdict, COLOURS[verdict]))
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


def spread(found: Spread | None, form: str) -> str:
    """Median, and least to most where there are several rounds."""
    if found is None:
        return "-"
    median = form.format(found.median)
    return median if found.rounds == 1 else f"{median} ({form.format(found.least)} to {form.format(found.most)})"


def _rate(results: Results, cell: Cell) -> float:
    found = results.spread(cell)
    return found.median if found else 0.0


def _ms(found: Spread | None) -> str:
    return "-" if found is None else f"{found.median / 1000:.3g}"


def split(results: Results, cell: Cell) -> str:
    """CPU microseconds of each process, in words."""
    roles = dict.fromkeys(role for measure in results.at(cell) for role in measure.cpu_us)
    shares = {role: results.spread(cell, lambda measure, role=role: measure.cpu_us.get(role, 0.0)) for role in roles}  # type: ignore[misc]  # a default binds the role
    return ", ".join(f"{role} {found.median:,.0f}" for role, found in shares.items() if found)
