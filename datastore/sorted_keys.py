"""Keys in order, however many: one is added or found without a move of all the others."""

from bisect import bisect_left, bisect_right, insort
from collections.abc import Iterator
from itertools import islice
from typing import Final, TypeAlias

Key: TypeAlias = tuple[str, str]
"""(partition key, id): the order of `find`."""
Place: TypeAlias = tuple[str] | Key
"""A key, or what stands before all keys of one partition."""
PART_MAX: Final = 1_000
"""Keys of one part. Of a part of twice as many two are made."""


class SortedKeys:
    """Keys in parts, each of them sorted. Not safe under threads."""

    __slots__ = ("_last", "_parts")

    def __init__(self) -> None:
        self._parts: list[list[Key]] = []
        self._last: list[Key] = []
        """The last key of each part."""

    def add(self, key: Key) -> None:
        """A key that is not there yet."""
        parts, last = self._parts, self._last
        at = bisect_left(last, key)
        if at == len(parts):  # behind all others
            if not parts:
                parts.append([])
                last.append(key)
            at = len(parts) - 1
            parts[at].append(key)
            last[at] = key
        else:
            insort(parts[at], key)
        if len(parts[at]) >= 2 * PART_MAX:
            part = parts[at]
            parts[at : at + 1] = part[:PART_MAX], part[PART_MAX:]
            last.insert(at, part[PART_MAX - 1])

    def after(self, place: Place | None) -> Iterator[Key]:
        """Those behind it, in order; all for None. To be read before the next change."""
        at = 0 if place is None else bisect_right(self._last, place)
        for number, part in enumerate(islice(self._parts, at, None), at):
            yield from part if place is None or number > at else part[bisect_right(part, place) :]
