"""Writes what a command found: JSON for programs, tables on a terminal, plain columns into a pipe."""

import json
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from shutil import get_terminal_size
from typing import Any

import typer

_CELL_CHARS_MAX = 60
_READABLE_CHARS = 12
"""A column that is folded to less says nothing."""


def emit(value: Mapping[str, Any]) -> None:
    """One JSON object on one line of standard output."""
    typer.echo(json.dumps(value, separators=(",", ":")))  # ASCII: safe in any locale, and on any terminal


def say(*lines: str) -> None:
    """Lines for a person, on standard output. Each is one, whatever stands in it."""
    for line in lines:
        typer.echo(printable(line))


def note(*lines: str) -> None:
    """The same for what is no result, on standard error."""
    for line in lines:
        typer.echo(printable(line), err=True)


def complain(problem: str, next_step: str, more: Sequence[str] = ()) -> None:
    """What went wrong, in `more` lines than one where it takes them, and what to do next, on standard error."""
    note(f"error: {problem}", *more, f"next: {next_step}")


def table(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Rows under their headings. Nothing but the headings where there are none."""
    cells = [[cell(value) for value in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(columns, *cells, strict=True)]
    if sys.stdout.isatty() and _fits(widths):
        _draw(columns, cells)
        return
    for line in (columns, *cells):
        padded = (text.ljust(width) for text, width in zip(line, widths, strict=True))
        typer.echo("  ".join(padded).rstrip())


def _fits(widths: Sequence[int]) -> bool:
    """Whether a drawn table would leave each column enough to be read: its terminal may be narrow."""
    first, *rest = widths
    needed = [first, *(min(width, _READABLE_CHARS) for width in rest)]
    return sum(needed) + 2 * len(needed) <= get_terminal_size().columns


def _draw(columns: Sequence[str], cells: Sequence[Sequence[str]]) -> None:
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    drawn = Table(box=SIMPLE_HEAD)
    for number, column in enumerate(columns):
        drawn.add_column(column, overflow="fold", no_wrap=number == 0)  # the first is an id, to be copied
    for row in cells:
        drawn.add_row(*map(Text, row))  # Text: what a job says of itself is not markup
    Console().print(drawn)


def cell(value: object) -> str:
    """A value in a table: short, on one line, `-` where there is none."""
    if value is None or value == "":
        return "-"
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    text = printable(text.replace("\n", " "))
    return text if len(text) <= _CELL_CHARS_MAX else f"{text[: _CELL_CHARS_MAX - 1]}…"


def printable(text: str) -> str:
    """Text that can't move the cursor, colour the terminal or begin a line of its own, whoever wrote it."""
    return "".join(char if char.isprintable() else ascii(char)[1:-1] for char in text)


def moment(unix_ms: int | None) -> str | None:
    """Broker time as a person reads it, UTC."""
    if unix_ms is None:
        return None
    try:
        return datetime.fromtimestamp(unix_ms / 1000, UTC).strftime("%Y-%m-%d %H:%M:%SZ")
    except (ValueError, OverflowError, OSError):  # no time of any calendar: one of them hides no other
        return f"{unix_ms} ms"


def span(ms: int | None) -> str | None:
    """A length of time as a person reads it."""
    if ms is None:
        return None
    if abs(ms) < 10_000:
        return f"{ms / 1000:.1f} s"
    minutes, seconds = divmod(round(ms / 1000), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {seconds} s" if minutes else f"{seconds} s"
