"""The ready index against the jobs it is a hint of: what it lacks, or has elsewhere, is put right.

Mostly nothing is: then a page of jobs costs one command for each of the index's sets.
"""

from collections.abc import Sequence
from typing import cast

from redis import Redis

from broker import index
from broker.index import Place


def mend(connection: Redis, places: Sequence[Place], amiss: Sequence[Place]) -> None:
    """Have the index offer those jobs that are `amiss` as they stand, and find the sets of all of these."""
    with connection.pipeline(transaction=False) as pipe:
        index.move(pipe, [(place, True) for place in amiss])
        index.name_sets(pipe, places)  # a pop may have tidied one away that looked empty
        pipe.execute()


def amiss(connection: Redis, places: Sequence[Place]) -> tuple[list[Place], list[Place]]:
    """(Those that the index does not have, those that it has with another score, or in a lane that stands behind them.)

    A lane does where it was served lately: what is put too far in front the next pop puts right. What is kept for a
    factory is always said again: it lasts as long as somebody does.
    """
    lines: dict[str, list[str]] = {}
    for place in places:
        lines.setdefault(place.line, []).append(place.job_id)
        if place.lane:
            lines.setdefault(place.key, []).append(place.lane)
    with connection.pipeline(transaction=False) as pipe:
        for key, members in lines.items():
            pipe.zmscore(key, members)
        found = cast(list[list[float | None]], pipe.execute())
    scores: dict[tuple[str, str], float | None] = {}
    for (key, members), shown in zip(lines.items(), found, strict=True):
        scores |= {(key, member): score for member, score in zip(members, shown, strict=True)}
    absent: list[Place] = []
    elsewhere: list[Place] = []
    for place in places:
        score = scores[place.line, place.job_id]
        head = scores[place.key, place.lane] if place.lane else score
        if score is None:
            absent.append(place)
        elif score != place.score or head is None or head > place.score or place.kept_for:
            elsewhere.append(place)
    return absent, elsewhere
