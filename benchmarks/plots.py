"""Draws a run from its JSON: `python -m benchmarks.plots docs/benchmarks/DATE/results.json`.

Throughput against outstanding requests, the distribution of latency, CPU by process, and the curve of ready jobs.
"""

import json
import statistics
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("svg")
from matplotlib import pyplot

Told = Mapping[str, Any]
Cells = dict[tuple[str, int], list[Told]]
"""The windows of each row at each number of outstanding requests."""

OURS = ("memory-rq", "memory-intake", "sqlite-1", "sqlite-2")
CEILINGS = ("ping", "lua-claim")
PEERS = ("huey", "dramatiq", "saq", "taskiq", "celery", "arq", "streaq", "bullmq")
COMPARED = (*OURS, *PEERS, "stock-rq")
COLOURS = {row: f"C{number}" for number, row in enumerate(OURS)} | {
    row: mpl.colormaps["tab20b"](number * 2 % 19) for number, row in enumerate((*PEERS, "stock-rq", *CEILINGS))
}
CURVES = ("find_next_us", "claim_next_us")
"""What the samples are called, and what they were in earlier runs."""
SIZE = (9, 5.5)


def main() -> None:
    """Draw the plots of the file named, beside it."""
    for path in draw(Path(sys.argv[1])):
        print(path)


def draw(results: Path) -> list[Path]:
    """Every plot that the run has figures for; where each was written."""
    told = json.loads(results.read_text(encoding="utf-8"))
    cells: Cells = {}
    for measure in told["measures"]:
        cells.setdefault((measure["row"], measure["outstanding"]), []).append(measure)
    mpl.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": "bench", "font.size": 9, "axes.grid": True})
    drawn = []
    for name, draw_one in PLOTS.items():
        figure = pyplot.figure(figsize=SIZE, layout="constrained")
        if draw_one(figure, cells, told):
            path = results.with_name(f"{name}.svg")
            figure.savefig(path, metadata={"Date": None})
            drawn.append(path)
        pyplot.close(figure)
    return drawn


def throughput(figure: Any, cells: Cells, _told: Told) -> bool:
    """A line for each row that was measured at several levels; a point for the others."""
    axes = figure.subplots()
    for row in (*COMPARED, "lua-claim"):
        found = sorted((level, each) for (name, level), each in cells.items() if name == row)
        if not found:
            continue
        levels = [level for level, _ in found]
        rates = [[window["per_s"] for window in each] for _, each in found]
        middle = [statistics.median(each) for each in rates]
        reach = [
            [m - min(each) for m, each in zip(middle, rates, strict=True)],
            [max(each) - m for m, each in zip(middle, rates, strict=True)],
        ]
        style = {"linewidth": 2.2} if row in OURS else {"linewidth": 1, "linestyle": "--"}
        axes.errorbar(levels, middle, yerr=reach, marker="o", capsize=2, label=row, color=COLOURS[row], **style)
    axes.set(xscale="log", yscale="log", xlabel="outstanding requests", ylabel="answers a second")
    axes.set_title("Throughput (median, least and most of the rounds)")
    axes.set_xticks([1, 16, 256], ["1", "16", "256"])
    figure.legend(loc="outside right center")
    return bool(axes.has_data())


def latency(figure: Any, cells: Cells, _told: Told) -> bool:
    """The quantiles of all rounds, one at a time and at 256 outstanding."""
    levels = [level for level in (1, 256) if any(at == level for _, at in cells)]
    panels = figure.subplots(1, max(1, len(levels)), squeeze=False)[0]
    for axes, level in zip(panels, levels, strict=False):
        for row in (*COMPARED, "ping"):
            windows = [window["quantiles_us"] for window in cells.get((row, level), []) if window["quantiles_us"]]
            if windows:
                ms = [statistics.median(at) / 1000 for at in zip(*windows, strict=True)]
                shares = [100 * number / len(ms) for number in range(len(ms))]
                axes.plot(ms, shares, linewidth=2.2 if row in OURS else 1, label=row, color=COLOURS[row])
        axes.set(xscale="log", xlabel="ms", title=f"{level} outstanding")
        axes.legend(fontsize=7, loc="upper left")
    panels[0].set_ylabel("% of answers that took no longer")
    return bool(levels)


def cpu(figure: Any, cells: Cells, _told: Told) -> bool:
    """CPU microseconds of one answer at 256 outstanding by process: ours, and everybody."""
    everybody = [row for row in COMPARED if (row, 256) in cells]
    ours = [row for row in everybody if row in OURS]
    if not ours:
        return False
    panels = figure.subplots(2, 1, height_ratios=[len(ours), len(everybody)])
    for axes, rows in zip(panels, (ours, everybody), strict=True):
        left = dict.fromkeys(rows, 0.0)
        for role in ("redis", "worker", "sweep", "driver"):
            widths = [_cpu_us(cells[row, 256], role) for row in rows]
            axes.barh(rows, widths, left=list(left.values()), label="client" if role == "driver" else role)
            left = {row: left[row] + width for row, width in zip(rows, widths, strict=True)}
        axes.invert_yaxis()
        axes.grid(axis="y", visible=False)
    axes.set_xlabel("CPU microseconds of one answer, 256 outstanding")
    figure.legend(*axes.get_legend_handles_labels(), loc="outside upper center", ncols=4)
    return True


def curve(figure: Any, _cells: Cells, told: Told) -> bool:
    """How long claim-next looks for a job, by the number of jobs that are ready."""
    axes = figure.subplots()
    for keyed in (False, True):
        sizes = {
            int(name.split()[1]): values
            for name, values in told["samples"].items()
            if name.startswith(CURVES) and name.endswith(" keyed") is keyed
        }
        label = "1,000 fairness keys" if keyed else "no fairness keys"
        if sizes:
            jobs = sorted(sizes)
            axes.plot(jobs, [statistics.median(sizes[size]) for size in jobs], marker="o", label=f"{label}, median")
            p99 = [sorted(sizes[size])[len(sizes[size]) * 99 // 100] for size in jobs]
            axes.plot(jobs, p99, marker=".", linestyle=":", label=f"{label}, p99")
    axes.set(xscale="log", xlabel="ready jobs", yscale="log", ylabel="microseconds to find one")
    axes.set_title("Finding the next job over the number of ready jobs")
    if axes.has_data():
        axes.legend()
    return bool(axes.has_data())


def _cpu_us(windows: Sequence[Told], role: str) -> float:
    used = [sum(us for name, us in window["cpu_us"].items() if name.split()[0] == role) for window in windows]
    return float(statistics.median(used))


PLOTS: Mapping[str, Callable[[Any, Cells, Told], bool]] = {
    "throughput": throughput,
    "latency": latency,
    "cpu": cpu,
    "ready-jobs": curve,
}

if __name__ == "__main__":
    main()
