"""Which sets of terms each queue has jobs in, as a worker last saw them: they mostly are what they were.

Nothing is decided by it: whoever uses it has Redis compare it with what is there now.
"""

from collections.abc import Iterable
from itertools import count
from typing import TypeAlias

from broker import index
from broker.matching import WEIGHT_MAX, canonical
from datastore.value import Value

KEPT_MAX = 1_000
"""Queues that are kept; with more all are forgotten, and asked for once more."""
FITTINGS_MAX = 4_096
"""Offers that are kept, of all queues together: any claim may name others, in any queue, up to 4 KB of them."""


class Fitting(Value, frozen=True):
    """The sets that a factory may have jobs from, by their numbers from 1, and how far ahead it sees each."""

    numbers: tuple[int, ...]
    bonuses: tuple[int, ...]


Asked: TypeAlias = tuple[str, tuple[str, ...], int]
"""A queue, offers, and what waiting makes up for."""


class QueueSets:
    """The sets of one queue, as one `look` has found them. `kept`: what was worked out, for this queue and others."""

    def __init__(
        self, queue: str, found: Iterable[bytes], *, look: int, kept: dict[Asked, tuple[int, Fitting]]
    ) -> None:
        self._queue = queue
        self._found = frozenset(found)
        self._look = look
        self._kept = kept
        self.names = index.names(self._found)
        """Without those that nobody of ours has written."""

    def fitting(self, offers: tuple[str, ...], *, step_ms: int) -> Fitting:
        """Those for a factory with such offers. `step_ms`: how much waiting makes up for one priority."""
        asked = self._queue, offers, step_ms
        look, known = self._kept.get(asked, _NEVER)
        if look != self._look:
            met = dict(index.serving(canonical(offers), self._found))
            numbers = [number for number, name in enumerate(self.names, start=1) if name in met]
            bonuses = [step_ms * met[self.names[number - 1]] // WEIGHT_MAX for number in numbers]
            if len(self._kept) >= FITTINGS_MAX:
                self._kept.clear()
            known = Fitting(tuple(numbers), tuple(bonuses))
            self._kept[asked] = self._look, known
        return known


_NEVER = (-1, Fitting((), ()))


class ReadySets:
    """The sets of every queue that was asked for. For one worker's loop: not safe under threads."""

    def __init__(self) -> None:
        self._queues: dict[str, QueueSets] = {}
        self._fitting: dict[Asked, tuple[int, Fitting]] = {}
        self._looks = count()

    def of(self, queue: str) -> QueueSets:
        """As last seen; at first there are none."""
        return self._queues.get(queue) or self.saw(queue, ())

    def saw(self, queue: str, found: Iterable[bytes]) -> QueueSets:
        """From now on it is these."""
        if len(self._queues) >= KEPT_MAX:
            self._queues.clear()
        seen = self._queues[queue] = QueueSets(queue, found, look=next(self._looks), kept=self._fitting)
        return seen
