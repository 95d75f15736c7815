"""Parts of what limits a bar, in words made of figures of one run: nothing here is true of another machine by itself.

A part says nothing (`""`) where the run has not measured it.
"""

import os
import statistics
from collections.abc import Callable, Mapping, Sequence

from benchmarks import profiles
from benchmarks.measure import Measure
from benchmarks.results import Cell, Results, cpu_us, p50_us, per_s
from benchmarks.words import spread

Part = Callable[[Results], str]
IDLE_PERCENT = "idle_percent"
"""Of the machine's cores, in the window of a row: what a driver's window tells with each measure."""
FSYNC_US = "fsync_us"
CORES = os.cpu_count() or 1


def told(parts: Sequence[Part], results: Results) -> str:
    """All that can be said, or a dash."""
    return "; ".join(text for part in parts if (text := part(results))) or "-"


def cores(row: str, outstanding: int) -> Part:
    """How much of the machine each process used in the window, and how much of it nobody did."""

    def part(results: Results) -> str:
        windows = results.at(Cell(row, outstanding))
        if not windows:
            return ""
        shares = {role: _median(windows, lambda each, role=role: _share(each, role)) for role in _roles(windows)}  # type: ignore[misc]  # a default binds the role
        said = [f"{profiles.process(role)} {share:.0f}" for role, share in shares.items()]
        unused = [each for each in windows if IDLE_PERCENT in each.extra]
        if unused:
            others = _median(unused, lambda each: 100 - each.extra[IDLE_PERCENT] - _used(each))
            idle = _median(unused, lambda each: each.extra[IDLE_PERCENT])
            said += [f"other programs {max(0.0, others):.0f}", f"nobody {idle:.0f}"]
        return f"{row} at {outstanding}: {', '.join(said)} % of {CORES} cores"

    return part


def cores_of_best(rows: Sequence[str], outstanding: int) -> Part:
    """The same for whichever of `rows` answers most."""

    def part(results: Results) -> str:
        best = results.best(rows, outstanding)
        return "" if best is None else cores(best, outstanding)(results)

    return part


def steps(row: str, outstanding: int, role: str = "worker", kind: str = "cpu") -> Part:
    """The steps of a process in percent: of its CPU time, or of the window, waits included."""

    def part(results: Results) -> str:
        found = profiles.shares(results, row, outstanding, role, kind)
        of = "CPU time" if kind == "cpu" else "time"
        return f"{_of(row, role)} {of}: {profiles.in_words(found)} %" if found else ""

    return part


def us_of_cpu(row: str, outstanding: int, role: str = "worker") -> Part:
    """The CPU time of one answer in a process, by step."""

    def part(results: Results) -> str:
        windows = results.at(Cell(row, outstanding))
        found = profiles.shares(results, row, outstanding, role, "cpu")
        if not windows or not found:
            return ""
        used_us = _median(windows, lambda each: _us(each, role))
        return f"{_of(row, role)} {used_us:.3g} us: {profiles.in_words(found, used_us / 100, '{:.3g}')}"

    return part


def us_by_clock(row: str, role: str = "worker") -> Part:
    """How a process spends the time of one answer, of one at a time, waits included."""

    def part(results: Results) -> str:
        found = profiles.shares(results, row, 1, role, "clock")
        rate = results.spread(Cell(row, 1))
        if rate is None or not found:
            return ""
        mean_us = 1e6 / rate.median
        return f"{_of(row, role)} {mean_us:.0f} us a claim (mean): {profiles.in_words(found, mean_us / 100)}"

    return part


def p50(row: str) -> Part:
    """The median time of one at a time."""

    def part(results: Results) -> str:
        found = results.spread(Cell(row, 1), p50_us)
        return "" if found is None else f"{row} p50 {spread(found, '{:.0f}')} us"

    return part


def cpu_split(row: str, outstanding: int) -> Part:
    """The CPU time of one answer, by process."""

    def part(results: Results) -> str:
        windows = results.at(Cell(row, outstanding))
        if not windows:
            return ""
        said = [
            f"{profiles.process(role)} {_median(windows, lambda each, role=role: _us(each, role)):.0f}"  # type: ignore[misc]  # as above
            for role in _roles(windows)
        ]
        return f"{row} at {outstanding}: CPU {_median(windows, cpu_us):.0f} us, {', '.join(said)}"

    return part


def fsync(row: str, outstanding: int) -> Part:
    """What an fsync took on the disk of a row, beside its windows."""

    def part(results: Results) -> str:
        found = [each for each in results.at(Cell(row, outstanding)) if FSYNC_US in each.extra]
        return f"fsync {_median(found, lambda each: each.extra[FSYNC_US]):.0f} us" if found else ""

    return part


def sampled(what: str, names: Mapping[str, str], unit: str) -> Part:
    """Figures that were measured by themselves, each under a word for it."""

    def part(results: Results) -> str:
        found = [f"{word} {each.median:.3g}" for word, name in names.items() if (each := results.sampled(name))]
        return f"{what}: {', '.join(found)} {unit}" if found else ""

    return part


def greatest(prefix: str, *, unit: str, whole: str, at_most: int = 10) -> Part:
    """The greatest of the samples whose name begins so, and the whole that they are of."""

    def part(results: Results) -> str:
        found = {name: each for name in results.samples if name.startswith(prefix) and (each := results.sampled(name))}
        total = results.sampled(whole)
        if not found or total is None:
            return ""
        first = sorted(found.items(), key=lambda item: -item[1].median)
        said = ", ".join(f"{name.removeprefix(prefix)} {each.median:.0f}" for name, each in first[:at_most])
        return (
            f"{prefix.strip()} {sum(each.median for each in found.values()):.3g} of {total.median:.3g} {unit}: {said}"
        )

    return part


def _of(row: str, role: str) -> str:
    return f"{row}'s {profiles.process(role)}"


def _median(windows: Sequence[Measure], of: Callable[[Measure], float]) -> float:
    return statistics.median(of(each) for each in windows)


def _roles(windows: Sequence[Measure]) -> list[str]:
    """Of several processes one role: how even they are is another bar's."""
    return list(dict.fromkeys(name.split()[0] for each in windows for name in each.cpu_us))


def _us(measure: Measure, role: str) -> float:
    return sum(us for name, us in measure.cpu_us.items() if name.split()[0] == role)


def _share(measure: Measure, role: str) -> float:
    return _us(measure, role) * per_s(measure) / 1e4 / CORES


def _used(measure: Measure) -> float:
    return cpu_us(measure) * per_s(measure) / 1e4 / CORES
