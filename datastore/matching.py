"""What a filter means, once for the stores that evaluate it in Python, so that they can't drift apart."""

import re
from collections.abc import Callable, Mapping
from typing import Final, TypeGuard

from datastore.interface import RESERVED_FIELDS, AnyOf, AtLeast, AtMost, Condition, Document, Filter

FIELD: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_-]*(\.[A-Za-z_][A-Za-z0-9_-]*)*")
"""A field or a dotted path of fields. Strict, because a provider has to write it into its query text."""

LIMIT_MAX: Final = 10_000
"""Documents in one page."""
LOOKS_MAX: Final = 1_000
"""Documents that a search in this process looks at for one page: 2 ms, and 0.1 s of the fattest jobs there can be."""


def check_query(filter: Filter, limit: int) -> None:
    """Refuse what no provider can answer alike.

    Raises:
      ValueError: a field that is no dotted path or belongs to the store, an unknown condition, or a
        limit outside 1 to `LIMIT_MAX`.
    """
    if not 1 <= limit <= LIMIT_MAX:
        raise ValueError(f"limit={limit}: use 1 to {LIMIT_MAX} and follow the cursor")
    for field, condition in filter.items():
        if field == "partition_key":
            if not isinstance(condition, str):
                raise ValueError("partition_key: a filter restricts it to one string")
        elif field in RESERVED_FIELDS or FIELD.fullmatch(field) is None:
            raise ValueError(f"{field!r} can't be filtered by: use a field of the body, or a dotted path to one")
        if not isinstance(condition, str | int | AtMost | AtLeast | AnyOf):
            raise ValueError(f"{field}: {condition!r} is no condition: use a value, AtMost, AtLeast or AnyOf")


def matcher(filter: Filter) -> Callable[[Document], bool]:
    """Whether all conditions hold, for any document. Numbers compare as numbers, `true` is not 1, a missing field never
    matches.
    """
    partition_key = filter.get("partition_key")
    conditions = [
        (*_steps(field), _holding(condition)) for field, condition in filter.items() if field != "partition_key"
    ]

    def met(document: Document) -> bool:
        if partition_key is not None and document.partition_key != partition_key:
            return False
        for first, further, holds in conditions:
            value: object = document.body.get(first)
            for step in further:
                if not isinstance(value, Mapping):
                    return False
                value = value.get(step)
            if not holds(value):
                return False
        return True

    return met


def _steps(field: str) -> tuple[str, list[str]]:
    first, *further = field.split(".")
    return first, further


def _holding(condition: Condition) -> Callable[[object], bool]:
    match condition:
        case AtMost(limit):
            return lambda value: _is_number(value) and value <= limit
        case AtLeast(limit):
            return lambda value: _is_number(value) and value >= limit
        case AnyOf(values) if all(isinstance(value, str) for value in values):
            texts = frozenset(values)  # of a batch's requests, looked for among all leases
            return lambda value: isinstance(value, str) and value in texts
        case AnyOf(values):
            return lambda value: any(_equal(value, wanted) for wanted in values)
        case str():
            return lambda value: value == condition  # no number and no boolean equals a text
        case _:
            return lambda value: _equal(value, condition)


def _is_number(value: object) -> TypeGuard[int | float]:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _equal(value: object, wanted: str | int | bool) -> bool:
    return isinstance(value, bool) == isinstance(wanted, bool) and value == wanted
