"""Finds a name that stands twice in one object of a JSON text: two readers could take two meanings from it."""

import json
from collections.abc import Iterable
from typing import Any


class _Twice(Exception):
    """A name stands twice."""


def stands_twice(raw: bytes | str, *, names: int, within: object = None) -> bool:
    """Whether a name is repeated in an object of `raw`, which is valid JSON.

    `names`: how many have been read, and `within`: what they were read into; its values may have names of their own.
    Where the text has no more, none can be repeated: this saves most requests the second look, which costs more than
    reading them did.
    """
    data = raw.encode() if isinstance(raw, str) else raw
    more = data.count(b":") - names
    if more == 0 or (more > 0 and within is not None and more == _names_in(vars(within).values())):
        return False
    try:
        _DECODER.decode(data.decode())
    except _Twice:
        return True
    return False


def _names_in(values: Iterable[Any]) -> int:
    """How many names the objects among `values` have, with those within them."""
    names = 0
    for value in values:
        if type(value) is dict:
            names += len(value) + _names_in(value.values())
        elif type(value) is list:
            names += _names_in(value)
    return names


def _once(pairs: list[tuple[str, Any]]) -> None:
    if len(pairs) != len({name for name, _ in pairs}):
        raise _Twice


_DECODER = json.JSONDecoder(object_pairs_hook=_once, parse_int=str, parse_float=str)
