"""Which factory may run which job: what a job requires against what a factory offers."""

import operator
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import lru_cache
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

KEPT_MAX = 8_192
"""Answers kept. Anybody may send terms of 4 KB that nobody has sent before, which take twice that here."""


def canonical(terms: Iterable[str]) -> tuple[str, ...]:
    """Requirements or offers as a set in one order, so that equal sets are equal values."""
    return tuple(sorted(set(terms)))


def meets(offers: tuple[str, ...], requires: tuple[str, ...]) -> bool:
    """Whether `offers` (`key=value`, `key`) satisfy every one of `requires`.

    `key` asks for the key with any value; `key=value` for that value among the offered ones;
    `key>=number` (`<=`, `>`, `<`) for a number that compares so. Without requirements everybody may.
    """
    if not requires:
        return True
    for need in literal(requires):
        if need not in offers:  # as nearly all, where jobs and factories are told apart by a value of their own
            return False
    return _meets(offers, requires)


@lru_cache(maxsize=KEPT_MAX)
def _meets(offers: tuple[str, ...], requires: tuple[str, ...]) -> bool:
    return not unmet(offers, requires)


@lru_cache(maxsize=KEPT_MAX)
def literal(requires: tuple[str, ...]) -> tuple[str, ...]:
    """Of these, those that are met by an offer of the very same text, and by no other."""
    parts = ((need, _NEED.match(need)) for need in requires)
    return tuple(
        need
        for need, part in parts
        if part is not None and part["sign"] == "=" and part["value"] and need == f"{part['key']}={part['value']}"
    )


@lru_cache(maxsize=KEPT_MAX)
def preference(offers: tuple[str, ...], prefers: Preferences) -> int:
    """How well `offers` meet what a job prefers: the weights of the terms they meet, together at most `WEIGHT_MAX`."""
    return min(WEIGHT_MAX, sum(weight for term, weight in prefers if meets(offers, (term,))))


def unmet(offers: tuple[str, ...], requires: tuple[str, ...]) -> tuple[str, ...]:
    """Of `requires`, those that `offers` do not satisfy."""
    if not requires:
        return ()
    offered = Offered.of(offers)
    return tuple([text for text, need in zip(requires, needs(requires), strict=True) if not offered.meet(need)])


class Need(Value, frozen=True):
    """One requirement, taken apart."""

    key: str
    sign: str | None
    """None: any value will do."""
    wanted: str
    bound: float | None
    """What is wanted, as a number; None where it is none."""


def needs(requires: Iterable[str]) -> tuple[Need | None, ...]:
    """Each taken apart; None where it is no requirement, which nobody meets."""
    return tuple([_need(text) for text in requires])


def _need(text: str) -> Need | None:
    parts = _NEED.match(text)
    if parts is None:
        return None
    sign, wanted = parts["sign"], parts["value"] or ""
    return Need(parts["key"], sign, wanted, _number(wanted) if sign in _COMPARE else None)


class Offered(Value, frozen=True):
    """What is offered, by its keys: as it is written, and of what is a number, the least and the greatest."""

    values: Mapping[str, Sequence[str]]
    numbers: Mapping[str, tuple[float, float]]

    @classmethod
    def of(cls, offers: Iterable[str]) -> Self:
        """`key` offers the key with an empty value."""
        values: dict[str, list[str]] = {}
        for offer in offers:
            key, _, value = offer.partition("=")
            values.setdefault(key, []).append(value)
        numbers = {key: [each for each in map(_number, texts) if each is not None] for key, texts in values.items()}
        return cls(values, {key: (min(each), max(each)) for key, each in numbers.items() if each})

    def meet(self, need: Need | None) -> bool:
        """Whether one of these is what is needed."""
        if need is None or (values := self.values.get(need.key)) is None:
            return False
        if need.sign is None:
            return True
        if need.sign == "=":
            return need.wanted in values
        if need.bound is None or (ends := self.numbers.get(need.key)) is None:
            return False
        return _COMPARE[need.sign](ends[need.sign in _AT_LEAST], need.bound)


def _number(text: str) -> float | None:
    """None where it is none, and where it is one that compares with nothing."""
    try:
        number = float(text)
    except ValueError:
        return None
    return None if isnan(number) else number
