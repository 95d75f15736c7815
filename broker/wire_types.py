"""The types of what travels: ids, names, spans and JSON, each with its limits."""

import json
import re
from collections.abc import Iterable
from math import isfinite
from typing import Annotated, Any, TypeVar

import msgspec
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, JsonValue, StringConstraints
from pydantic_core import ErrorDetails

from broker.matching import WEIGHT_MAX

PAYLOAD_BYTES_MAX = 65_536
RESULT_BYTES_MAX = 16_384
"""A result or an error, UTF-8 (design §3)."""
PROGRESS_BYTES_MAX = 4_096
NESTING_MAX = 64
"""Levels of a payload or a result. Cosmos DB takes 128 for the whole document."""
WAIT_MS_MAX = 60_000
PAGE_MAX = 500


_Terms = TypeVar("_Terms", bound=Iterable[str])
_encode = msgspec.json.Encoder().encode


def _check(value: JsonValue, levels: int) -> None:
    """Raise where a number in `value` is not finite, or it has more than `levels` levels."""
    kind = type(value)
    if kind is float and not isfinite(value):  # type: ignore[arg-type]  # which is a float
        raise ValueError("a number that is not finite")
    if kind is not dict and kind is not list:
        return
    if levels == 0:
        raise ValueError(f"nested more than {NESTING_MAX} levels deep")
    for item in value.values() if isinstance(value, dict) else value:  # type: ignore[union-attr]  # else a list
        _check(item, levels - 1)


def _size(value: JsonValue) -> int:
    """Bytes of its JSON text, UTF-8."""
    try:
        return len(_encode(value))
    except (OverflowError, ValueError):  # an integer of more than 64 bits, or a lone surrogate
        return len(json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode())


class JsonAtMost:
    """Validates that a JSON value is at most `bytes_max` bytes of UTF-8, finite, and not nested too deep."""

    def __init__(self, bytes_max: int) -> None:
        self._bytes_max = bytes_max

    def __call__(self, value: JsonValue) -> JsonValue:
        _check(value, NESTING_MAX)
        size = _size(value)
        if size > self._bytes_max:
            raise ValueError(f"{size} bytes of JSON; at most {self._bytes_max} are taken")
        return value


def in_words(bytes_max: int) -> Any:
    """The same limit for the schema, which has none for bytes."""
    about = f"At most {bytes_max:,} bytes of JSON (UTF-8), {NESTING_MAX} levels deep, its numbers finite."
    return Field(description=about)


Payload = Annotated[JsonValue, AfterValidator(JsonAtMost(PAYLOAD_BYTES_MAX)), in_words(PAYLOAD_BYTES_MAX)]
Result = Annotated[JsonValue, AfterValidator(JsonAtMost(RESULT_BYTES_MAX)), in_words(RESULT_BYTES_MAX)]

_ID = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$"
_QUEUE = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$"
_KEY = r"^[A-Za-z0-9][A-Za-z0-9._/-]{0,127}$"
_REQUEST = r"^[A-Za-z0-9_-]{1,64}$"
_PRINTABLE = r"^[!-~]{1,128}$"
_OFFER = r"^[^\s=<>!]{1,64}(=[^\x00-\x1f]{0,128})?$"
_NEED = r"^[^\s=<>!]{1,64}((=|>=|<=|>|<)[^\x00-\x1f]{0,128})?$"
_LIMIT = r"^(queue|key|factory):[A-Za-z0-9][A-Za-z0-9._/-]{0,127}$"
IN_WORDS = {
    _ID: "1 to 128 letters, digits, `.`, `_` or `-`, the first a letter or digit",
    _QUEUE: "1 to 64 letters, digits, `.`, `_` or `-`, the first a letter or digit",
    _KEY: "1 to 128 letters, digits, `/`, `.`, `_` or `-`, the first a letter or digit",
    _REQUEST: "1 to 64 letters, digits, `_` or `-`",
    _PRINTABLE: "1 to 128 printable characters without spaces, as it stands in the grant",
    _OFFER: "write key or key=value: a key of at most 64 characters, none of them a space or one of `=<>!`",
    _NEED: "write key, key=value or key>=number: a key of at most 64 characters, none of them a space or one of `=<>!`",
    _LIMIT: "write queue:NAME, key:NAME or factory:NAME, of letters, digits, `/`, `.`, `_` or `-`",
}
"""What a person is told who has written a name that does not match the pattern."""


def in_plain_words(problem: ErrorDetails) -> str:
    """What pydantic says of a problem, without its own terms. It has been asked for the context."""
    if problem["type"] == "union_tag_not_found":
        return "no `op`, which says what is asked for"
    pattern = problem.get("ctx", {}).get("pattern", "")
    return IN_WORDS.get(pattern) or problem["msg"].removeprefix("Value error, ")


JobId = Annotated[str, StringConstraints(pattern=_ID)]
"""Letters, digits, `.`, `_`, `-`. No `:`, which stands in the ids of specs and runs."""
FactoryId = Annotated[str, StringConstraints(pattern=_ID)]
QueueName = Annotated[str, StringConstraints(pattern=_QUEUE)]
RequestId = Annotated[str, StringConstraints(pattern=_REQUEST)]
"""What rq allows in the id of an rq job."""
Token = Annotated[str, StringConstraints(pattern=_PRINTABLE)]
"""Any printable text: a forged token is to be told `lease_lost`, whatever it looks like."""
Offer = Annotated[str, StringConstraints(pattern=_OFFER)]
"""What a factory has: `key` or `key=value`."""
Need = Annotated[str, StringConstraints(pattern=_NEED)]
"""What a job needs: `key`, `key=value`, or a comparison of numbers such as `mem_gb>=16`."""
TERMS_BYTES_MAX = 4_096
"""The terms of one job, or of one factory, together: each different set of them is looked at by every claim."""
_TOGETHER = f"Together at most {TERMS_BYTES_MAX:,} bytes (UTF-8)."


def _terms(terms: _Terms) -> _Terms:
    """Raise where there is too much of them together."""
    size = sum(len(term.encode()) for term in terms)
    if size > TERMS_BYTES_MAX:
        raise ValueError(f"{size} bytes of terms; at most {TERMS_BYTES_MAX} are taken")
    return terms


# `fail_fast`, here and elsewhere: what is said of an item costs far more than to read it, and a message has room for
# forty thousand.
Offers = Annotated[
    tuple[Offer, ...], Field(max_length=64, fail_fast=True, description=_TOGETHER), AfterValidator(_terms)
]
Needs = Annotated[tuple[Need, ...], Field(max_length=64, fail_fast=True, description=_TOGETHER), AfterValidator(_terms)]
Weight = Annotated[int, Field(ge=1, le=WEIGHT_MAX)]
"""Of a preference."""
Preferences = Annotated[dict[Need, Weight], Field(max_length=16, description=_TOGETHER), AfterValidator(_terms)]
FairnessKey = Annotated[str, StringConstraints(min_length=1, max_length=128, pattern=r"^[^\x00-\x1f]+$")]
LockKey = Annotated[str, StringConstraints(min_length=1, max_length=256, pattern=r"^[^\x00-\x1f]+$")]
ConcurrencyKey = Annotated[str, StringConstraints(pattern=_KEY)]
"""What jobs share whose number at once an operator may limit: `gpu`."""
LimitName = Annotated[str, StringConstraints(pattern=_LIMIT)]
"""`queue:builds`, `key:gpu`, `factory:mac-1`."""
LabelName = Annotated[str, StringConstraints(min_length=1, max_length=64)]
LabelText = Annotated[str, StringConstraints(max_length=256)]
TtlMs = Annotated[int, Field(ge=1_000, le=86_400_000)]
Span = Annotated[int, Field(gt=0, le=31_536_000_000)]
"""Milliseconds, up to a year."""
Millis = Annotated[int, Field(ge=0, le=4_102_444_800_000)]
"""Unix milliseconds, up to the year 2100."""


def is_job_id(text: str) -> bool:
    """Whether a job may have this id. A hint may name what none has, and a store what it is then asked for refuses."""
    return _is_job_id(text) is not None


_is_job_id = re.compile(_ID).fullmatch


class Body(BaseModel):
    """What an operation takes. Unknown fields are refused: a misspelt option must not be ignored."""

    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True)  # built as a part of its request

    def names(self) -> int:
        """How many names its text has: its own, and those of the bodies within it."""
        return len(self.__pydantic_fields_set__)

    @classmethod
    def tied(cls) -> frozenset[str]:
        """The fields that a rule for several at once looks at where they are given. All, unless a body knows better."""
        return frozenset(cls.model_fields) if cls.__pydantic_decorators__.model_validators else frozenset()
