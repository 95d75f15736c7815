"""What the product must reach, each bar with what this run showed."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from benchmarks.results import Cell, Results, Spread, cpu_us, p50_us, p99_us
from benchmarks.special import curve
from benchmarks.telling import Part, fsync
from benchmarks.words import spread

MANY, SOME, ONE = 256, 16, 1
Verdict = Literal["holds", "missed", "not measured"]


@dataclass(frozen=True, slots=True)
class Bar:
    """One sentence of what is promised."""

    measure: str
    bar: str
    limit: float
    at_least: bool
    figure: Callable[[Results], Spread | None]
    beside: Part | None = None
    """What its figure is to be seen beside."""

    def measured(self, results: Results) -> str:
        """The figure in words, and what belongs beside it."""
        said = spread(self.figure(results), "{:.3g}")
        beside = self.beside(results) if self.beside else ""
        return f"{said}; {beside}" if beside else said

    def verdict(self, results: Results) -> Verdict:
        """How it stands."""
        found = self.figure(results)
        if found is None:
            return "not measured"
        return "holds" if (found.median >= self.limit) is self.at_least or found.median == self.limit else "missed"


def ratio(above: str, below: str, outstanding: int) -> Callable[[Results], Spread | None]:
    """Answers a second of one row by those of another, in the same round."""
    return lambda results: results.ratio(Cell(above, outstanding), Cell(below, outstanding))


def against_best(above: str, rows: Sequence[str], outstanding: int) -> Callable[[Results], Spread | None]:
    """The same against whichever of `rows` answers most at this level."""

    def figure(results: Results) -> Spread | None:
        best = results.best(rows, outstanding)
        return None if best is None else results.ratio(Cell(above, outstanding), Cell(best, outstanding))

    return figure


def against_ping(row: str) -> Callable[[Results], Spread | None]:
    """The median time of one claim at a time, by that of a PING in the same round."""
    return lambda results: results.ratio(Cell(row, ONE), Cell("ping", ONE), p50_us)


def cpu(row: str) -> Callable[[Results], Spread | None]:
    """CPU time of all processes for a grant."""
    return lambda results: results.spread(Cell(row, MANY), cpu_us)


def sampled(name: str) -> Callable[[Results], Spread | None]:
    """A figure measured by itself."""
    return lambda results: results.sampled(name)


def told(row: str, outstanding: int, name: str) -> Callable[[Results], Spread | None]:
    """A further figure that a row told with each window."""

    def figure(results: Results) -> Spread | None:
        found = [measure.extra[name] for measure in results.at(Cell(row, outstanding)) if name in measure.extra]
        return Spread.of(found)

    return figure


def batch_by_single(results: Results) -> Spread | None:
    """Leases renewed a second, a hundred a message, by one a message."""
    return results.ratio(Cell("renew-batch-100", SOME), Cell("renew-single", MANY))


def crowded_by_calm(results: Results) -> Spread | None:
    """The p99 of renewals while claims are queued, by that without them."""
    return results.ratio(Cell("renew-crowded", SOME), Cell("renew-single", SOME), p99_us)


CONFLICTS = told("sqlite-next", 64, "conflicts_percent")


def at_least(measure: str, limit: float, figure: Callable[[Results], Spread | None], unit: str = "x") -> Bar:
    """The more the better."""
    return Bar(measure, f">= {limit:g} {unit}", limit, True, figure)


def at_most(measure: str, limit: float, figure: Callable[[Results], Spread | None], unit: str = "x") -> Bar:
    """The less the better."""
    return Bar(measure, f"<= {limit:g} {unit}", limit, False, figure)


def _on_disk(row: str, bar: Bar) -> Bar:
    return replace(bar, beside=fsync(row, MANY))


def bars(python_peers: Sequence[str]) -> tuple[Bar, ...]:
    """Every bar, in the order of the promise."""
    return (
        at_least("grants/s, memory, rq wire, against stock rq, 256", 50, ratio("memory-rq", "stock-rq", MANY)),
        at_least("grants/s, memory, intake, against stock rq, 256", 60, ratio("memory-intake", "stock-rq", MANY)),
        _on_disk(
            "sqlite-1",
            at_least("grants/s, SQLite, 1 worker, against stock rq, 256", 35, ratio("sqlite-1", "stock-rq", MANY)),
        ),
        _on_disk(
            "sqlite-2",
            at_least("grants/s, SQLite, 2 workers, against stock rq, 256", 35, ratio("sqlite-2", "stock-rq", MANY)),
        ),
        at_least("against the best Python peer, 256", 10, against_best("memory-rq", python_peers, MANY)),
        at_least("against the best Python peer, 16", 4, against_best("memory-rq", python_peers, SOME)),
        at_least("against the best Python peer, 1", 1.5, against_best("memory-rq", python_peers, ONE)),
        at_least("against BullMQ, 256", 4, ratio("memory-rq", "bullmq", MANY)),
        at_least("against BullMQ, 1", 3, ratio("memory-rq", "bullmq", ONE)),
        at_most("one claim at a time, p50 by PING, memory", 5, against_ping("memory-rq")),
        at_most("one claim at a time, p50 by PING, SQLite", 7, against_ping("sqlite-1")),
        at_most("CPU of a grant, memory, intake", 65, cpu("memory-intake"), "us"),
        at_most("CPU of a grant, SQLite", 95, cpu("sqlite-1"), "us"),
        at_least("rq's Queue.enqueue client, against stock rq, 256", 3, ratio("memory-rq-enqueue", "stock-rq", MANY)),
        at_least("leases renewed a second, 100 a message by 1", 5, batch_by_single),
        at_least("SQLite, 2 workers by 1", 0.95, ratio("sqlite-2", "sqlite-1", MANY)),
        at_least("share of the lesser of 2 workers", 40, told("sqlite-2", MANY, "lesser_worker_percent"), "%"),
        at_most("p99 of renewals, 100,000 claims queued by none", 2, crowded_by_calm),
        at_most("finding the next job, 1,000,000 ready jobs by 1,000", 1.3, sampled(curve.RATIO)),
        at_most("idle, 1,000 parked claims and 10 workers", 1, sampled("idle_percent_of_a_core"), "% of a core"),
        at_most("start of a worker to its first claim", 0.5, sampled("start_to_first_claim_s"), "s"),
        at_most("conflicts, 64 claim-next over 2 workers", 1, CONFLICTS, "%"),
    )


def last_line(results: Results, python_peers: Sequence[str]) -> str:
    """The run in one line, medians of same-round ratios; `-` where a row was not measured."""
    sqlite = [found for row in ("sqlite-1", "sqlite-2") if (found := ratio(row, "stock-rq", MANY)(results))]
    told = {
        "memory": ratio("memory-rq", "stock-rq", MANY)(results),
        "intake": ratio("memory-intake", "stock-rq", MANY)(results),
        "sqlite": min(sqlite, key=lambda spread: spread.median) if sqlite else None,
        "vs_best_python": against_best("memory-rq", python_peers, MANY)(results),
        "vs_bullmq": ratio("memory-rq", "bullmq", MANY)(results),
        "p50_vs_ping": against_ping("memory-rq")(results),
        "cpu_us": cpu("memory-intake")(results),
        "conflicts_pct": CONFLICTS(results),
    }
    figures = " ".join(f"{name}={'-' if found is None else f'{found.median:.4g}'}" for name, found in told.items())
    return f"bench: vs_stock_rq {figures}"
