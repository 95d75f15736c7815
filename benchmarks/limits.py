"""What limits each bar: which figures of the run tell it. None of them is true of another machine by itself."""

from collections.abc import Mapping, Sequence

from benchmarks.bars import MANY, ONE, SOME, Bar
from benchmarks.results import Results
from benchmarks.special import curve, idle, start
from benchmarks.telling import (
    Part,
    cores,
    cores_of_best,
    cpu_split,
    fsync,
    greatest,
    p50,
    sampled,
    steps,
    told,
    us_by_clock,
    us_of_cpu,
)

HEADINGS = ("measure", "limited by")
HOW = (
    "Cores: who used the machine in the window, and how much of it nobody did. CPU time: of that process, by step. "
    "Time: of the window by the clock, waits included: `receive` is mostly the wait for Redis, and a wait for a core "
    "is in the step that was reached."
)
ROLES = ("worker", "driver", "redis")
STOCK = cores("stock-rq", MANY)


def limited(results: Results, bars: Sequence[Bar], python_peers: Sequence[str]) -> list[tuple[str, str]]:
    """Each bar with what limits it, as far as this run has measured that."""
    parts = limits(python_peers)
    return [(bar.measure, told(parts[bar.measure], results)) for bar in bars]


def limits(python_peers: Sequence[str]) -> Mapping[str, Sequence[Part]]:
    """By the measure of each bar."""
    memory, sqlite_1, sqlite_2 = _served("memory-rq", MANY), _stored("sqlite-1"), _stored("sqlite-2")
    alone = _alone("memory-rq")
    return {
        "grants/s, memory, rq wire, against stock rq, 256": (*memory, STOCK),
        "grants/s, memory, intake, against stock rq, 256": (*_served("memory-intake", MANY), STOCK),
        "grants/s, SQLite, 1 worker, against stock rq, 256": (*sqlite_1, STOCK),
        "grants/s, SQLite, 2 workers, against stock rq, 256": (*sqlite_2, STOCK),
        "against the best Python peer, 256": (*memory, cores_of_best(python_peers, MANY)),
        "against the best Python peer, 16": (*_served("memory-rq", SOME), cores_of_best(python_peers, SOME)),
        "against the best Python peer, 1": (*alone, cores_of_best(python_peers, ONE)),
        "against BullMQ, 256": (*memory, cores("bullmq", MANY)),
        "against BullMQ, 1": (*alone, cores("bullmq", ONE)),
        "one claim at a time, p50 by PING, memory": (
            p50("ping"),
            p50("memory-rq"),
            *alone,
            cpu_split("memory-rq", ONE),
        ),
        "one claim at a time, p50 by PING, SQLite": (
            p50("ping"),
            p50("sqlite-1"),
            fsync("sqlite-1", ONE),
            *_alone("sqlite-1"),
            cpu_split("sqlite-1", ONE),
        ),
        "CPU of a grant, memory, intake": _spent("memory-intake", MANY),
        "CPU of a grant, SQLite": _spent("sqlite-1", MANY),
        "rq's Queue.enqueue client, against stock rq, 256": (*_served("memory-rq-enqueue", MANY), STOCK),
        "leases renewed a second, 100 a message by 1": (
            *_spent("renew-batch-100", SOME),
            *_spent("renew-single", MANY),
        ),
        "SQLite, 2 workers by 1": (*sqlite_2, *sqlite_1),
        "share of the lesser of 2 workers": sqlite_2,
        "p99 of renewals, 100,000 claims queued by none": (
            cores("renew-single", SOME),
            cores("renew-crowded", SOME),
            steps("renew-crowded", SOME),
            steps("renew-crowded", SOME, "redis"),
            steps("renew-crowded", SOME, kind="clock"),
        ),
        "finding the next job, 1,000,000 ready jobs by 1,000": curve.limits(),
        "idle, 1,000 parked claims and 10 workers": (
            sampled("CPU", {role: f"{idle.PERCENT} {role}" for role in ("redis", "worker", "sweep")}, "% of a core"),
            sampled("Redis", {"commands": idle.COMMANDS}, "a second"),
        ),
        "start of a worker to its first claim": (greatest(start.IMPORTS, unit="ms", whole=start.TOLD_MS),),
        "conflicts, 64 claim-next over 2 workers": (cores("sqlite-next", 64),),
    }


def _served(row: str, outstanding: int) -> Sequence[Part]:
    """A row that CPU limits."""
    return cores(row, outstanding), *(steps(row, outstanding, role) for role in ROLES)


def _stored(row: str) -> Sequence[Part]:
    """A row that waits for its disk, and for whoever else writes there."""
    return cores(row, MANY), steps(row, MANY, kind="clock"), steps(row, MANY), steps(row, MANY, "redis")


def _alone(row: str) -> Sequence[Part]:
    """A row with one request at a time: where its time goes, on both sides."""
    return cores(row, ONE), us_by_clock(row), us_by_clock(row, "driver"), us_of_cpu(row, ONE, "redis")


def _spent(row: str, outstanding: int) -> Sequence[Part]:
    """The CPU time of an answer."""
    return cpu_split(row, outstanding), *(us_of_cpu(row, outstanding, role) for role in ROLES)
