"""The protocol as JSON Schema, generated from the messages, for clients in other languages."""

import ast
import inspect
import json
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

from broker.answers import RETRY, Reason, Retry, Word
from broker.messages import REQUESTS
from broker.wire_types import Body

_DIALECT = "https://json-schema.org/draft/2020-12/schema"


def request_schema() -> str:
    """The schema of every request, as published under `docs/protocol/`."""
    schema = REQUESTS.json_schema()
    told = {kind.__name__: dict(_told(kind)) for kind in _kinds(Body)}
    for name, kind in schema["$defs"].items():
        fields = kind.get("properties", {})
        if "op" in fields:  # a default is for us; on the wire nothing else says what is asked
            kind["required"].append("op")
        for field, about in told.get(name, {}).items():
            fields[field].setdefault("description", about)
        for about_names in (field for field in fields.values() if "patternProperties" in field):
            about_names["additionalProperties"] = False
    return _text({"$schema": _DIALECT, "title": "Request", **schema})


def _kinds(kind: type[Body]) -> Iterator[type[Body]]:
    yield kind
    for each in kind.__subclasses__():
        yield from _kinds(each)


def _told(kind: type[Body]) -> Iterator[tuple[str, str]]:
    """What the source says of the fields of a body, below each. Read here only: a start is not to wait for it."""
    for base in reversed(kind.__mro__):
        if not issubclass(base, Body):
            continue
        [source] = ast.parse(inspect.getsource(base)).body
        assert isinstance(source, ast.ClassDef), "that of a class"
        for field, below in pairwise(source.body):
            match field, below:
                case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str(about))):
                    yield name, " ".join(about.replace("None:", "null:").split())


def reply_schema() -> str:
    """The schema of every reply, with its closed vocabulary."""
    schema: dict[str, Any] = {
        "$schema": _DIALECT,
        "title": "Reply",
        "type": "object",
        "required": ["v", "request_id", "answer", "reason", "retry", "server_now_ms", "body"],
        "properties": {
            "v": {"const": 1},
            "request_id": {"type": "string"},
            "answer": {"enum": [word.value for word in Word]},
            "reason": {"enum": [None, *(reason.value for reason in Reason)]},
            "retry": {"enum": [retry.value for retry in Retry]},
            "retry_after_ms": {"type": "integer", "minimum": 0},
            "server_now_ms": {"type": "integer", "description": "Broker time, Unix milliseconds."},
            "body": {"type": "object"},
        },
        "x-retry-class": {word.value: RETRY.get(word, Retry.FINAL).value for word in Word},
    }
    return _text(schema)


def _text(schema: dict[str, Any]) -> str:
    return json.dumps(schema, indent=2, sort_keys=True) + "\n"
