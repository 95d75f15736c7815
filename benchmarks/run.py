"""Runs the benchmark: `python -m benchmarks.run [--quick] [--rows stock-rq,memory-rq] [--rounds N] [--window S]`."""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from benchmarks.bars import bars, last_line
from benchmarks.conditions import machine
from benchmarks.keep import document, write
from benchmarks.plan import Plan
from benchmarks.results import Results
from benchmarks.rounds import run_rounds
from benchmarks.rows import FULL, QUICK
from benchmarks.show import show_bars, show_rows

RESULTS = Path(__file__).parent / ".results"
WIDTH = 180
"""Of the tables in a file or a pipe."""
BASELINE = "stock-rq"


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, tell, keep; 1 where something could not be measured."""
    options = _parser().parse_args(arguments)
    console = Console()
    if not console.is_terminal:
        console = Console(width=WIDTH)
    at = datetime.now(UTC)
    plan = _plan(options)
    peers: list[str] = []
    results = Results()
    console.print(f"machine: {machine()}")
    with Progress(SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn(), console=console) as progress:
        task = progress.add_task("starting", total=None)
        run_rounds(plan, results, progress=lambda text: progress.update(task, description=text))
    sample_extras(results)
    show_rows(console, results, baseline=BASELINE)
    promised = bars(peers)
    show_bars(console, results, promised)
    for failure in results.failures:
        console.print(f"[red]not measured:[/red] {failure}", highlight=False)
    line = last_line(results, peers)
    kept = document(results, plan, promised, last_line=line, at=at, peers={})
    console.print(f"kept in {write(options.results, 'quick' if options.quick else 'full', kept)}")
    print(line)
    return 1 if results.failures else 0


def sample_extras(results: Results) -> None:
    """Figures that rows told beside their speed."""
    for measure in results.measures:
        if "conflicts_percent" in measure.extra:
            results.samples.setdefault("conflicts_percent", []).append(measure.extra["conflicts_percent"])


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.run", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="few rows, short windows")
    parser.add_argument("--rows", type=lambda text: text.split(","), help="only these, by name")
    parser.add_argument("--rounds", type=int)
    parser.add_argument("--window", type=float, metavar="S")
    parser.add_argument("--results", type=Path, default=RESULTS, metavar="DIR")
    return parser


def _plan(options: argparse.Namespace) -> Plan:
    plan = QUICK if options.quick else FULL
    if options.rows:
        known = {row.contestant.name: row for row in (*FULL.rows, *plan.rows)}
        if unknown := [name for name in options.rows if name not in known]:
            raise SystemExit(f"no row {', '.join(unknown)}; there are {', '.join(known)}")
        plan = replace(plan, rows=tuple(known[name] for name in options.rows))
    return replace(plan, rounds=options.rounds or plan.rounds, window_s=options.window or plan.window_s)


if __name__ == "__main__":
    sys.exit(main())
