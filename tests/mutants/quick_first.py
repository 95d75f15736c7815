"""A pytest plugin for mutation runs: the tests that take least time come first, as most changes are noticed by many."""

import json
from pathlib import Path

import pytest

STATS = Path("mutmut-stats.json")
"""Where mutmut notes how long each test took, in the folder that it runs tests in."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Sort by what mutmut has noted; the first run, which notes it, goes in the order of the files."""
    if STATS.exists():
        durations: dict[str, float] = json.loads(STATS.read_text(encoding="utf-8"))["duration_by_test"]
        items.sort(key=lambda item: durations.get(item.nodeid, 0.0))
