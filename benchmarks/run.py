"""Runs the benchmark: `python -m benchmarks.run [--quick] [--rows stock-rq,memory-rq] [--rounds N] [--window S]`."""

import argparse
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from benchmarks.bars import MANY, bars, last_line
from benchmarks.conditions import machine
from benchmarks.gains import HEADINGS, OURS, gains
from benchmarks.keep import document, write
from benchmarks.limits import HEADINGS as LIMITED
from benchmarks.limits import limited
from benchmarks.plan import Plan
from benchmarks.processes import other_runs
from benchmarks.report import page
from benchmarks.results import Results
from benchmarks.rounds import Special, run_rounds, run_specials
from benchmarks.rows import FEW_ROUNDS, FULL, LEVELS, PEERS, PYTHON_PEERS, QUICK, QUICK_PEERS, SPECIALS, by_name
from benchmarks.show import show_bars, show_rows, show_table
from benchmarks.sweep import available, peer_rows, replayed_rows, sweep

RESULTS = Path(__file__).parent / ".results"
"""Of quick runs and of single rows; git ignores it."""
PUBLISHED = Path(__file__).parents[1] / "docs" / "benchmarks"
WIDTH = 220
"""Of the tables in a file or a pipe."""
BASELINE = "stock-rq"
COMPARED = (*PEERS, BASELINE)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, tell, keep; 1 where a record had no single winner, or a figure of the last line is missing."""
    options = _parser().parse_args(arguments)
    console = Console()
    if not console.is_terminal:
        console = Console(width=WIDTH)
    at = datetime.now(UTC)
    results = Results()
    console.print(f"machine: {machine()}")
    columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    with Progress(*columns, console=console, refresh_per_second=1) as progress:  # a livelier one costs what is measured
        task = progress.add_task("starting", total=None)

        def tell(text: str) -> None:
            progress.update(task, description=text)
            if not console.is_terminal:
                console.print(f"{datetime.now(UTC):%H:%M:%S} {text}", highlight=False)

        plan = _plan(options, results, tell)
        run_rounds(plan, results, progress=tell)
        run_specials(_specials(options), results, progress=tell)
    if beside := other_runs():
        results.failures.append(f"another benchmark runs beside this one (process {beside}): it is in these figures")
    show_rows(console, results, baseline=BASELINE)
    show_table(console, f"{OURS} by each peer, same-round ratios", HEADINGS, gains(results, COMPARED))
    promised = bars(PYTHON_PEERS)
    show_bars(console, results, promised)
    limits = limited(results, promised, PYTHON_PEERS)
    show_table(console, "What limits each, in figures of this run", LIMITED, limits)
    for failure in results.failures:
        console.print(f"[yellow]not measured:[/yellow] {failure.splitlines()[0]}", highlight=False)
    for violation in results.violations:
        console.print(f"[red]no single winner:[/red] {violation.splitlines()[0]}", highlight=False)
    _keep_details(results)
    line = last_line(results, PYTHON_PEERS)
    kept = document(results, plan, promised, limited=limits, last_line=line, at=at)
    folder = _folder(options, at)
    path = write(folder, kept)
    plots = [] if options.quick else _drawn(path, results)
    text = page(results, promised, kept, plots, baseline=BASELINE, compared=COMPARED)
    (folder / "README.md").write_text(text, encoding="utf-8")
    console.print(f"kept in {folder}")
    print(line)
    return 1 if results.violations or ("=-" in line and not options.rows) else 0


def _keep_details(results: Results) -> None:
    """What processes said before something failed: for whoever looks into it, not for the published results."""
    RESULTS.mkdir(parents=True, exist_ok=True)
    (RESULTS / "failures.log").write_text("\n\n".join((*results.violations, *results.failures)), encoding="utf-8")


def _folder(options: argparse.Namespace, at: datetime) -> Path:
    if options.results:
        return Path(options.results)
    return RESULTS if options.quick or options.rows else PUBLISHED / f"{at:%Y-%m-%d}"


def _drawn(path: Path, results: Results) -> list[Path]:
    try:
        from benchmarks.plots import draw  # an extra: whoever has no matplotlib gets the tables
    except ImportError as error:
        results.failures.append(f"no plots: {error}; pip install -e '.[bench]', then python -m benchmarks.plots {path}")
        return []
    return draw(path)


def _specials(options: argparse.Namespace) -> Mapping[str, Special]:
    if options.quick or options.rows:
        return {}
    return SPECIALS


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.run", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="few rows, short windows")
    parser.add_argument("--rows", type=lambda text: text.split(","), help="only these, by name")
    parser.add_argument("--levels", type=_numbers, metavar="N,N", help="outstanding requests, for every row")
    parser.add_argument("--rounds", type=int)
    parser.add_argument("--window", type=float, metavar="S")
    parser.add_argument("--results", type=Path, metavar="DIR", help="where to keep what was found")
    return parser


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split(","))


def _plan(options: argparse.Namespace, results: Results, tell: Callable[[str], None]) -> Plan:
    plan = QUICK if options.quick else FULL
    known = by_name(plan)
    if unknown := [name for name in options.rows or () if name not in known]:
        raise SystemExit(f"no row {', '.join(unknown)}; there are {', '.join(known)}")
    asked = options.rows or (QUICK_PEERS if options.quick else PEERS)
    peers = available([name for name in asked if name in PEERS], results)
    if options.rows:
        rows = tuple(known[name] for name in options.rows if name in peers or name not in PEERS)
    elif options.quick:
        rows = (*plan.rows, *(known[name] for name in peers))
    else:
        sweep(peers, LEVELS, results, progress=tell)
        replayed = replayed_rows(results.swept, MANY, rounds=FEW_ROUNDS)
        rows = (*plan.rows, *peer_rows(results.swept, LEVELS, few=FEW_ROUNDS), *replayed)
    if options.levels:
        rows = tuple(replace(row, levels=options.levels) for row in rows)
    return replace(plan, rows=rows, rounds=options.rounds or plan.rounds, window_s=options.window or plan.window_s)


if __name__ == "__main__":
    sys.exit(main())
