"""The protocol as JSON Schema, generated from the messages, for clients in other languages."""

import json
from typing import Any

from broker.answers import RETRY, Reason, Retry, Word
from broker.messages import REQUESTS


def request_schema() -> str:
    """The schema of every request, as published under `docs/protocol/`."""
    return _text({"title": "Request", **REQUESTS.json_schema()})


def reply_schema() -> str:
    """The schema of every reply, with its closed vocabulary."""
    schema: dict[str, Any] = {
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
