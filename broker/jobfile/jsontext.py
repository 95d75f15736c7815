"""JSON and JSON Lines, read with the line of each key."""

import json
import re
from collections.abc import Iterator

from pydantic import JsonValue

from broker.jobfile.raw import NESTING_MAX, TOO_DEEP, Faults, Lines, RawJob, Refused, finite, whole
from broker.jobfile.values import shown

_SPACE = re.compile(r"[ \t\n\r]*")


def json_document(text: str) -> Iterator[RawJob | Faults]:
    """One object, or an array of them."""
    reader = _JsonReader(text)
    try:
        yield from reader.jobs() if reader.next_is("[") else [reader.job()]
        reader.end()
    except Refused as error:
        yield Faults((reader.line.at(error.index), error.reason))


def json_lines(text: str) -> Iterator[RawJob | Faults]:
    """One object on each line that is not blank. A bad line does not hide the faults of the next."""
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        reader = _JsonReader(line, number)
        try:
            job = reader.job()
            reader.end()
            yield job
        except Refused as error:
            yield Faults((number, error.reason))


def json_value(text: str) -> JsonValue:
    """One JSON value, by the rules that hold in a file.

    Raises:
      ValueError: it is none, or a key in it stands twice.
    """
    reader = _JsonReader(text)
    try:
        value = reader.value()
        reader.end()
    except Refused as error:
        raise ValueError(error.reason) from error
    return value


class _JsonReader:
    """Walks the outer levels of a JSON text, because the json module does not tell where a key stands."""

    def __init__(self, text: str, first_line: int = 1) -> None:
        self.line = Lines(text, first_line)
        self._text = text
        self._at = 0
        self._decoder = json.JSONDecoder(
            parse_int=whole, parse_float=finite, parse_constant=finite, object_pairs_hook=_unique
        )

    def jobs(self) -> Iterator[RawJob]:
        self._take("[")
        first = True
        while not self.next_is("]"):
            if not first:
                self._take(",")
            yield self.job()
            first = False
        self._take("]")

    def job(self) -> RawJob:
        self._take("{", "a job is a JSON object:")
        line = self.line.at(self._at - 1)
        fields: dict[str, JsonValue] = {}
        lines: dict[str, int] = {}
        while not self.next_is("}"):
            if fields:
                self._take(",")
            at = self._skip()
            key = self.value()
            if not isinstance(key, str):
                raise Refused(at, "expected a key in double quotes")
            if key in fields:
                raise Refused(at, f"the key {shown(key)} stands twice")
            self._take(":")
            lines[key] = self.line.at(at)
            fields[key] = self.value()
        self._take("}")
        return RawJob(line, fields, lines)

    def end(self) -> None:
        """Raises `Refused` unless nothing follows."""
        if self._skip() < len(self._text):
            raise Refused(self._at, "more follows the end of the JSON; one object a line is called .jsonl")

    def next_is(self, char: str) -> bool:
        return self._text.startswith(char, self._skip())

    def _skip(self) -> int:
        """Over white space; where the next token begins."""
        if space := _SPACE.match(self._text, self._at):
            self._at = space.end()
        return self._at

    def _take(self, char: str, reason: str = "is not valid JSON:") -> None:
        if not self.next_is(char):
            raise Refused(self._at, f"{reason} expected `{char}`")
        self._at += 1

    def value(self) -> JsonValue:
        at = self._skip()
        try:
            value: JsonValue
            value, self._at = self._decoder.raw_decode(self._text, at)
        except json.JSONDecodeError as error:
            raise Refused(error.pos, f"is not valid JSON: {error.msg[:1].lower()}{error.msg[1:]}") from error
        except RecursionError as error:
            raise Refused(at, TOO_DEEP) from error
        except ValueError as error:
            raise Refused(at, str(error)) from error
        if _deeper_than(NESTING_MAX - 1, value):
            raise Refused(at, TOO_DEEP)
        return value


def _unique(pairs: list[tuple[str, JsonValue]]) -> dict[str, JsonValue]:
    found: dict[str, JsonValue] = {}
    for key, value in pairs:
        if key in found:
            raise ValueError(f"the key {shown(key)} stands twice")
        found[key] = value
    return found


def _deeper_than(levels: int, value: JsonValue) -> bool:
    if not isinstance(value, dict | list):
        return False
    inner = value.values() if isinstance(value, dict) else value
    return levels == 0 or any(_deeper_than(levels - 1, item) for item in inner)
