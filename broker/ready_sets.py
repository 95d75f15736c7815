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
NUMBERS_MAX = 500_000
"""Numbers of sets that are kept with them, some 50 bytes each: of 20,000 sets, offers that all fit take 1 MB each."""


class Fitting(Value, frozen=True):
    """The sets that a factory may have jobs from, by their numbers from 1, and how far ahead it sees each."""

    numbers: tuple[int, ...]
    bonuses: tuple[int, ...]


Asked: TypeAlias = tuple[str, str, tuple[str, ...], int]
"""A queue, an heir or none, offers, and what waiting makes up for."""


class Fittings:
    """What was worked out for offers, each at some look at the sets. With too much of it all is forgotten."""

    def __init__(self) -> None:
        self._kept: dict[Asked, tuple[int, Fitting]] = {}
        self._numbers = 0

    def known(self, asked: Asked, look: int) -> Fitting | None:
        """As it was worked out at this look."""
        kept = self._kept.get(asked)
        return kept[1] if kept is not None and kept[0] == look else None

    def keep(self, asked: Asked, look: int, fitting: Fitting) -> None:
        """In place of what an earlier look gave."""
        if len(self._kept) >= FITTINGS_MAX or self._numbers >= NUMBERS_MAX:
            self._kept.clear()
            self._numbers = 0
        _, earlier = self._kept.get(asked, (look, _NONE))
        self._numbers += len(fitting.numbers) - len(earlier.numbers)
        self._kept[asked] = look, fitting


_NONE = Fitting((), ())


class QueueSets:
    """The sets of one queue, as one `look` has found them. `kept`: what was worked out, for this queue and others."""

    def __init__(self, queue: str, found: Iterable[bytes], *, look: int, kept: Fittings) -> None:
        self._queue = queue
        self._look = look
        self._kept = kept
        self.names = index.names(found)
        """Without those that nobody of ours has written."""
        self._heirs = frozenset(map(index.heir_of, self.names))

    def heir(self, factory_id: str) -> str:
        """This factory, if something is kept for it. Empty: it is as any other."""
        return factory_id if factory_id in self._heirs else ""

    def fitting(self, offers: tuple[str, ...], *, heir: str, step_ms: int) -> Fitting:
        """Those for any factory with such offers, or for this heir. `step_ms`: what waiting makes up for a priority."""
        asked = self._queue, heir, offers, step_ms
        fitting = self._kept.known(asked, self._look)
        if fitting is None:
            met = dict(index.serving(canonical(offers), self.names, factory_id=heir))
            numbers = [number for number, name in enumerate(self.names, start=1) if name in met]
            bonuses = [step_ms * met[self.names[number - 1]] // WEIGHT_MAX for number in numbers]
            fitting = Fitting(tuple(numbers), tuple(bonuses))
            self._kept.keep(asked, self._look, fitting)
        return fitting


class ReadySets:
    """The sets of every queue that was asked for. For one worker's loop: not safe under threads."""

    def __init__(self) -> None:
        self._queues: dict[str, QueueSets] = {}
        self._fitting = Fittings()
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
