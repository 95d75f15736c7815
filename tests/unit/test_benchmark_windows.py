"""Windows of the benchmark are as long as they are said to be, or are named: records for them, and windows anew."""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import pytest

from benchmarks import visit as visiting
from benchmarks.keep import document
from benchmarks.measure import Measure
from benchmarks.ours.rows import MEMORY_RQ
from benchmarks.plan import Plan
from benchmarks.report import page
from benchmarks.results import Results
from benchmarks.visit import Rates, visit

WINDOW_S = 5.0
NOW = datetime(2026, 11, 28, tzinfo=UTC)


def window(outstanding: int = 16, per_s: float = 6_000.0, window_s: float = WINDOW_S) -> Measure:
    """A window that showed this."""
    return Measure("memory-rq", 0, outstanding, per_s, 1.0, 1.0, window_s, {}, 1)


class LastRate(Rates):
    """What was wrong once: a slow round leaves the next one short."""

    def learn(self, measure: Measure) -> None:
        self._per_s[measure.row, measure.outstanding] = measure.per_s


@pytest.mark.parametrize(("rates", "enough"), [(Rates(), True), (LastRate(), False)])
def test_a_slow_round_does_not_leave_the_next_one_short_of_records(rates: Rates, enough: bool) -> None:
    for per_s in (6_600.0, 2_400.0):
        rates.learn(window(per_s=per_s))
    records, _ = rates.pool("memory-rq", 16, WINDOW_S)
    assert (records >= 6_600 * WINDOW_S) is enough


def test_records_for_a_guess_are_made_for_a_shorter_time_than_those_that_a_rate_asks_for() -> None:
    rates = Rates()
    _, guessed_s = rates.pool("memory-rq", 16, WINDOW_S)
    assert rates.needed("memory-rq", [16], WINDOW_S) is None
    rates.learn(window())
    records, known_s = rates.pool("memory-rq", 16, WINDOW_S)
    assert guessed_s < known_s
    assert rates.needed("memory-rq", [16], WINDOW_S) == records
    assert rates.needed("memory-rq", [16, 256], WINDOW_S) is None, "one of them was not measured"


class Visits:
    """Stands in for real visits: what each window of a level shows, in order."""

    def __init__(self, windows_s: dict[int, list[float]]) -> None:
        self._left = {level: iter(windows) for level, windows in windows_s.items()}
        self.levels: list[Sequence[int]] = []

    def __call__(self, _contestant: Any, levels: Sequence[int], *_how: Any) -> list[Measure]:
        self.levels.append(tuple(levels))
        return [window(level, window_s=next(self._left[level])) for level in levels]


def lengths(monkeypatch: pytest.MonkeyPatch, visits: Visits, repeats: int) -> list[float]:
    """How long the windows are that a visit of levels 1 and 16 keeps."""
    monkeypatch.setattr(visiting, "_visit", visits)
    measures = visit(MEMORY_RQ, (1, 16), round=0, warm_s=0.0, window_s=WINDOW_S, rates=Rates(), repeats=repeats)
    return [each.window_s for each in measures]


def test_a_window_that_ended_early_is_measured_anew_and_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    visits = Visits({1: [5.001], 16: [1.93, 5.002]})
    assert lengths(monkeypatch, visits, repeats=2) == [5.001, 5.002]
    assert visits.levels == [(1, 16), (16,)]


def test_windows_are_measured_anew_no_more_often_than_the_plan_says_and_the_longest_is_kept(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    visits = Visits({1: [5.001], 16: [1.93, 4.5, 3.0]})
    assert lengths(monkeypatch, visits, repeats=2) == [5.001, 4.5]
    assert len(visits.levels) == 3


def test_a_window_that_is_short_all_the_same_is_named_at_the_head_of_the_page() -> None:
    results = Results([window(), window(1, window_s=4.48)])
    plan = Plan((), rounds=1, warm_s=0.7, window_s=WINDOW_S)
    told = document(results, plan, (), limited=(), last_line="", at=NOW)
    assert told["short_windows"] == ["memory-rq at 1 in round 1: 4.48 s"]
    text = page(results, (), told, (), baseline="stock-rq", compared=())
    assert "memory-rq at 1 in round 1: 4.48 s" in text.partition("| measure")[0]
    whole = Results([window()])
    told = document(whole, plan, (), limited=(), last_line="", at=NOW)
    assert "ran out" not in page(whole, (), told, (), baseline="stock-rq", compared=())
