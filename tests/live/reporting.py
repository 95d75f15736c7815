"""Makes tests that lack what they need say NOT RUN, each at the end of the run: nobody is to take them for passed."""

import os
from collections.abc import Sequence

import pytest
from _pytest.terminal import TerminalReporter

NOT_RUN = "NOT RUN: "


def needs(what: str, *variables: str) -> Sequence[pytest.MarkDecorator]:
    """For `pytestmark`: these tests need `what`, as the variables name it."""
    missing = [name for name in variables if not os.environ.get(name)]
    why = f"{NOT_RUN}{what}; set {', '.join(missing)}"
    return [pytest.mark.live, pytest.mark.skipif(bool(missing), reason=why), pytest.mark.timeout(900)]


def pytest_terminal_summary(terminalreporter: TerminalReporter) -> None:
    """A line for each thing that could not be tried, and for how many tests."""
    counts: dict[str, int] = {}
    for report in terminalreporter.stats.get("skipped", ()):
        why = str(report.longrepr[2]) if isinstance(report.longrepr, tuple) else ""
        if NOT_RUN in why:
            told = why.partition(NOT_RUN)[2]
            counts[told] = counts.get(told, 0) + 1
    if counts:
        terminalreporter.section("not run", sep="=", yellow=True)
    for told, count in sorted(counts.items()):
        terminalreporter.write_line(f"{NOT_RUN}{told} ({count} tests)")
