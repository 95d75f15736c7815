"""Turns the text of a request into a message, or into a refusal that shows no value of it."""

import re
from typing import Any

import pydantic_core
from pydantic import BaseModel, ValidationError

from broker.answers import Answer, Reason, Word
from broker.json_names import stands_twice
from broker.messages import ENVELOPE_BYTES_MAX, REQUESTS, Request
from broker.signing import UNSEALED, Seal
from broker.wire_types import FactoryId, RequestId

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
        request = REQUESTS.validate_json(raw)
    except ValidationError as error:
        raise Malformed(_why(error), sender=sender_of(raw)) from error
    body = request.body
    names = len(request.model_fields_set) + body.names()
    if stands_twice(raw, names=names, of=body.__dict__.values()):
        raise Malformed("a name stands twice in one object", sender=sender_of(raw))
    return request


def _why(error: ValidationError) -> str:
    """The first few problems, without the values."""
    problems = error.errors(include_url=False, include_context=False, include_input=False)
    whys = (f"{'.'.join(map(str, item['loc'])) or 'envelope'}: {item['msg']}" for item in problems[:5])
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
