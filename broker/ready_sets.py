"""Which sets of terms each queue has jobs in, as a worker last saw them: they mostly are what they were.

Nothing is decided by it: whoever uses it has Redis compare it with what is there now.
"""

from collections.abc import Iterator, Sequence
from itertools import count
from typing import Self, TypeAlias

from broker import index
from broker.index import JobSet
from broker.matching import WEIGHT_MAX
from datastore.value import Value

KEPT_MAX = 1_000
"""Queues that are kept; with more all are forgotten, and asked for once more."""
NAMES_LONG = 4_096
"""Characters of a queue's names together from which on they are long: those of most queues are sent as they are."""
NAME_MAX = 128
"""Characters of a name that is kept taken apart, which takes fifteen times as much; others are, each time."""
FITTINGS_MAX = 4_096
"""Offers that are kept, of all queues together: any claim may name others, in any queue, up to 4 KB of them."""
FITTING_SETS_MAX = 400_000
"""Sets that fit them, some 80 bytes each: of 20,000 sets, offers that all fit take 1.6 MB each."""


class Fitting(Value, frozen=True):
    """The sets that a factory may have jobs from, by their numbers from 1, and how far ahead it sees each."""

    numbers: tuple[int, ...]
    bonuses: tuple[int, ...]


Asked: TypeAlias = tuple[str, str, tuple[str, ...], int]
"""A queue, an heir or none, offers, and what waiting makes up for."""


class _Kept(Value, frozen=True):
    """What was worked out for offers, of the sets that there were at some look."""

    look: int
    met: dict[int, int]
    """Which of them fit, by when they were first found, and how well each does."""
    fitting: Fitting


_NOTHING = _Kept(-1, {}, Fitting((), ()))


class Fittings:
    """What was worked out for offers. With too much of it all is forgotten."""

    def __init__(self) -> None:
        self._kept: dict[Asked, _Kept] = {}
        self._sets = 0

    def known(self, asked: Asked) -> _Kept:
        """As it was worked out last; before any look, where it never was."""
        return self._kept.get(asked, _NOTHING)

    def keep(self, asked: Asked, kept: _Kept) -> None:
        """In place of what an earlier look gave."""
        if len(self._kept) >= FITTINGS_MAX or self._sets >= FITTING_SETS_MAX:
            self._kept.clear()
            self._sets = 0
        self._sets += len(kept.met) - len(self.known(asked).met)
        self._kept[asked] = kept


class _Found(Value, frozen=True):
    """A set, since one look or another found it."""

    number: int
    """Rises with each set and each look of a worker, so that it tells whether it was found since."""
    says: JobSet | None
    """What its name says. None: it is to be read, or says nothing."""

    def read(self, name: str) -> JobSet | None:
        return JobSet.named(name) if self.says is None else self.says


class QueueSets:
    """The sets of one queue, as one look has found them. `kept`: what was worked out, for this queue and others.

    What a name says it says for ever: of a set that the look `before` has found, too, nothing is worked out again.
    The last of a queue's alone is to be asked. `numbers`: for sets and looks.
    """

    def __init__(
        self,
        queue: str,
        found: Sequence[bytes],
        *,
        state: bytes,
        numbers: Iterator[int],
        kept: Fittings,
        before: Self | None,
    ) -> None:
        self._queue = queue
        self._kept = kept
        self.size = len(found)
        """How many there are, with those that nobody of ours has written."""
        self.state = state.decode(errors="replace")
        """None of them was taken away for as long as Redis names this one."""
        self.names = index.names(found)
        """Without those that nobody of ours has written."""
        self.is_long = sum(map(len, self.names)) > NAMES_LONG
        """Whether it is worth while to leave out those that nobody may have."""
        earlier = {} if before is None else before._sets
        self._sets: dict[str, _Found] = {name: earlier.get(name) or _found(name, next(numbers)) for name in self.names}
        self._look = next(numbers)
        self._heirs = frozenset(map(index.heir_of, self.names))

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
        new = [(name, found) for name, found in self._sets.items() if found.number > earlier.look]
        met = dict(earlier.met)
        if new:
            read = [says for name, found in new if (says := found.read(name)) is not None]
            for name, weight in index.serving(offers, read, factory_id=heir).items():
                met[self._sets[name].number] = weight
        there = [
            (place, found.number) for place, found in enumerate(self._sets.values(), start=1) if found.number in met
        ]
        fitting = Fitting(
            tuple([place for place, _ in there]),
            tuple([step_ms * met[number] // WEIGHT_MAX for _, number in there]),
        )
        return _Kept(self._look, {number: met[number] for _, number in there}, fitting)


def _found(name: str, number: int) -> _Found:
    return _Found(number, JobSet.named(name) if len(name) <= NAME_MAX else None)


class ReadySets:
    """The sets of every queue that was asked for. For one worker's loop: not safe under threads."""

    def __init__(self) -> None:
        self._queues: dict[str, QueueSets] = {}
        self._fittings = Fittings()
        self._numbers = count()

    def of(self, queue: str) -> QueueSets:
        """As last seen; at first there are none."""
        return self._queues.get(queue) or self.saw(queue, ())

    def forget(self) -> None:
        """Ask for all of them again: another Redis, or one that was set back, may have others that look the same."""
        self._queues.clear()

    def saw(self, queue: str, found: Sequence[bytes], *, state: bytes = b"") -> QueueSets:
        """From now on it is these."""
        if len(self._queues) >= KEPT_MAX and queue not in self._queues:
            self._queues.clear()
        before = self._queues.get(queue)
        seen = self._queues[queue] = QueueSets(
            queue, found, state=state, numbers=self._numbers, kept=self._fittings, before=before
        )
        return seen
