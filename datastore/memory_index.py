"""Which documents of the memory store have a field of a given value, so that a search looks at these alone."""

from bisect import bisect_right
from collections import ChainMap
from collections.abc import Container, Iterable, Mapping, Sequence, Sized
from itertools import chain, islice
from typing import Final

from datastore.interface import AnyOf, Body, Condition, Filter
from datastore.sorted_keys import Key, Place, SortedKeys

SORTED_MAX: Final = 10_000
"""Keys of one value that a search puts in order: 5 ms. Where there are more, it passes all keys, which are in order."""
PASSED_MAX: Final = 20
"""Keys that it passes then for each that it may look at."""


class MemoryIndex:
    """Every key, and those of each value of some fields. Not safe under threads: the store calls it in its lock.

    A write moves a key from one set to another; the order of a small set is made when somebody searches, and kept for
    the pages of that search.
    """

    def __init__(self, fields: Sequence[str]) -> None:
        self._keys = SortedKeys()
        self._of: dict[str, dict[object, dict[Key, None]]] = {field: {} for field in fields}
        """By field and value: of the types in `_EXACT`, of which no two values are equal."""
        self._looks: list[tuple[str, Sequence[str], dict[object, dict[Key, None]]]] = []
        """A field of the body, the steps that a dotted path goes on by, and what of `_of` stands for it."""
        for field, values in self._of.items():
            first, *further = field.split(".")
            self._looks.append((first, further, values))
        self.fields = frozenset(first for first, _, _ in self._looks)
        """Of the body. A write of none of them, which takes none away, moves no key."""
        self._sorted: dict[tuple[str, Condition], list[Key]] = {}

    def add(self, key: Key, body: Body) -> None:
        """A new document."""
        self._keys.add(key)
        for first, further, values in self._looks:
            value: object = body.get(first)
            if further:
                value = _inside(value, further)
            if type(value) in _EXACT:
                values.setdefault(value, {})[key] = None

    def move(self, key: Key, before: Body, after: Body) -> None:
        """A document that was changed."""
        old: object
        new: object
        for first, further, values in self._looks:
            old, new = before.get(first), after.get(first)
            if old is new:
                continue
            if further:
                old, new = _inside(old, further), _inside(new, further)
            if type(old) in _EXACT:
                del values[old][key]
            if type(new) in _EXACT:
                if (same := values.get(new)) is None:
                    same = values[new] = {}
                same[key] = None

    def portion(
        self, filter: Filter, after: Place | None, *, again: bool, at_most: int
    ) -> tuple[Sequence[Key], Key | None]:
        """Keys behind `after` that may match, in order, and the key up to which these are all; None: there are no more.

        As they are now; `again`: of a small set as they were for this search's first page.
        """
        narrowed = [(name, sets) for name in self._of if (sets := self._sets(name, filter.get(name))) is not None]
        if not narrowed:
            return _first(self._keys.after(after), at_most)
        name, sets = min(narrowed, key=lambda each: _size(each[1]))
        search = name, filter[name]
        if _size(sets) > SORTED_MAX:
            self._sorted.pop(search, None)  # it would be old, where this search goes on when the set is small again
            return self._passing(sets[0] if len(sets) == 1 else ChainMap(*sets), after, at_most)
        known = self._sorted.get(search) if again else None
        if known is None:
            known = self._sorted[search] = sorted(chain(*sets))
        return _first(islice(known, 0 if after is None else bisect_right(known, after), None), at_most)

    def _passing(self, wanted: Container[Key], after: Place | None, at_most: int) -> tuple[Sequence[Key], Key | None]:
        found: list[Key] = []
        last: Key | None = None
        for passed, key in enumerate(self._keys.after(after)):
            if passed == PASSED_MAX * at_most or len(found) == at_most:
                return found, last
            if key in wanted:
                found.append(key)
            last = key
        return found, None

    def _sets(self, field: str, wanted: object) -> list[dict[Key, None]] | None:
        """The keys of each value that a condition asks for; None where the index knows too little of them."""
        values = wanted.values if isinstance(wanted, AnyOf) else (wanted,)
        if not all(type(value) in _EXACT for value in values):
            return None
        known = self._of[field]
        return [known[value] for value in dict.fromkeys(values) if value in known]


def _inside(value: object, further: Sequence[str]) -> object:
    """What a dotted path leads to from there on."""
    for step in further:
        value = value.get(step) if isinstance(value, Mapping) else None
    return value


def _size(sets: Iterable[Sized]) -> int:
    return sum(map(len, sets))


_EXACT = frozenset({str, bool})
"""Types of values that an index knows: a number may be equal to one of another type."""


def _first(keys: Iterable[Key], at_most: int) -> tuple[Sequence[Key], Key | None]:
    """So many of them, and the last of these where there are more."""
    found = list(islice(keys, at_most + 1))
    return found[:at_most], found[at_most - 1] if len(found) > at_most else None
