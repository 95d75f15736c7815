"""Turns the text of a request into a message, or into a refusal that shows no value of it."""

import re
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import pydantic_core
from pydantic import BaseModel, ValidationError

from broker.answers import Answer, Reason, Word
from broker.json_names import stands_twice
from broker.messages import ENVELOPE_BYTES_MAX, KINDS, REQUESTS, Request
from broker.signing import UNSEALED, Seal
from broker.wire_types import FactoryId, RequestId, in_plain_words

DETAIL_CHARS_MAX = 1_024
"""What is said about a request: it may name fields that the sender has made up."""


class Malformed(Exception):
    """A request that can't be understood. `sender` holds what of its address could still be read, for a typed reply."""

    seal: Seal = UNSEALED
    """How to write back: the sender of a signed request is answered under its key."""

    def __init__(self, message: str, *, sender: dict[str, Any]) -> None:
        super().__init__(message)
        self.sender = sender

    @property
    def answer(self) -> Answer:
        """What its sender is told."""
        return Answer(Word.INVALID, Reason.MALFORMED, {"detail": str(self)})


def parse(raw: bytes | str) -> Request:
    """The request in a JSON text.

    Raises:
      Malformed: too long, not JSON, a name twice, an unknown operation, a field outside its limits. Nothing was done.
    """
    if len(raw) > ENVELOPE_BYTES_MAX:
        raise Malformed(f"an envelope of {len(raw)} bytes; at most {ENVELOPE_BYTES_MAX} are taken", sender={})
    try:
        request = _read(raw)
    except ValidationError as error:
        raise Malformed(_why(error), sender=sender_of(raw)) from error
    body = request.body
    if stands_twice(raw, names=len(request.__pydantic_fields_set__) + body.names(), within=body):
        raise Malformed("a name stands twice in one object", sender=sender_of(raw))
    return request


_OP = re.compile(rb'"op":\s?"([a-z_]+)"')


def _read(raw: bytes | str) -> Request:
    """The request, by the type of its own kind where its text shows that plainly: no other has to be built for it.

    What that type does not take is left to all of them together, for the sake of what is said of it. Strict: a number
    is a number, as the published schema says, and neither `true` nor `"1"`.
    """
    shown = _OP.search(raw if isinstance(raw, bytes) else raw.encode(errors="surrogatepass"))
    if shown is not None and (read := _reader(shown[1])) is not None:
        try:
            request = read(raw, strict=True)
        except ValidationError:
            return REQUESTS.validate_json(raw, strict=True)
        if "op" in request.__pydantic_fields_set__:  # else its text showed the name of something in its body
            return request
    return REQUESTS.validate_json(raw, strict=True)


@lru_cache(maxsize=len(KINDS))
def _reader(op: bytes) -> Callable[..., Request] | None:
    """What reads the requests of an operation, as `model_validate_json`; it is built as the first of them comes."""
    kind = KINDS.get(op)
    return None if kind is None else kind.__pydantic_validator__.validate_json


def _why(error: ValidationError) -> str:
    """The first few problems, without the values."""
    problems = error.errors(include_url=False, include_input=False)
    whys = (f"{'.'.join(map(str, item['loc'])) or 'envelope'}: {in_plain_words(item)}" for item in problems[:5])
    return without_tokens("; ".join(whys))[:DETAIL_CHARS_MAX]


_TOKEN_LIKE = re.compile(r'("token\\*"\s*:\s*\\*")[^"\\]*(?:\\+[^"\\]+)*|(?:(?:u00[0-9A-Fa-f]{2}|[0-9A-Fa-f])\\*){32,}')
"""A value under the name of a token, and what is as long as one: digits, or their escapes in JSON within JSON. Neither
begins with what may repeat, else a long run of it would be looked at once for each of its characters."""


def without_tokens(text: str) -> str:
    """`text` without what could be a token, wherever a sender has put it. To be used before any cut.

    Without NULs either: they stand between the letters of UTF-16. Takes time in proportion to the length.
    """
    return _TOKEN_LIKE.sub(lambda found: f"{found[1] or ''}…", text.replace("\0", ""))


class _Sender(BaseModel):
    """The address of a reply, where at least that much is well formed."""

    request_id: RequestId
    factory_id: FactoryId
    instance: FactoryId


def sender_of(raw: bytes | str) -> dict[str, Any]:
    """The address in a request, where it can be read; else nothing."""
    try:
        return _Sender.model_validate(pydantic_core.from_json(raw)).model_dump()
    except ValueError:
        return {}
