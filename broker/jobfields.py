"""What the keys of a job file mean: turns the words people write into the body of a submission, as it travels."""

import json
import re
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from pydantic import JsonValue, ValidationError

from broker.messages import SubmitBody

_DURATION = re.compile(
    r"(?:(\d{1,9})d)? ?(?:(\d{1,9})h)? ?(?:(\d{1,9})m(?!s))? ?(?:(\d{1,9})s)? ?(?:(\d{1,9})ms)?", re.ASCII
)
_DURATION_UNITS_MS = (86_400_000, 3_600_000, 60_000, 1_000, 1)
_SECONDS = re.compile(r"\d{1,9}", re.ASCII)
_SECONDS_MAX = 1_000_000_000
"""Beyond any limit of a submission; keeps the arithmetic exact."""
_NEED = re.compile(r"([^\s=<>!]+)(?:(>=|<=|>|<|=)([^<>=].*))?")
_NUMBER = re.compile(r"-?\d+(?:\.\d+)?", re.ASCII)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_SHOWN_CHARS_MAX = 60

_RULES: Mapping[str, str] = {
    "job_id": "an id has 1 to 128 letters, digits, `.`, `_` or `-`, and begins with a letter or digit",
    "depends_on": "an id has 1 to 128 letters, digits, `.`, `_` or `-`, and begins with a letter or digit",
    "queue": "a queue's name has 1 to 64 letters, digits, `.`, `_` or `-`, and begins with a letter or digit",
    "locks": "a lock's name has 1 to 256 characters and no control characters",
    "requires": "a requirement's key has at most 64 characters, its value at most 128, without control characters",
    "labels": "a label's key has 1 to 64 characters, its value at most 256",
}
"""How the patterns of `SubmitBody` read in words."""

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
                result = _consistent([*body.get(wire, []), *result])
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
    faults += _outside_limits(body, written_as)
    if faults:
        raise FieldFaults(tuple(faults))
    return body


def duration_ms(value: JsonValue) -> int:
    """Milliseconds of `3h`, `90m`, `45s`, `1h30m`, `2d`, `500ms`, or of a bare number of seconds.

    Raises:
      ValueError: it is none of these, or not above zero.
    """
    milliseconds = 0
    if isinstance(value, int | float) and not isinstance(value, bool):
        milliseconds = round(max(0, min(value, _SECONDS_MAX)) * 1_000)
    elif isinstance(value, str) and _SECONDS.fullmatch(value):
        milliseconds = int(value) * 1_000
    elif isinstance(value, str) and (match := _DURATION.fullmatch(value.strip().lower())):
        milliseconds = sum(int(n or 0) * unit for n, unit in zip(match.groups(), _DURATION_UNITS_MS, strict=True))
    if milliseconds <= 0:
        raise ValueError(f"{shown(value)} is not a duration: write 3h, 90m, 45s, 1h30m, 2d, or a number of seconds")
    return milliseconds


def _readers(now_ms: int | None) -> Mapping[str, tuple[str, Reader]]:
    """Key as written → key as it travels, and how its value is read. The travelling names are taken too."""
    return {
        "id": ("job_id", _text),
        "job_id": ("job_id", _text),
        "queue": ("queue", _text),
        "priority": ("priority", _integer),
        "engine": ("requires", lambda value: _needs({"engine": _text(value)})),
        "requires": ("requires", _needs),
        "lock": ("locks", _names),
        "locks": ("locks", _names),
        "depends_on": ("depends_on", _names),
        "not_before": ("not_before_ms", lambda value: _moment_ms(value, now_ms)),
        "not_before_ms": ("not_before_ms", _integer),
        "timeout": ("timeout_ms", duration_ms),
        "timeout_ms": ("timeout_ms", _integer),
        "ttl": ("ttl_ms", duration_ms),
        "ttl_ms": ("ttl_ms", _integer),
        "max_failures": ("max_failures", _integer),
        "max_expiries": ("max_expiries", _integer),
        "labels": ("labels", _labels),
    }


def _payload(rest: dict[str, JsonValue], text: str | None) -> JsonValue:
    """What the job is about: every key that has no meaning here, and the text."""
    if text is not None:
        return {"params": rest, "body": text}
    if "payload" in rest:
        payload = rest.pop("payload")
        if rest:
            raise ValueError(f"is taken as it is; move {', '.join(f'{shown(key)}' for key in list(rest)[:5])} into it")
        return payload
    body = rest.pop("body", "")
    if not isinstance(body, str):
        raise ValueError("`body` must be text; other JSON goes under `payload`")
    return {"params": rest, "body": body}


def _outside_limits(body: Mapping[str, Any], written_as: Mapping[str, str]) -> list[tuple[str, str]]:
    """The limits stand once, in `SubmitBody`; here they only get words."""
    faults = []
    if body.get("job_id") in body.get("depends_on", []):
        faults.append(("depends_on", "the job depends on itself"))
    try:
        SubmitBody.model_validate(body)
    except ValidationError as error:
        for item in error.errors(include_url=False):
            wire = str(item["loc"][0])
            faults.append((written_as.get(wire, wire), _reason(wire, item["type"], item["msg"], item["input"])))
    return faults


def _reason(wire: str, kind: str, message: str, value: Any) -> str:
    if kind.startswith("string_") and wire in _RULES:
        return f"{shown(value)}: {_RULES[wire]}"
    if kind == "value_error":
        return message.removeprefix("Value error, ")
    return f"{shown(value)}: {message[:1].lower()}{message[1:]}"


def _text(value: JsonValue) -> str:
    if not isinstance(value, str):
        raise ValueError(f"{shown(value)} is not text; put it in quotes if it should be")
    return value


def _integer(value: JsonValue) -> int:
    if not isinstance(value, int) or isinstance(value, bool):
        raise ValueError(f"{shown(value)} is not a whole number")
    return value


def _names(value: JsonValue) -> list[str]:
    """One text, or a list of them without its repetitions."""
    names = [_text(name) for name in value] if isinstance(value, list) else [_text(value)]
    for name in names:
        if name != name.strip():
            raise ValueError(f"{shown(name)} begins or ends with a space")
    return list(dict.fromkeys(names))


def _labels(value: JsonValue) -> dict[str, str]:
    if not isinstance(value, dict):
        raise ValueError("must be a mapping of text to text, such as `{team: core}`")
    return {key: _text(item) for key, item in value.items()}


def _needs(value: JsonValue) -> list[str]:
    """`"os=linux gpu"`, `[os=linux, gpu]` and `{os: linux, gpu: true}` say the same; so may `{mem_gb: ">=16"}`."""
    if isinstance(value, str):
        needs = value.split()
    elif isinstance(value, list):
        needs = [_text(item) for item in value]
    elif isinstance(value, dict):
        needs = [_need(key, item) for key, item in value.items()]
    else:
        raise ValueError(f"{shown(value)}: write `os=linux gpu`, a list, or a mapping")
    return _consistent(needs)


def _need(key: str, value: JsonValue) -> str:
    if value is True:
        return key
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{key}={value}"
    if not isinstance(value, str):
        raise ValueError(
            f"{shown(key)} can't be {shown(value)}: write text, a whole number, or true; put 3.10 in quotes"
        )
    comparison = value.lstrip(">=<")
    operator = value[: len(value) - len(comparison)]
    return f"{key}{operator or '='}{comparison.strip()}"


def _consistent(needs: list[str]) -> list[str]:
    """`needs` without repetitions.

    Raises:
      ValueError: one is malformed, or no factory could meet two of them at once.
    """
    values: dict[str, str] = {}
    for need in needs:
        match = _NEED.fullmatch(need)
        if match is None:
            raise ValueError(f"{shown(need)} is not a requirement: write key=value, key, or key>=number")
        key, operator, value = match.groups()
        if operator not in (None, "=") and not _NUMBER.fullmatch(value):
            raise ValueError(f"{shown(need)}: {operator} compares numbers, and {shown(value)} is none")
        if operator == "=" and values.setdefault(key, value) != value:
            raise ValueError(f"{shown(key)} can't be both {shown(values[key])} and {shown(value)}")
    return list(dict.fromkeys(needs))


def _moment_ms(value: JsonValue, now_ms: int | None) -> int:
    if isinstance(value, str) and value.startswith("+"):
        if now_ms is None:
            raise ValueError(f"{shown(value)} is relative, and the time is not known here: give a date and time with Z")
        return now_ms + duration_ms(value[1:])
    try:
        moment = datetime.fromisoformat(value if isinstance(value, str) else "")
    except ValueError:
        raise ValueError(
            f"{shown(value)} is not a time: write 2026-01-31T18:00:00Z, or +10m for ten minutes from now"
        ) from None
    if moment.tzinfo is None:
        raise ValueError(f"{shown(value)} has no time zone: add Z for UTC, or an offset such as +02:00")
    return (moment - _EPOCH) // timedelta(milliseconds=1)


def shown(value: object) -> str:
    """A value as it stands in a reason: short, and printable on any terminal."""
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
    short = text if len(text) <= _SHOWN_CHARS_MAX else f"{text[:_SHOWN_CHARS_MAX]}…"
    return f"`{''.join(char if char.isprintable() else ascii(char)[1:-1] for char in short)}`"
