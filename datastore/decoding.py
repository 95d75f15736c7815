"""Reads values of msgspec's structs, whichever threads ask for the first one of a kind.

msgspec finds out what a struct is made of when one is first asked for, and shows meanwhile what it has found so far:
of two threads that decode the first of a kind together, one follows a null pointer, and the process ends by SIGSEGV
(0.22.0; tests/concurrency/test_decoding.py). So what a kind is made of is found out by one thread at a time.
"""

from collections.abc import Callable, Hashable
from functools import lru_cache
from threading import Lock
from typing import Any, Final, TypeVar, cast

import msgspec

Kind = TypeVar("Kind")

UNREADABLE: Final = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)
"""What msgspec raises for a text that none of ours has written: no JSON, no UTF-8, of another form, nested too deep."""

_one_at_a_time: Final = Lock()


def from_json(text: bytes | str | msgspec.Raw, kind: type[Kind]) -> Kind:
    """The value of `kind`, a struct or another type that msgspec knows, in a JSON text.

    Raises:
      msgspec.MsgspecError, UnicodeDecodeError, RecursionError: there is none (UNREADABLE).
    """
    return cast(Kind, _decode(cast(Hashable, kind))(text))


def from_value(value: object, kind: type[Kind]) -> Kind:
    """The value of `kind` that plain dicts, lists and numbers stand for.

    Raises:
      msgspec.ValidationError: they stand for none.
    """
    _decode(cast(Hashable, kind))
    return msgspec.convert(value, kind)


@lru_cache(maxsize=256)
def _decode(kind: Hashable) -> Callable[[bytes | str | msgspec.Raw], Any]:
    with _one_at_a_time:
        return msgspec.json.Decoder(cast(type[Any], kind)).decode
