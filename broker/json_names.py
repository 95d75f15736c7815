"""Finds a name that stands twice in one object of a JSON text: two readers could take two meanings from it."""

import json
from typing import Any


class _Twice(Exception):
    """A name stands twice."""


def stands_twice(raw: bytes | str, *, names: int) -> bool:
    """Whether a name is repeated in an object of `raw`, which is valid JSON.

    `names`: how many have been read. Where there are no more than that, none can be repeated: this saves most requests
    the second look, which costs about as much as reading them did.
    """
    data = raw.encode() if isinstance(raw, str) else raw
    if data.count(b":") == names:
        return False
    try:
        _DECODER.decode(data.decode())
    except _Twice:
        return True
    return False


def _once(pairs: list[tuple[str, Any]]) -> None:
    if len(pairs) != len({name for name, _ in pairs}):
        raise _Twice


_DECODER = json.JSONDecoder(object_pairs_hook=_once, parse_int=str, parse_float=str)
