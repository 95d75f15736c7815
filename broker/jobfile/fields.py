"""What the keys of a job file mean: from the words people write to the body of a submission, as it travels."""

from collections.abc import Callable, Mapping
from typing import Any

from pydantic import JsonValue, ValidationError

from broker.jobfile.values import (
    duration_ms,
    engine,
    moment_ms,
    name_list,
    plain_text,
    preferences,
    requirements,
    shown,
    text_map,
    unique,
    whole_number,
)
from broker.messages import SubmitBody

_RULES: Mapping[str, str] = {
    "job_id": "an id has 1 to 128 letters, digits, `.`, `_` or `-`, and begins with a letter or digit",
    "depends_on": "an id has 1 to 128 letters, digits, `.`, `_` or `-`, and begins with a letter or digit",
    "queue": "a queue's name has 1 to 64 letters, digits, `.`, `_` or `-`, and begins with a letter or digit",
    "locks": "a lock's name has 1 to 256 characters and no control characters",
    "unique": "a key has 1 to 256 characters and no control characters",
    "supersedes": "a key has 1 to 256 characters and no control characters",
    "concurrency": "a key has 1 to 128 letters, digits, `.`, `_`, `/` or `-`, and begins with a letter or digit",
    "requires": "a requirement's key has at most 64 characters, its value at most 128, without control characters",
    "fairness_key": "a fairness key has 1 to 128 characters and no control characters",
    "prefers": "at most 16 preferences, each a requirement with a weight from 1 to 100",
    "labels": "a label's key has 1 to 64 characters, its value at most 256",
}
"""How the patterns of `SubmitBody` read in words."""
_SPANS: Mapping[str, str] = {
    "timeout": "at most 365 days",
    "run_timeout": "at most 365 days",
    "stuck_after": "at most 365 days",
    "ttl": "from 1 s to 24 h",
    "not_before": "a time between 1970 and 2100",
}
"""How the limits of `SubmitBody` read that stand there in milliseconds."""

Reader = Callable[[JsonValue], Any]


class FieldFaults(ValueError):
    """Some fields can't be submitted. `faults` has the key (as written) and the reason of each."""

    def __init__(self, faults: tuple[tuple[str, str], ...]) -> None:
        super().__init__("; ".join(f"{key}: {reason}" for key, reason in faults))
        self.faults = faults


def submission_body(
    fields: Mapping[str, JsonValue], *, text: str | None = None, now_ms: int | None = None
) -> dict[str, JsonValue]:
    """The body of a `Submit` request. Keys that were not given, or are null, are left out; `payload` is always there.

    `text` is the body of a Markdown file; without it `fields` come from JSON, where `payload` and
    `body` have a meaning. `now_ms` (Unix milliseconds) is what a relative `not_before` counts from.

    Raises:
      FieldFaults: every field that is wrong, each with its reason.
    """
    readers = _readers(now_ms)
    body: dict[str, Any] = {}
    written_as: dict[str, str] = {}
    faults: list[tuple[str, str]] = []
    for key, value in fields.items():
        if key not in readers or value is None:
            continue
        wire, read = readers[key]
        try:
            result = read(value)
            if wire == "requires":  # `engine` and `requires` join
                result = list(dict.fromkeys([*body.get(wire, []), *result]))
            elif wire in written_as:
                raise ValueError(f"stands twice, also as `{written_as[wire]}`: keep one of them")
            body[wire] = result
        except ValueError as error:
            faults.append((key, str(error)))
        written_as[wire] = key
    try:
        body["payload"] = _payload({key: value for key, value in fields.items() if key not in readers}, text)
    except ValueError as error:
        faults.append(("payload", str(error)))
    faults += _outside_limits(body, written_as, fields)
    if faults:
        raise FieldFaults(tuple(faults))
    return body


def _readers(now_ms: int | None) -> Mapping[str, tuple[str, Reader]]:
    """Key as written → key as it travels, and how its value is read. The travelling names are taken too."""
    return {
        "id": ("job_id", plain_text),
        "job_id": ("job_id", plain_text),
        "queue": ("queue", plain_text),
        "priority": ("priority", whole_number),
        "engine": ("requires", engine),
        "requires": ("requires", requirements),
        "prefers": ("prefers", preferences),
        "fairness_key": ("fairness_key", plain_text),
        "lock": ("locks", name_list),
        "locks": ("locks", name_list),
        "concurrency": ("concurrency", name_list),
        "depends_on": ("depends_on", name_list),
        "not_before": ("not_before_ms", lambda value: moment_ms(value, now_ms)),
        "not_before_ms": ("not_before_ms", whole_number),
        "timeout": ("timeout_ms", duration_ms),
        "timeout_ms": ("timeout_ms", whole_number),
        "ttl": ("ttl_ms", duration_ms),
        "ttl_ms": ("ttl_ms", whole_number),
        "run_timeout": ("run_timeout_ms", duration_ms),
        "run_timeout_ms": ("run_timeout_ms", whole_number),
        "stuck_after": ("stuck_after_ms", duration_ms),
        "stuck_after_ms": ("stuck_after_ms", whole_number),
        "on_stuck": ("on_stuck", plain_text),
        "on_parent_failure": ("on_parent_failure", plain_text),
        "unique": ("unique", unique),
        "supersedes": ("supersedes", plain_text),
        "max_failures": ("max_failures", whole_number),
        "max_expiries": ("max_expiries", whole_number),
        "labels": ("labels", text_map),
    }


KEYS = frozenset(_readers(None))
"""Those with a meaning; every other is a parameter."""


def _payload(rest: dict[str, JsonValue], text: str | None) -> JsonValue:
    """What the job is about: every key that has no meaning here, and the text."""
    if text is not None:
        return {"params": rest, "body": text}
    if "payload" in rest:
        payload = rest.pop("payload")
        if rest:
            raise ValueError(f"is taken as it is; move {', '.join(map(shown, list(rest)[:5]))} into it")
        return payload
    body = rest.pop("body", "")
    if not isinstance(body, str):
        raise ValueError("`body` must be text; other JSON goes under `payload`")
    return {"params": rest, "body": body}


def _outside_limits(
    body: Mapping[str, Any], written_as: Mapping[str, str], fields: Mapping[str, JsonValue]
) -> list[tuple[str, str]]:
    """The limits stand once, in `SubmitBody`; here they only get words."""
    faults = []
    if body.get("job_id") in body.get("depends_on", []):
        faults.append(("depends_on", "the job depends on itself"))
    try:
        SubmitBody.model_validate(body)
    except ValidationError as error:
        for item in error.errors(include_url=False):
            wire = str(item["loc"][0])
            key = written_as.get(wire, wire)
            if key in _SPANS:  # written in units of a person's own
                reason = f"{shown(fields[key])}: {_SPANS[key]}"
            else:
                reason = _reason(wire, item["type"], item["msg"], item["input"])
            faults.append((key, reason))
    return faults


def _reason(wire: str, kind: str, message: str, value: Any) -> str:
    if kind.startswith("string_") and wire in _RULES:
        return f"{shown(value)}: {_RULES[wire]}"
    if kind == "value_error":
        return message.removeprefix("Value error, ")
    return f"{shown(value)}: {message[:1].lower()}{message[1:]}"
