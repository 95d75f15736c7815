"""The schedule of a campaign: which fault follows which, and after what pause. A seed decides all of it."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from random import Random

GAP_MS = (200, 900)
TWICE = 0.25
"""How often a second fault comes upon the first."""


@dataclass(frozen=True, slots=True)
class Step:
    """After things have gone well again: a pause, a fault, and perhaps another upon it."""

    gap_ms: int
    kind: str
    upon_it: str | None


def schedule(seed: int, kinds: Sequence[str]) -> Iterator[Step]:
    """Without an end: every kind once in an order of its own, then every kind again."""
    random = Random(seed)
    kills = [kind for kind in kinds if kind.startswith("kill")]
    while True:
        for kind in random.sample(kinds, len(kinds)):
            upon_it = random.choice(kills) if random.random() < TWICE and kills else None
            yield Step(random.randint(*GAP_MS), kind, upon_it)
