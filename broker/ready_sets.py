"""Which sets of terms each queue has jobs in, as a worker last saw them: they mostly are what they were.

Nothing is decided by it: whoever uses it has Redis compare it with what is there now.
"""

from collections.abc import Iterable

from broker import index
from broker.matching import WEIGHT_MAX, canonical
from datastore.value import Value

KEPT_MAX = 1_000
"""Queues, and offers for each, that are kept; with more all are forgotten, and asked for once more."""


class Fitting(Value, frozen=True):
    """The sets that a factory may have jobs from, by their numbers from 1, and how far ahead it sees each."""

    numbers: tuple[int, ...]
    bonuses: tuple[int, ...]


class QueueSets:
    """The sets of one queue."""

    def __init__(self, found: Iterable[bytes]) -> None:
        self._found = frozenset(found)
        self.names = index.names(self._found)
        """Without those that nobody of ours has written."""
        self._fitting: dict[tuple[tuple[str, ...], int], Fitting] = {}

    def fitting(self, offers: tuple[str, ...], *, step_ms: int) -> Fitting:
        """Those for a factory with such offers. `step_ms`: how much waiting makes up for one priority."""
        known = self._fitting.get((offers, step_ms))
        if known is None:
            met = dict(index.serving(canonical(offers), self._found))
            numbers = [number for number, name in enumerate(self.names, start=1) if name in met]
            bonuses = [step_ms * met[self.names[number - 1]] // WEIGHT_MAX for number in numbers]
            if len(self._fitting) >= KEPT_MAX:
                self._fitting.clear()
            known = self._fitting[offers, step_ms] = Fitting(tuple(numbers), tuple(bonuses))
        return known


class ReadySets:
    """The sets of every queue that was asked for. For one worker's loop: not safe under threads."""

    def __init__(self) -> None:
        self._queues: dict[str, QueueSets] = {}

    def of(self, queue: str) -> QueueSets:
        """As last seen; at first there are none."""
        return self._queues.get(queue) or self.saw(queue, ())

    def saw(self, queue: str, found: Iterable[bytes]) -> QueueSets:
        """From now on it is these."""
        if len(self._queues) >= KEPT_MAX:
            self._queues.clear()
        seen = self._queues[queue] = QueueSets(found)
        return seen
