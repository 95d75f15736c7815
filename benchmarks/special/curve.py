"""Finding the next job over the number of ready jobs, with and without fairness keys."""

import statistics
from collections.abc import Sequence

from benchmarks.index_curve import IN_A_ROUND, ROUNDS, SIZES, Point, measure_curve
from benchmarks.telling import Part, sampled

NAME = "find_next_us"
RATIO = "find_next_million_by_thousand"


def measure() -> dict[str, list[float]]:
    """Microseconds at each size, and a million by a thousand in each round, in the worse of the two cases."""
    points = measure_curve(SIZES, rounds=ROUNDS, tell=lambda _: None)
    return {
        RATIO: ratios(points, above=SIZES[-1], below=SIZES[0]),
        **{_name(point): list(point.took_us) for point in points},
        **{f"redis {_name(point)}": list(point.redis_us) for point in points},
    }


def ratios(points: Sequence[Point], *, above: int, below: int) -> list[float]:
    """The median of one size by that of another, each round by itself."""
    found = {(point.jobs, point.keyed): point for point in points}
    cases = [
        [a / b for a, b in zip(_medians(found[above, keyed]), _medians(found[below, keyed]), strict=True)]
        for keyed in (False, True)
    ]
    return max(cases, key=statistics.median)


def limits() -> Sequence[Part]:
    """What tells of the least and the most jobs: how long finding one takes, and how much of that Redis works."""
    sizes = [(size, keyed) for keyed in ("", " keyed") for size in (SIZES[0], SIZES[-1])]
    return [
        sampled(
            f"{size:,} jobs{' with fairness keys' if keyed else ''}",
            {"finding": f"{NAME} {size}{keyed}", "of it Redis's CPU": f"redis {NAME} {size}{keyed}"},
            "us",
        )
        for size, keyed in sizes
    ]


def _medians(point: Point) -> list[float]:
    rounds = range(0, len(point.took_us), IN_A_ROUND)
    return [statistics.median(point.took_us[first : first + IN_A_ROUND]) for first in rounds]


def _name(point: Point) -> str:
    return f"{NAME} {point.jobs}{' keyed' if point.keyed else ''}"
