"""Figures in words, for the terminal and the page alike."""

from benchmarks.results import Cell, Results, Spread


def spread(found: Spread | None, form: str) -> str:
    """Median, and least to most where there are several rounds."""
    if found is None:
        return "-"
    median = form.format(found.median)
    return median if found.rounds == 1 else f"{median} ({form.format(found.least)} to {form.format(found.most)})"


def middle(found: Spread | None, form: str) -> str:
    """The median alone, where there is little room."""
    return "-" if found is None else form.format(found.median)


def split(results: Results, cell: Cell) -> str:
    """CPU microseconds of each process, in words."""
    roles = dict.fromkeys(role for measure in results.at(cell) for role in measure.cpu_us)
    shares = {role: results.spread(cell, lambda measure, role=role: measure.cpu_us.get(role, 0.0)) for role in roles}  # type: ignore[misc]  # a default binds the role
    return ", ".join(f"{role} {found.median:,.0f}" for role, found in shares.items() if found)
