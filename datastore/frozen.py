"""JSON values that can't be changed in place, so that stored state is shared instead of copied."""

from collections.abc import Mapping, Sequence
from math import isfinite
from typing import Any, Final, NoReturn, TypeAlias

import msgspec

from datastore.errors import Rejected
from datastore.interface import RESERVED_FIELDS, UNSET, Body, JsonValue, Patch, Unset, Update

FrozenPatch: TypeAlias = tuple[Mapping[str, Any], tuple[str, ...]]
"""Fields to set, their values frozen, and names to remove."""


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
_CONTAINERS: Final = frozenset({FrozenDict, FrozenList})
_FLAT: Final = _PASSED_THROUGH | {str}
_TEXT: Final = frozenset({str})

_encode: Final = msgspec.json.Encoder().encode


def freeze(value: Any) -> Any:
    """`value` as JSON that nobody can change; what is frozen already is returned as it is, not copied.

    Raises:
      Rejected: it is not JSON: a key that is no string, a number that is not finite, a lone
        surrogate, a type JSON does not have, or nesting beyond `DEPTH_MAX`.
    """
    return _freeze(value, 0, _text_is_valid(value))


def frozen_fields(fields: Mapping[str, str | int | None]) -> FrozenDict:
    """An object of flat fields, for a body or a patch in which its text is looked at: the next freeze passes it on."""
    return FrozenDict(fields)


def freeze_body(body: Body) -> FrozenDict:
    """The body of a new document.

    Raises:
      ValueError: it names a reserved field.
      Rejected: see `freeze`.
    """
    if not RESERVED_FIELDS.isdisjoint(body):
        raise _reserved(body)
    return _object(body, 0, _text_is_valid(body))


def freeze_patch(patch: Patch) -> FrozenPatch:
    """What `merge` needs of a patch. Done before any lock is taken.

    Raises:
      ValueError: the patch names a reserved field.
      Rejected: see `freeze`.
    """
    return _patch(patch, _text_is_valid(patch))


def freeze_patches(updates: Sequence[Update]) -> list[FrozenPatch]:
    """The same for the patches of several updates; their text is looked at together."""
    to_look_at = [update.patch for update in updates if not update.ready]
    valid = not to_look_at or _text_is_valid(to_look_at)
    return [(update.patch, ()) if update.ready else _patch(update.patch, valid) for update in updates]


def _patch(patch: Patch, valid: bool) -> FrozenPatch:
    if not RESERVED_FIELDS.isdisjoint(patch):
        raise _reserved(patch)
    kinds = set(map(type, patch.values()))
    if valid and _FLAT.issuperset(kinds) and _TEXT.issuperset(map(type, patch)):
        return patch, ()  # as nearly all are
    removed: tuple[str, ...] = ()
    if Unset in kinds:
        removed = tuple([key for key, value in patch.items() if value is UNSET])
        patch = {key: value for key, value in patch.items() if value is not UNSET}
    return _object(patch, 0, valid), removed


def merge(old: Body, fields: Mapping[str, Any], removed: tuple[str, ...]) -> FrozenDict:
    """The frozen body `old` with `fields` set and `removed` gone; both as `freeze_patch` gave them."""
    merged = FrozenDict({**old, **fields})
    for key in removed:
        dict.pop(merged, key, None)  # nobody else has it yet
    return merged


def _text_is_valid(value: object) -> bool:
    """Whether all text in `value` is known to be valid Unicode: one call of an encoder, not one for each text.

    False says nothing: the value may hold what the encoder does not know, and is looked at piece by piece.
    """
    try:
        _encode(value)
    except (ValueError, TypeError, OverflowError, RecursionError):
        return False
    return True


def _freeze(value: Any, depth: int, valid: bool) -> Any:
    kind = type(value)
    if kind is str:
        return value if valid else _unicode(value)
    if kind in _PASSED_THROUGH and (valid or kind not in _CONTAINERS):
        return value
    if kind is dict or kind is FrozenDict:
        return _object(value, depth, valid)
    if kind is list or kind is tuple or kind is FrozenList:
        return _items(value, depth, valid)
    return _freeze_rare(value, depth, valid)


def _object(source: Mapping[Any, object], depth: int, valid: bool) -> FrozenDict:
    if depth >= DEPTH_MAX:
        raise _too_deep()
    if not (valid and _TEXT.issuperset(map(type, source))):
        return FrozenDict({_key(key): _freeze(value, depth + 1, valid) for key, value in source.items()})
    frozen = FrozenDict(source)
    if not _FLAT.issuperset(map(type, source.values())):
        for key, value in source.items():
            if type(value) not in _FLAT:
                dict.__setitem__(frozen, key, _freeze(value, depth + 1, valid))
    return frozen


def _items(values: Sequence[object], depth: int, valid: bool) -> FrozenList:
    if depth >= DEPTH_MAX:
        raise _too_deep()
    return FrozenList([_freeze(item, depth + 1, valid) for item in values])


def _too_deep() -> Rejected:
    return Rejected(f"nested deeper than {DEPTH_MAX}: flatten the value or store it as text")


def _freeze_rare(value: object, depth: int, valid: bool) -> Any:
    if isinstance(value, str):
        return _unicode(str.__str__(value))  # a StrEnum becomes the plain text JSON would give back
    if isinstance(value, int):
        return int.__int__(value)
    if isinstance(value, float):
        if isfinite(value):
            return float.__float__(value)
        raise Rejected(f"{value!r} is not JSON: use null or a finite number")
    if isinstance(value, Mapping):
        return _object(value, depth, valid)
    if isinstance(value, Sequence) and not isinstance(value, bytes | bytearray | memoryview):
        return _items(value, depth, valid)
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
