"""Which factory may run which job: what a job requires against what a factory offers."""

import operator
import re
from collections.abc import Callable, Iterable, Mapping
from math import isnan
from typing import Self, TypeAlias

from datastore.value import Value

_NEED = re.compile(r"^(?P<key>[^\s=<>!]+)(?:(?P<sign>>=|<=|=|>|<)(?P<value>.*))?$")
_COMPARE: Mapping[str, Callable[[float, float], bool]] = {
    ">=": operator.ge,
    "<=": operator.le,
    ">": operator.gt,
    "<": operator.lt,
}
_AT_LEAST = (">=", ">")
"""What the greatest number that is offered meets, if any does."""

Preferences: TypeAlias = tuple[tuple[str, int], ...]
"""What a job would rather have, each with its weight."""
WEIGHT_MAX = 100
"""Of one preference, and of all that are met together."""


def canonical(terms: Iterable[str]) -> tuple[str, ...]:
    """Requirements or offers as a set in one order, so that equal sets are equal values."""
    return tuple(sorted(set(terms)))


def unmet(offers: tuple[str, ...], requires: tuple[str, ...]) -> tuple[str, ...]:
    """Of `requires`, those that `offers` (`key=value`, `key`) do not satisfy.

    `key` asks for the key with any value; `key=value` for that value among the offered ones;
    `key>=number` (`<=`, `>`, `<`) for a number that compares so. Without requirements everybody may.
    """
    if not requires:
        return ()
    offered = Offered(offers)
    return tuple([text for text in requires if not offered.meet(Need.of(text))])


class Need(Value, frozen=True):
    """One requirement, taken apart."""

    key: str
    sign: str | None
    """None: any value will do."""
    wanted: str
    bound: float | None
    """What is wanted, as a number; None where it is none."""

    @classmethod
    def of(cls, text: str) -> Self | None:
        """None where it is no requirement, which nobody meets."""
        parts = _NEED.match(text)
        if parts is None:
            return None
        key, sign, wanted = parts.groups()
        return cls(key, sign, wanted or "", _number(wanted) if sign in _COMPARE else None)


class Offered:
    """What is offered. It is taken apart when that is asked for, as little as it takes."""

    __slots__ = ("_ends", "_values", "texts")

    def __init__(self, texts: tuple[str, ...]) -> None:
        self.texts = texts
        self._values: dict[str, list[str]] | None = None
        self._ends: dict[str, tuple[float, float] | None] = {}

    def meet(self, need: Need | None) -> bool:
        """Whether one of these is what is needed."""
        if need is None or (values := self._by_key().get(need.key)) is None:
            return False
        if need.sign is None:
            return True
        if need.sign == "=":
            return need.wanted in values
        if need.bound is None or (ends := self._numbers(need.key, values)) is None:
            return False
        return _COMPARE[need.sign](ends[need.sign in _AT_LEAST], need.bound)

    def _by_key(self) -> dict[str, list[str]]:
        """`key` offers the key with an empty value."""
        if self._values is None:
            self._values = {}
            for text in self.texts:
                key, _, value = text.partition("=")
                self._values.setdefault(key, []).append(value)
        return self._values

    def _numbers(self, key: str, values: Iterable[str]) -> tuple[float, float] | None:
        """The least and the greatest of those that are numbers."""
        if key not in self._ends:
            numbers = [number for number in map(_number, values) if number is not None]
            self._ends[key] = (min(numbers), max(numbers)) if numbers else None
        return self._ends[key]


class Wants(Value, frozen=True):
    """What a job requires and prefers, taken apart: to be held against many offers."""

    as_it_is: tuple[str, ...]
    """Of what it requires, what is met by an offer of the very same text, and by no other."""
    others: tuple[Need | None, ...]
    """What else it requires."""
    prefers: tuple[tuple[Need | None, int], ...]

    @classmethod
    def of(cls, requires: Iterable[str], prefers: Preferences) -> Self:
        """Taken apart, at some microseconds a term."""
        as_it_is, others = [], []
        for text in requires:
            need = Need.of(text)
            if need is not None and need.sign == "=" and need.wanted and text == f"{need.key}={need.wanted}":
                as_it_is.append(text)
            else:
                others.append(need)
        return cls(tuple(as_it_is), tuple(others), tuple([(Need.of(text), weight) for text, weight in prefers]))

    def met_by(self, offered: Offered) -> bool:
        """Whether every requirement is."""
        for text in self.as_it_is:
            if (
                text not in offered.texts
            ):  # as nearly all, where jobs and factories are told apart by a value of their own
                return False
        return all(map(offered.meet, self.others)) if self.others else True

    def preference(self, offered: Offered) -> int:
        """How well it is met: the weights of the preferences that are, together at most `WEIGHT_MAX`."""
        if not self.prefers:
            return 0
        return min(WEIGHT_MAX, sum([weight for need, weight in self.prefers if offered.meet(need)]))


def _number(text: str) -> float | None:
    """None where it is none, and where it is one that compares with nothing."""
    try:
        number = float(text)
    except ValueError:
        return None
    return None if isnan(number) else number
