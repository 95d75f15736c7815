"""Which factory may run which job: what a job requires against what a factory offers."""

import operator
import re
from collections.abc import Callable, Iterable, Mapping
from functools import lru_cache
from typing import TypeAlias

_NEED = re.compile(r"^(?P<key>[^\s=<>!]+)(?:(?P<sign>>=|<=|=|>|<)(?P<value>.*))?$")
_COMPARE: Mapping[str, Callable[[float, float], bool]] = {
    ">=": operator.ge,
    "<=": operator.le,
    ">": operator.gt,
    "<": operator.lt,
}

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
    offered: dict[str, list[str]] = {}
    for offer in offers:
        key, _, value = offer.partition("=")
        offered.setdefault(key, []).append(value)
    return tuple(need for need in requires if not _met(need, offered))


def _met(need: str, offered: Mapping[str, list[str]]) -> bool:
    parts = _NEED.match(need)
    if parts is None or (values := offered.get(parts["key"])) is None:
        return False
    sign, wanted = parts["sign"], parts["value"]
    if sign is None:
        return True
    if sign == "=":
        return wanted in values
    bound = _number(wanted)
    numbers = [number for number in map(_number, values) if number is not None]
    return bound is not None and any(_COMPARE[sign](number, bound) for number in numbers)


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None
