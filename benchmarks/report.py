"""A run as a page of Markdown: the machine, the bars, the rows, and the plots."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.bars import Bar
from benchmarks.gains import HEADINGS, OURS, REPLAYED, gains
from benchmarks.limits import HEADINGS as LIMITED
from benchmarks.limits import HOW
from benchmarks.profiles import HEADINGS as PROFILES
from benchmarks.profiles import is_profile
from benchmarks.profiles import table as profiles
from benchmarks.results import Cell, Results, cpu_us, p50_us, p99_us
from benchmarks.words import split, spread


def page(
    results: Results,
    bars: Sequence[Bar],
    told: Mapping[str, Any],
    plots: Sequence[Path],
    *,
    baseline: str,
    compared: Sequence[str],
) -> str:
    """The page. Every figure in it is in `results.json` too."""
    versions = ", ".join(f"{name} {version}" for name, version in told["versions"].items())
    plan = told["plan"]
    lines = [
        f"# Benchmark of {told['at'][:10]}",
        "",
        f"{told['machine']}. {versions}. `{told['command']}`. {plan['rounds']} interleaved rounds, windows of "
        f"{plan['window_s']:g} s after {plan['warm_s']:g} s; figures are medians (least to most) of the rounds, and "
        "ratios are taken within a round. Everything: [results.json](results.json).",
        "",
        *_short(told["short_windows"]),
        *_table(("measure", "bar", "measured", "stands"), [_bar(bar, results) for bar in bars]),
        "",
        f"What limits each, in figures of this run. {HOW}",
        "",
        *_table(LIMITED, [(bar["measure"], bar["limited_by"]) for bar in told["bars"]]),
        "",
        *(f"![{plot.stem}]({plot.name})" for plot in plots),
        "",
        f"{OURS} by each peer, same-round ratios. {REPLAYED}",
        "",
        *_table(HEADINGS, gains(results, compared)),
        "",
        *_table(
            ("row", "outstanding", "answers/s", f"x {baseline}", "p50 ms", "p99 ms", "CPU us", "by process", "setting"),
            [_row(results, cell, baseline) for cell in results.cells()],
        ),
        "",
        *_profiles(results),
        *_samples(results),
        *(f"- not measured: {failure.splitlines()[0]}" for failure in results.failures),
        *(f"- **no single winner**: {violation.splitlines()[0]}" for violation in results.violations),
        "",
        f"`{told['last_line']}`",
    ]
    return "\n".join(lines) + "\n"


def _short(windows: Sequence[str]) -> Sequence[str]:
    return [f"Shorter windows, as the records ran out: {'; '.join(windows)}.", ""] if windows else []


def _bar(bar: Bar, results: Results) -> Sequence[str]:
    return bar.measure, bar.bar, bar.measured(results), bar.verdict(results)


def _row(results: Results, cell: Cell, baseline: str) -> Sequence[str]:
    windows = results.at(cell)
    return (
        cell.row,
        str(cell.outstanding),
        spread(results.spread(cell), "{:,.0f}"),
        spread(results.ratio(cell, Cell(baseline, cell.outstanding)), "{:.3g}"),
        spread(results.spread(cell, lambda measure: p50_us(measure) / 1000), "{:.3g}"),
        spread(results.spread(cell, lambda measure: p99_us(measure) / 1000), "{:.3g}"),
        spread(results.spread(cell, cpu_us), "{:,.0f}"),
        split(results, cell),
        str(windows[0].extra.get("setting", "")),
    )


def _profiles(results: Results) -> Sequence[str]:
    rows = profiles(results)
    told = "Profiles, in percent: of the CPU time that each process used in a window, and of the window by the clock."
    return [told, "", *_table(PROFILES, rows), ""] if rows else []


def _samples(results: Results) -> Sequence[str]:
    rows = [(name, spread(results.sampled(name), "{:,.4g}")) for name in results.samples if not is_profile(name)]
    return [*_table(("sampled", "median (least to most)"), rows), ""] if rows else []


def _table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> Sequence[str]:
    lines = [headings, ["---"] * len(headings), *rows]
    return [f"| {' | '.join(line)} |" for line in lines]
