"""Which documents of the memory store have a field of a given value, so that a search looks at these alone."""

from collections.abc import Sequence
from typing import TypeAlias

from datastore.interface import Body, Filter

Key: TypeAlias = tuple[str, str]
"""(partition key, id): the order of `find`."""


class MemoryIndex:
    """Every key, and those of each value of some fields. Not safe under threads: the store calls it in its lock.

    A write moves a key from one set to another; the order is made when somebody searches, and kept for the pages of
    that search.
    """

    def __init__(self, fields: Sequence[str]) -> None:
        self._keys: list[Key] = []
        self._of: dict[str, dict[object, dict[Key, None]]] = {field: {} for field in fields}
        """By field and value: of the types in `_EXACT`, of which no two values are equal."""
        self.fields = self._of.keys()
        """A write of none of them, which takes none away, moves no key."""
        self._sorted: dict[tuple[str, object], list[Key]] = {}

    def add(self, key: Key, body: Body) -> None:
        """A new document."""
        self._keys.append(key)
        for field, values in self._of.items():
            value = body.get(field)
            if type(value) in _EXACT:
                values.setdefault(value, {})[key] = None

    def move(self, key: Key, before: Body, after: Body) -> None:
        """A document that was changed."""
        for field, values in self._of.items():
            old, new = before.get(field), after.get(field)
            if old is new:
                continue
            if type(old) in _EXACT:
                del values[old][key]
            if type(new) in _EXACT:
                if (same := values.get(new)) is None:
                    same = values[new] = {}
                same[key] = None

    def keys(self, filter: Filter, *, again: bool) -> Sequence[Key]:
        """Keys that may match, in order, as they are now; `again`: as they were for this search's first page."""
        best: tuple[str, object] | None = None
        for field in self._of:
            wanted = filter.get(field)
            if type(wanted) in _EXACT and (best is None or self._size(field, wanted) < self._size(*best)):
                best = field, wanted
        if best is None:
            self._keys.sort()  # nearly sorted already: new keys were appended since the last search
            return self._keys.copy()
        known = self._sorted.get(best) if again else None
        if known is None:
            name, value = best
            known = self._sorted[best] = sorted(self._of[name].get(value, ()))
        return known

    def _size(self, field: str, wanted: object) -> int:
        return len(self._of[field].get(wanted, ()))


_EXACT = frozenset({str, bool})
"""Types of values that an index knows: a number may be equal to one of another type."""
