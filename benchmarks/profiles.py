"""Profiles among the samples of a run: percent by step, of one process of one row."""

from collections.abc import Sequence

from benchmarks.results import Results

MARK = "profile, "
HEADINGS = ("row", "process", "of", "percent by step")
OF = {"cpu": "its CPU time", "clock": "the window"}
LEAST = 2.0
"""Percent. What is less is left out of the words, not of the JSON."""


def name(row: str, outstanding: int, role: str, kind: str, step: str) -> str:
    """What the share of a step is kept under."""
    return f"{_profile(row, outstanding, role, kind)}{step}"


def shares(results: Results, row: str, outstanding: int, role: str, kind: str) -> dict[str, float]:
    """Percent by step; empty where this run has no such profile."""
    start = _profile(row, outstanding, role, kind)
    found = {name.removeprefix(start): values[0] for name, values in results.samples.items() if name.startswith(start)}
    return dict(sorted(found.items(), key=lambda item: -item[1]))


def in_words(found: dict[str, float], scale: float = 1.0, form: str = "{:.0f}") -> str:
    """Each step with its share, the greatest first; `scale` makes something else of a percent."""
    return ", ".join(f"{step} {form.format(share * scale)}" for step, share in found.items() if share >= LEAST)


def table(results: Results) -> list[Sequence[str]]:
    """Every profile, a line each."""
    heads = dict.fromkeys(name.rpartition(": ")[0] for name in results.samples if is_profile(name))
    rows: list[Sequence[str]] = []
    for head in heads:
        _, row, outstanding, role, kind = head.split(", ")
        found = shares(results, row, int(outstanding), role, kind)
        rows.append((f"{row}, {outstanding}", process(role), OF[kind], in_words(found)))
    return rows


def process(role: str) -> str:
    """What the process of a role is called where it is told: the one that asks is the client."""
    return "client" if role == "driver" else role


def is_profile(name: str) -> bool:
    """Whether a sample is a part of one."""
    return name.startswith(MARK)


def _profile(row: str, outstanding: int, role: str, kind: str) -> str:
    return f"{MARK}{row}, {outstanding}, {role}, {kind}: "
