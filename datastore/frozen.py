"""JSON values that can't be changed in place, so that stored state is shared instead of copied."""

from collections.abc import Mapping, Sequence
from math import isfinite
from typing import Any, Final, NoReturn

from datastore.errors import Rejected
from datastore.interface import RESERVED_FIELDS, UNSET, Body, JsonValue, Patch


def _refuse(*_args: object, **_kwargs: object) -> NoReturn:
    raise TypeError("a stored document is read-only: send a patch with update_if_match")


class FrozenDict(dict[str, Any]):
    """Equal to, and encoded like, the plain dict; every mutator raises TypeError. Made by `freeze` only."""

    __slots__ = ()

    __setitem__ = __delitem__ = __ior__ = _refuse
    clear = pop = popitem = setdefault = update = _refuse

    def __copy__(self) -> "FrozenDict":
        return self

    def __deepcopy__(self, memo: dict[int, object]) -> "FrozenDict":
        return self

    def __reduce__(self) -> tuple[type["FrozenDict"], tuple[dict[str, Any]]]:
        return FrozenDict, (dict(self),)


class FrozenList(list[Any]):
    """Equal to, and encoded like, the plain list; every mutator raises TypeError. Made by `freeze` only."""

    __slots__ = ()

    __setitem__ = __delitem__ = __iadd__ = __imul__ = _refuse
    append = clear = extend = insert = pop = remove = reverse = sort = _refuse

    def __copy__(self) -> "FrozenList":
        return self

    def __deepcopy__(self, memo: dict[int, object]) -> "FrozenList":
        return self

    def __reduce__(self) -> tuple[type["FrozenList"], tuple[list[Any]]]:
        return FrozenList, (list(self),)


DEPTH_MAX: Final = 100
"""Nesting of a value. Deeper ones are refused: SQLite's JSON stops at 1,000 and Cosmos at 128."""

_PASSED_THROUGH: Final = frozenset({int, bool, type(None), FrozenDict, FrozenList})
_FLAT: Final = _PASSED_THROUGH | {str}
_TEXT: Final = frozenset({str})


def freeze(value: Any, depth: int = 0) -> Any:
    """`value` as JSON that nobody can change; what is frozen already is returned as it is, not copied.

    Raises:
      Rejected: it is not JSON: a key that is no string, a number that is not finite, a lone
        surrogate, a type JSON does not have, or nesting beyond `DEPTH_MAX`.
    """
    kind = type(value)
    if kind is str:
        return value if value.isascii() else _unicode(value)
    if kind in _PASSED_THROUGH:
        return value
    if kind is dict:
        return FrozenDict(_fields(value, depth))
    if kind is list or kind is tuple:
        return _items(value, depth)
    return _freeze_rare(value, depth)


def freeze_body(body: Body) -> FrozenDict:
    """The body of a new document.

    Raises:
      ValueError: it names a reserved field.
      Rejected: see `freeze`.
    """
    if not RESERVED_FIELDS.isdisjoint(body):
        raise _reserved(body)
    return FrozenDict(_fields(body, 0))


def freeze_patch(patch: Patch) -> tuple[dict[str, Any], tuple[str, ...]]:
    """What `merge` needs of a patch: (fields to set, frozen; names to remove). Done before any lock is taken.

    Raises:
      ValueError: the patch names a reserved field.
      Rejected: see `freeze`.
    """
    if not RESERVED_FIELDS.isdisjoint(patch):
        raise _reserved(patch)
    removed = tuple([key for key, value in patch.items() if value is UNSET])
    if removed:
        patch = {key: value for key, value in patch.items() if value is not UNSET}
    return _fields(patch, 0), removed


def merge(old: Body, fields: dict[str, Any], removed: tuple[str, ...]) -> FrozenDict:
    """The frozen body `old` with `fields` set and `removed` gone; both as `freeze_patch` gave them."""
    merged = {**old, **fields}
    for key in removed:
        merged.pop(key, None)
    return FrozenDict(merged)


def _fields(source: Mapping[Any, object], depth: int) -> dict[str, Any]:
    if depth >= DEPTH_MAX:
        raise _too_deep()
    if _FLAT.issuperset(map(type, source.values())) and _is_ascii(source):
        return dict(source)  # as most patches are: four calls for the whole, not several for each field
    fields: dict[str, Any] = {}
    value: Any
    for key, value in source.items():
        kind = type(value)
        if type(key) is not str or not key.isascii():
            key = _key(key)
        if (kind is str and value.isascii()) or kind in _PASSED_THROUGH:
            fields[key] = value
        else:
            fields[key] = freeze(value, depth + 1)
    return fields


def _is_ascii(source: Mapping[Any, object]) -> bool:
    """Whether every key is a plain string and all text is ASCII, which is valid Unicode."""
    if not _TEXT.issuperset(map(type, source)):
        return False
    return "".join(source).isascii() and "".join([text for text in source.values() if type(text) is str]).isascii()


def _items(values: Sequence[object], depth: int) -> FrozenList:
    if depth >= DEPTH_MAX:
        raise _too_deep()
    return FrozenList([freeze(item, depth + 1) for item in values])


def _too_deep() -> Rejected:
    return Rejected(f"nested deeper than {DEPTH_MAX}: flatten the value or store it as text")


def _freeze_rare(value: object, depth: int) -> Any:
    if isinstance(value, str):
        return _unicode(str.__str__(value))  # a StrEnum becomes the plain text JSON would give back
    if isinstance(value, int):
        return int.__int__(value)
    if isinstance(value, float):
        if isfinite(value):
            return float.__float__(value)
        raise Rejected(f"{value!r} is not JSON: use null or a finite number")
    if isinstance(value, Mapping):
        return FrozenDict(_fields(value, depth))
    if isinstance(value, Sequence) and not isinstance(value, bytes | bytearray | memoryview):
        return _items(value, depth)
    raise Rejected(f"{type(value).__name__} is not JSON: use objects, arrays, strings, numbers, booleans and null")


def _key(key: object) -> str:
    if not isinstance(key, str):
        raise Rejected(f"the key {key!r} is not a string: JSON has no other keys")
    return _unicode(str.__str__(key))


def _unicode(text: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise Rejected(f"lone surrogate at position {error.start}: the text is not valid Unicode") from error
    return text


def _reserved(fields: Mapping[str, JsonValue] | Patch) -> ValueError:
    names = ", ".join(sorted(RESERVED_FIELDS.intersection(fields)))
    return ValueError(f"{names}: the store's own, leave it out of the body or the patch")
