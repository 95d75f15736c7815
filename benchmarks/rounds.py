"""Carries out a plan: round by round, row by row, and what fails is told and left out."""

import time
from collections.abc import Callable, Mapping

from benchmarks.plan import Plan, Row
from benchmarks.processes import BenchError, Violation
from benchmarks.results import Results
from benchmarks.visit import Rates, visit

Progress = Callable[[str], None]
Special = Callable[[], dict[str, list[float]]]


def run_rounds(plan: Plan, results: Results, *, progress: Progress) -> None:
    """Measure every row in every round, into `results`. A row that fails once is not tried again."""
    rates = Rates()
    broken: set[str] = set()
    begin = time.monotonic()
    for round in range(plan.rounds):
        spent_s = time.monotonic() - begin
        if plan.budget_s is not None and spent_s + spent_s / max(1, round) > plan.budget_s:
            return
        for row in plan.of_round(round):
            name = row.contestant.name
            progress(f"round {round + 1} of {plan.rounds}: {name}")
            if name not in broken and not _visited(row, plan, round, rates, results):
                broken.add(name)


def run_specials(specials: Mapping[str, Special], results: Results, *, progress: Progress) -> None:
    """Take the figures that are no rows."""
    for name, measure in specials.items():
        progress(name)
        try:
            results.samples |= measure()
        except BenchError as error:
            results.failures.append(f"{name}: {error}")


def _visited(row: Row, plan: Plan, round: int, rates: Rates, results: Results) -> bool:
    try:
        results.measures += visit(
            row.contestant,
            row.levels,
            round=round,
            warm_s=plan.warm_s,
            window_s=plan.window_s,
            rates=rates,
            repeats=plan.repeats,
        )
    except Violation as error:
        results.violations.append(f"round {round + 1}: {error}")
        return False
    except BenchError as error:
        results.failures.append(f"round {round + 1}: {error}")
        return False
    return True
