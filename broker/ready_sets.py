"""Which sets of terms each queue has jobs in, as a worker last saw them: they mostly are what they were.

Nothing is decided by it: whoever uses it has Redis compare it with what is there now.
"""

from collections.abc import Iterable
from itertools import count
from typing import Self, TypeAlias

from broker import index
from broker.index import JobSet
from broker.matching import WEIGHT_MAX, canonical
from datastore.value import Value

KEPT_MAX = 1_000
"""Queues that are kept; with more all are forgotten, and asked for once more."""
FITTINGS_MAX = 4_096
"""Offers that are kept, of all queues together: any claim may name others, in any queue, up to 4 KB of them."""
NUMBERS_MAX = 500_000
"""Sets that are kept with them, some 50 bytes each: of 20,000 sets, offers that all fit take 1 MB each."""


class Fitting(Value, frozen=True):
    """The sets that a factory may have jobs from, by their numbers from 1, and how far ahead it sees each."""

    numbers: tuple[int, ...]
    bonuses: tuple[int, ...]


Asked: TypeAlias = tuple[str, str, tuple[str, ...], int]
"""A queue, an heir or none, offers, and what waiting makes up for."""


class _Kept(Value, frozen=True):
    """What was worked out at some look: for the sets that there were by then."""

    look: int
    met: dict[str, int]
    """The names of those that fit, and how well each does."""
    fitting: Fitting


class Fittings:
    """What was worked out for offers. With too much of it all is forgotten."""

    def __init__(self) -> None:
        self._kept: dict[Asked, _Kept] = {}
        self._numbers = 0

    def known(self, asked: Asked) -> _Kept:
        """As it was worked out last; before any look, where it never was."""
        return self._kept.get(asked, _NOTHING)

    def keep(self, asked: Asked, kept: _Kept) -> None:
        """In place of what an earlier look gave."""
        if len(self._kept) >= FITTINGS_MAX or self._numbers >= NUMBERS_MAX:
            self._kept.clear()
            self._numbers = 0
        self._numbers += len(kept.met) - len(self.known(asked).met)
        self._kept[asked] = kept


_NOTHING = _Kept(-1, {}, Fitting((), ()))


class QueueSets:
    """The sets of one queue, as one `look` has found them. `kept`: what was worked out, for this queue and others.

    What a name says it says for ever: of one that stood at the look `before`, too, nothing is worked out again.
    """

    def __init__(self, queue: str, found: Iterable[bytes], *, look: int, kept: Fittings, before: Self | None) -> None:
        self._queue = queue
        self._look = look
        self._kept = kept
        self.names = index.names(found)
        """Without those that nobody of ours has written."""
        earlier = {} if before is None else before._since
        self._since: dict[str, tuple[int, JobSet | None]] = {
            name: earlier.get(name) or (look, JobSet.named(name)) for name in self.names
        }
        """The first of the looks that found it without a break, and what the name says."""
        self._numbers = {name: number for number, name in enumerate(self.names, start=1)}
        self._heirs = frozenset([each.heir for _, each in self._since.values() if each is not None])

    def heir(self, factory_id: str) -> str:
        """This factory, if something is kept for it. Empty: it is as any other."""
        return factory_id if factory_id in self._heirs else ""

    def fitting(self, offers: tuple[str, ...], *, heir: str, step_ms: int) -> Fitting:
        """Those for any factory with such offers, or for this heir. `step_ms`: what waiting makes up for a priority."""
        asked = self._queue, heir, offers, step_ms
        kept = self._kept.known(asked)
        if kept.look != self._look:
            kept = self._worked_out(offers, heir=heir, step_ms=step_ms, earlier=kept)
            self._kept.keep(asked, kept)
        return kept.fitting

    def _worked_out(self, offers: tuple[str, ...], *, heir: str, step_ms: int, earlier: _Kept) -> _Kept:
        new = [each for since, each in self._since.values() if since > earlier.look and each is not None]
        met = {name: weight for name, weight in earlier.met.items() if name in self._numbers}
        met |= index.serving(canonical(offers), new, factory_id=heir)
        numbers = sorted((self._numbers[name], weight) for name, weight in met.items())
        bonuses = tuple([step_ms * weight // WEIGHT_MAX for _, weight in numbers])
        return _Kept(self._look, met, Fitting(tuple([number for number, _ in numbers]), bonuses))


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
        if len(self._queues) >= KEPT_MAX and queue not in self._queues:
            self._queues.clear()
        before = self._queues.get(queue)
        seen = self._queues[queue] = QueueSets(queue, found, look=next(self._looks), kept=self._fitting, before=before)
        return seen
