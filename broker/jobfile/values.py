"""How one value of a job file is read: a duration, a moment, requirements, names. A wrong one is a `ValueError`."""

import json
import re
from datetime import UTC, datetime, timedelta

from pydantic import JsonValue

_DURATION = re.compile(
    r"(?:(\d{1,9})d)? ?(?:(\d{1,9})h)? ?(?:(\d{1,9})m(?!s))? ?(?:(\d{1,9})s)? ?(?:(\d{1,9})ms)?", re.ASCII
)
_UNITS_MS = (86_400_000, 3_600_000, 60_000, 1_000, 1)
_SECONDS = re.compile(r"\d{1,9}", re.ASCII)
_SECONDS_MAX = 1_000_000_000
"""Beyond any limit of a submission; keeps the arithmetic exact."""
_REQUIREMENT = re.compile(r"[^\s=<>!]+(?:(>=|<=|>|<|=)([^<>=].*))?")
_NUMBER = re.compile(r"-?\d+(?:\.\d+)?", re.ASCII)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_SHOWN_CHARS_MAX = 60


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
        milliseconds = sum(int(number or 0) * unit for number, unit in zip(match.groups(), _UNITS_MS, strict=True))
    if milliseconds <= 0:
        raise ValueError(f"{shown(value)} is not a duration: write 3h, 90m, 45s, 1h30m, 2d, or a number of seconds")
    return milliseconds


def moment_ms(value: JsonValue, now_ms: int | None) -> int:
    """Unix milliseconds of an ISO 8601 time with a zone, or of `+` and a duration, which counts from `now_ms`."""
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
        raise ValueError(f"{shown(value)} has no time zone: write a time of day and Z for UTC, or +02:00")
    return (moment - _EPOCH) // timedelta(milliseconds=1)


def plain_text(value: JsonValue) -> str:
    """Text as it is."""
    if not isinstance(value, str):
        raise ValueError(f"{shown(value)} is not text; put it in quotes if it should be")
    return value


def whole_number(value: JsonValue) -> int:
    """An integer as it is; `true` is none."""
    if not isinstance(value, int) or isinstance(value, bool):
        raise ValueError(f"{shown(value)} is not a whole number")
    return value


def name_list(value: JsonValue) -> list[str]:
    """One text, or a list of them without its repetitions."""
    names = [plain_text(name) for name in value] if isinstance(value, list) else [plain_text(value)]
    for name in names:
        if name != name.strip():
            raise ValueError(f"{shown(name)} begins or ends with a space")
    return list(dict.fromkeys(names))


def text_map(value: JsonValue) -> dict[str, str]:
    """A mapping of text to text."""
    if not isinstance(value, dict):
        raise ValueError(f"{shown(value)} is not a mapping of text to text, such as `{{team: core}}`")
    return {key: plain_text(item) for key, item in value.items()}


def unique(value: JsonValue) -> dict[str, str]:
    """A key, or a mapping of `key` and `policy`."""
    given = value if isinstance(value, dict) else {"key": value}
    if "key" not in given or not set(given) <= {"key", "policy"}:
        raise ValueError(f"{shown(value)} is no key: write `unique: nightly`, or `unique: {{key: …, policy: replace}}`")
    return {name: plain_text(item) for name, item in given.items()}


def engine(value: JsonValue) -> list[str]:
    """`engine: devin` is the requirement `engine=devin`."""
    return _well_formed([f"engine={plain_text(value)}"])


def requirements(value: JsonValue) -> list[str]:
    """`"os=linux gpu"`, `[os=linux, gpu]` and `{os: linux, gpu: true}` say the same; so may `{mem_gb: ">=16"}`."""
    if isinstance(value, str):
        return _well_formed(value.split())
    if isinstance(value, list):
        return _well_formed([plain_text(item) for item in value])
    if isinstance(value, dict):
        return _well_formed([_requirement(key, item) for key, item in value.items()])
    raise ValueError(f"{shown(value)} is no requirement: write `os=linux gpu`, a list, or a mapping")


def preferences(value: JsonValue) -> dict[str, int]:
    """`{zone=eu: 10, ssd: 3}`: terms as requirements have them, each with its weight."""
    if not isinstance(value, dict):
        raise ValueError(f"{shown(value)} is no preference: write a mapping of terms to weights, {{zone=eu: 10}}")
    _well_formed(list(value))
    return {term: whole_number(weight) for term, weight in value.items()}


def _requirement(key: str, value: JsonValue) -> str:
    if value is True:
        return key
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{key}={value}"
    if not isinstance(value, str):
        raise ValueError(f"{shown(key)} needs text, a whole number, or true, not {shown(value)}; put 3.10 in quotes")
    operand = value.lstrip("<>=")
    return f"{key}{value[: len(value) - len(operand)] or '='}{operand.strip()}"


def _well_formed(needs: list[str]) -> list[str]:
    """`needs` without repetitions, each of which a factory could meet."""
    for need in needs:
        match = _REQUIREMENT.fullmatch(need)
        if match is None:
            raise ValueError(f"{shown(need)} is no requirement: write key=value, key, or key>=number")
        operator, operand = match.groups()
        if operator not in (None, "=") and not _NUMBER.fullmatch(operand):
            raise ValueError(f"{shown(need)} compares numbers, and {shown(operand)} is none")
    return list(dict.fromkeys(needs))


def shown(value: object) -> str:
    """A value as it stands in a reason: short, and printable on any terminal."""
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
    short = text if len(text) <= _SHOWN_CHARS_MAX else f"{text[:_SHOWN_CHARS_MAX]}…"
    return f"`{''.join(char if char.isprintable() else ascii(char)[1:-1] for char in short)}`"
