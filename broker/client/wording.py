"""Turns a request's arguments into its text. Validated once, for the body; what surrounds it was validated before."""

from collections.abc import Iterable, Mapping, Set
from functools import lru_cache
from typing import Any

import msgspec
from pydantic import TypeAdapter, ValidationError

from broker.client.errors import InvalidRequest
from broker.client.plain import Plain
from broker.messages import BODY_BYTES_MAX, Envelope
from broker.wire_types import Body, RequestId, in_plain_words

_encode = msgspec.json.Encoder().encode
_REQUEST_ID = TypeAdapter(RequestId)


class Form:
    """How one kind of request is written down."""

    def __init__(self, kind: type[Envelope]) -> None:
        body: Any = kind.model_fields["body"].annotation
        self._plain = Plain(body)
        self._check = body.__pydantic_validator__.validate_python
        self._write = body.__pydantic_serializer__.to_json
        self.op: str = kind.model_fields["op"].default
        self.queue = kind.queue_name

    def body(self, given: Mapping[str, Any]) -> str:
        """The body as JSON, without what stands for its default.

        Raises:
          InvalidRequest: a field outside its limits, or all of them together; the message shows no value of it.
        """
        told = self._plain.told(given)
        if told is not None:
            return _encode(told).decode()
        try:
            checked = self._check(given)
        except ValidationError as error:
            raise InvalidRequest(problems(error)) from None  # the error itself shows values, maybe a token
        text: bytes = self._write(checked, exclude_defaults=True)
        if len(text) > BODY_BYTES_MAX:  # each field is within its limits; no worker would read, or answer it
            raise InvalidRequest(f"{len(text)} bytes of JSON in all; at most {BODY_BYTES_MAX} are taken")
        return text.decode()


@lru_cache(maxsize=128)
def form(kind: type[Envelope]) -> Form:
    """The form for this kind of request."""
    return Form(kind)


def body_fields(body: Body) -> dict[str, Any]:
    """The fields of a body that was validated before, as they are given to a request."""
    return {name: getattr(body, name) for name in body.model_fields_set}


def only(fields: Set[str], given: Mapping[str, Any]) -> Mapping[str, Any]:
    """What `given` says of these fields: itself where it says no more."""
    if type(given) is dict and given.keys() <= fields:
        return given
    return {name: given[name] for name in fields if name in given}


def listed(name: str, given: Iterable[str]) -> tuple[str, ...]:
    """A list of texts as it is sent. One text is none, though Python would take it for the list of its letters.

    Raises:
      InvalidRequest: it is one text, or no list at all.
    """
    if isinstance(given, str):
        raise InvalidRequest(f"{name}: a list of texts is expected, not one: write [{given!r}]")
    try:
        return tuple(given)
    except TypeError:
        raise InvalidRequest(f"{name}: a list of texts is expected") from None


def check_request_id(request_id: str) -> None:
    """Raise InvalidRequest where a caller's own request id is outside its limits."""
    try:
        _REQUEST_ID.validate_python(request_id, strict=True)
    except ValidationError as error:
        raise InvalidRequest(f"request_id: {problems(error)}") from None


def problems(error: ValidationError) -> str:
    """What is wrong, without the values."""
    found = error.errors(include_url=False, include_input=False)
    return "; ".join(
        ": ".join(filter(None, [".".join(map(str, item["loc"])), in_plain_words(item)])) for item in found[:5]
    )
