"""A stored JSON text that is read as a document's body, field by field as they are asked for.

A claim reads a document and changes a few of its fields: so the others are neither decoded nor encoded again.
"""

from collections.abc import Iterator, Mapping
from typing import Any, Final, TypeVar, cast

import msgspec
from msgspec import Raw

from datastore.decoding import from_json, from_value
from datastore.frozen import freeze
from datastore.interface import Body, JsonValue

Kind = TypeVar("Kind")

UNPARSED: Final = (TypeError, ValueError, RecursionError, msgspec.DecodeError)
"""What `parsed` raises for a text that is no JSON object."""

parsed: Final = msgspec.json.Decoder(dict[str, Raw]).decode
"""The fields of a stored text, each still text."""
_encode = msgspec.json.Encoder().encode


class JsonBody(Mapping[str, JsonValue]):
    """Equal to the mapping it is the text of. What it gives is frozen, and decoded anew each time."""

    __slots__ = ("_raw", "text")

    def __init__(self, text: str, fields: dict[str, Raw] | None = None) -> None:
        """`fields`: what `parsed` makes of the text; None: it is our own, and parsed when it is first asked for one."""
        self.text = text
        self._raw = fields

    def patched(self, fields: Mapping[str, Any], removed: tuple[str, ...]) -> dict[str, Any]:
        """What it holds with `fields` set (frozen ones) and `removed` gone, to be encoded: what stays is text."""
        whole: dict[str, Any] = {**self._top(), **fields}
        for name in removed:
            whole.pop(name, None)
        return whole

    def __getitem__(self, name: str) -> JsonValue:
        return cast(JsonValue, freeze(msgspec.json.decode(self._top()[name])))

    def __iter__(self) -> Iterator[str]:
        return iter(self._top())

    def __len__(self) -> int:
        return len(self._top())

    def __repr__(self) -> str:
        return f"JsonBody({self.text!r})"

    def _top(self) -> dict[str, Raw]:
        if self._raw is None:
            self._raw = parsed(self.text)
        return self._raw


def encode(body: Mapping[str, Any]) -> str:
    """The JSON text of a body.

    Raises:
      ValueError, OverflowError: an integer with more digits than Python writes.
    """
    return _encode(body).decode()


def spoken(body: Body) -> Mapping[str, Any]:
    """The fields of a body, to be written into another JSON text: of a stored one they stay text."""
    return body._top() if type(body) is JsonBody else body


def decoded(body: Body, kind: type[Kind]) -> Kind:
    """A body as a value of `kind`, a msgspec struct or another type that msgspec knows.

    Raises:
      msgspec.DecodeError: it is none.
    """
    return from_json(body.text, kind) if type(body) is JsonBody else from_value(body, kind)
