"""claim-next over the number of ready jobs, with and without fairness keys."""

import statistics

from benchmarks.index_curve import ROUNDS, SIZES, Point, measure_curve

NAME = "claim_next_us"


def measure() -> dict[str, list[float]]:
    """Medians at each size, and a million by a thousand, in the worse of the two cases."""
    points = measure_curve(SIZES, rounds=ROUNDS, tell=lambda _: None)
    medians = {(point.jobs, point.keyed): statistics.median(point.took_us) for point in points}
    ratios = [medians[SIZES[-1], keyed] / medians[SIZES[0], keyed] for keyed in (False, True)]
    return {"claim_next_million_by_thousand": [max(ratios)], **{_name(point): list(point.took_us) for point in points}}


def _name(point: Point) -> str:
    return f"{NAME} {point.jobs}{' keyed' if point.keyed else ''}"
