"""Job files: what a person writes (Markdown with front matter, JSON, JSON Lines), read with the line of each fault."""

import json
import math
import re
from bisect import bisect_left
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, TypeAlias

import yaml
from pydantic import JsonValue

from broker.jobfields import FieldFaults, shown, submission_body

Format: TypeAlias = Literal["markdown", "json", "jsonl"]

FILE_BYTES_MAX = 16_777_216
"""Of one file, read into memory whole."""
FRONT_MATTER_BYTES_MAX = 16_384
NESTING_MAX = 32
"""Levels of lists and mappings in one job, the job itself included."""
PROBLEMS_MAX = 20
"""Of one file. Reading stops there: more would only bury the first."""

_FORMATS: Mapping[str, Format] = {
    ".md": "markdown",
    ".markdown": "markdown",
    ".json": "json",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
}
_FENCE = "---"
_OCTAL = re.compile(r"[-+]?0[0-9_]+")
_DIGITS_MAX = 67
"""Of a whole number: a sign, `0b` and 64 digits."""
_JSON_SPACE = re.compile(r"[ \t\n\r]*")
_TOO_DEEP = f"is nested more than {NESTING_MAX} levels deep"


@dataclass(frozen=True, slots=True)
class Submission:
    """One job as read: `body` is the body of a `Submit` request, `line` where the job begins in `source`."""

    source: str
    line: int
    body: Mapping[str, JsonValue]


@dataclass(frozen=True, slots=True)
class Problem:
    """One reason why a file is refused. A problem of the whole file is on line 1."""

    source: str
    line: int
    reason: str

    def __str__(self) -> str:
        return f"{self.source}:{self.line}: {self.reason}"


class JobFileError(Exception):
    """A file that can't be submitted; nothing of it may be. `problems` has all that was found, in order of lines."""

    def __init__(self, source: str, line: int, reason: str, *more: Problem) -> None:
        self.source, self.line, self.reason = source, line, reason
        self.problems = (Problem(source, line, reason), *more)
        super().__init__("\n".join(map(str, self.problems)))


def read_job_file(path: str | Path, format: Format | None = None, *, now_ms: int | None = None) -> list[Submission]:
    """The jobs of a file, all valid. `now_ms` is what a relative `not_before` counts from (Unix milliseconds).

    Raises:
      JobFileError: the file can't be read, or one of its jobs is wrong.
    """
    try:
        with Path(path).open("rb") as file:
            data = file.read(FILE_BYTES_MAX + 1)
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        reason = (isinstance(error, OSError) and error.strerror) or str(error)
        raise JobFileError(str(path), 1, f"can't be read: {reason}") from error
    return parse_job_bytes(data, str(path), format, now_ms=now_ms)


def parse_job_bytes(
    data: bytes, source: str, format: Format | None = None, *, now_ms: int | None = None
) -> list[Submission]:
    """The same from bytes, such as those of standard input."""
    if len(data) > FILE_BYTES_MAX:
        raise JobFileError(source, 1, f"is larger than {FILE_BYTES_MAX} bytes; split it")
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise JobFileError(source, line, f"is not UTF-8 (byte 0x{data[error.start]:02x}); save it as UTF-8") from error
    return parse_job_text(text, source, format, now_ms=now_ms)


def parse_job_text(
    text: str, source: str, format: Format | None = None, *, now_ms: int | None = None
) -> list[Submission]:
    """The same from text. Without `format` the suffix of `source` tells, else the first characters.

    A byte order mark is dropped, and line ends become `\\n`.
    """
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        line = text.count("\n", 0, error.start) + 1
        raise JobFileError(source, line, "holds half of a surrogate pair; save it as UTF-8") from error
    text = text.removeprefix("\ufeff").replace("\r\n", "\n").replace("\r", "\n")
    if not text.strip():
        raise JobFileError(source, 1, "is empty; a job file begins with a line `---`, or holds JSON")
    submissions: list[Submission] = []
    problems: list[Problem] = []
    line_of_id: dict[JsonValue, int] = {}
    readers = {"markdown": _markdown, "json": _json_document, "jsonl": _json_lines}
    for job in readers[format or _FORMATS.get(Path(source).suffix.lower()) or _sniffed(text)](text):
        try:
            submissions.append(_submission(job, source, line_of_id, now_ms))
        except _Faults as error:
            problems += [Problem(source, line, reason) for line, reason in sorted(error.faults)]
        if len(problems) >= PROBLEMS_MAX:
            break
    if problems:
        first, *more = problems[:PROBLEMS_MAX]
        raise JobFileError(source, first.line, first.reason, *more)
    return submissions


@dataclass(frozen=True, slots=True)
class _Job:
    """The keys of one job, and the lines they stand on. `text` is the body of a Markdown file, None for JSON."""

    line: int
    fields: dict[str, JsonValue] = field(default_factory=dict)
    lines: dict[str, int] = field(default_factory=dict)
    text: str | None = None


class _Faults(Exception):
    """(line, reason) of each fault of one job. Readers yield it in place of the job, and go on where they can."""

    def __init__(self, *faults: tuple[int, str]) -> None:
        super().__init__(faults)
        self.faults = faults


def _submission(job: _Job | _Faults, source: str, line_of_id: dict[JsonValue, int], now_ms: int | None) -> Submission:
    if isinstance(job, _Faults):
        raise job
    try:
        body = submission_body(job.fields, text=job.text, now_ms=now_ms)
    except FieldFaults as error:
        raise _Faults(*((job.lines.get(key, job.line), f"{key}: {why}") for key, why in error.faults)) from error
    job_id = body.get("job_id")
    if job_id in line_of_id:
        raise _Faults((job.line, f"id: `{job_id}` is also the job of line {line_of_id[job_id]}"))
    if job_id is not None:
        line_of_id[job_id] = job.line
    return Submission(source, job.line, body)


def _sniffed(text: str) -> Format:
    """JSON Lines is told from JSON by a first line that is complete and not the last."""
    start = text.lstrip()
    if not start.startswith(("{", "[")):
        return "markdown"
    first, _, rest = start.partition("\n")
    return "jsonl" if start.startswith("{") and rest.strip() and _is_json(first) else "json"


def _is_json(text: str) -> bool:
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True


class _Refused(Exception):
    """What stands at this index of the text is not taken."""

    def __init__(self, index: int, reason: str) -> None:
        super().__init__(reason)
        self.index, self.reason = index, reason


class _Lines:
    """Line numbers of a text whose first line is line `first` of its file."""

    def __init__(self, text: str, first: int) -> None:
        self._breaks = [match.start() for match in re.finditer("\n", text)]
        self._first = first

    def at(self, index: int) -> int:
        return self._first + bisect_left(self._breaks, index)


def _markdown(text: str) -> Iterator[_Job | _Faults]:
    lines = text.split("\n")
    if lines[0].rstrip() != _FENCE:
        yield _Faults((1, "expected `---`: a job begins with YAML between two lines `---`, then comes its text"))
        return
    end = next((number for number, line in enumerate(lines) if number and line.rstrip() == _FENCE), None)
    if end is None:
        yield _Faults((1, "the front matter is never closed: end it with a line `---`"))
        return
    front = "\n".join(lines[1:end])
    if len(front.encode()) > FRONT_MATTER_BYTES_MAX:
        yield _Faults((1, f"the front matter is larger than {FRONT_MATTER_BYTES_MAX} bytes; long text goes below it"))
        return
    line = _Lines(front, first=2)
    try:
        items = _yaml_items(front)
    except _Refused as error:
        yield _Faults((line.at(error.index), error.reason))
        return
    fields = {key: value for key, (_, value) in items.items()}
    yield _Job(1, fields, {key: line.at(index) for key, (index, _) in items.items()}, "\n".join(lines[end + 1 :]))


def _yaml_items(text: str) -> dict[str, tuple[int, JsonValue]]:
    """The keys of a YAML mapping, with the index each stands at.

    Raises:
      _Refused: it is not YAML, or holds what JSON can't.
    """
    try:
        loader = _Loader(text)
        root = loader.get_single_node()
        if root is None:
            return {}
        if not isinstance(root, yaml.MappingNode):
            raise _Refused(root.start_mark.index, "expected lines `key: value` between the two lines `---`")
        return loader.items(root)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        raise _Refused(mark.index if mark else 0, f"is not valid YAML: {error.problem or error.context}") from error
    except yaml.reader.ReaderError as error:
        raise _Refused(error.position, "holds a character that YAML does not take") from error


class _Loader(yaml.SafeLoader):
    """YAML in which every value is JSON, with neither aliases nor tags, so that its size bounds what it means.

    Beyond YAML 1.1 as PyYAML reads it (`yes`, `on` are true), what surprises is refused or stays text:
    `0755` (octal) is refused, `12:30` (sexagesimal) and dates are text.
    """

    _depth = 0

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        event = self.peek_event()
        at = event.start_mark.index
        if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None) is not None:
            raise _Refused(at, "aliases and anchors (`*x`, `&x`) are not taken; text that begins so needs quotes")
        if getattr(event, "tag", None) is not None:
            raise _Refused(at, "tags (`!x`) are not taken; text that begins so needs quotes")
        if self._depth >= NESTING_MAX and isinstance(event, yaml.CollectionStartEvent):
            raise _Refused(at, _TOO_DEEP)
        self._depth += 1
        try:
            return super().compose_node(parent, index)
        finally:
            self._depth -= 1

    def items(self, node: yaml.MappingNode) -> dict[str, tuple[int, JsonValue]]:
        found: dict[str, tuple[int, JsonValue]] = {}
        for key, value in node.value:
            at = key.start_mark.index
            if key.tag != "tag:yaml.org,2002:str":
                raise _Refused(at, "a key must be text; put it in quotes if it should be")
            if key.value in found:
                raise _Refused(at, f"the key {shown(key.value)} stands twice")
            found[key.value] = (at, self._value(value))
        return found

    def _value(self, node: yaml.Node) -> JsonValue:
        if isinstance(node, yaml.MappingNode):
            return {key: value for key, (_, value) in self.items(node).items()}
        if isinstance(node, yaml.SequenceNode):
            return [self._value(item) for item in node.value]
        try:
            return self._scalar(node.tag.removeprefix("tag:yaml.org,2002:"), node)
        except ValueError as error:
            raise _Refused(node.start_mark.index, f"{error}; put it in quotes if it is text") from error

    def _scalar(self, kind: str, node: yaml.Node) -> JsonValue:
        text = str(node.value)
        match kind:
            case "null":
                return None
            case "bool":
                return self.bool_values[text.lower()]
            case "int" | "float" if ":" in text:
                return text
            case "int" if _OCTAL.fullmatch(text):
                raise ValueError(f"{shown(text)} would be read as an octal number")
            case "int":
                return _whole(text)
            case "float":
                return _finite(text)
            case "timestamp":
                return str(self.construct_yaml_timestamp(node).isoformat())
        return text


def _whole(text: str) -> int:
    digits = text.replace("_", "")
    if len(digits) > _DIGITS_MAX or not -(2**63) <= (number := int(digits, 0)) < 2**63:
        raise ValueError(f"{shown(text)} does not fit into 64 bits")
    return number


def _finite(text: str) -> float:
    try:
        number = float(text.replace("_", ""))
    except ValueError:  # YAML's `.inf` and `.nan`
        number = math.nan
    if not math.isfinite(number):
        raise ValueError(f"{shown(text)} is not a finite number")
    return number


def _json_document(text: str) -> Iterator[_Job | _Faults]:
    """One object, or an array of them."""
    reader = _JsonReader(text)
    try:
        yield from reader.array() if reader.next_is("[") else [reader.object()]
        reader.end()
    except _Refused as error:
        yield _Faults((reader.line.at(error.index), error.reason))


def _json_lines(text: str) -> Iterator[_Job | _Faults]:
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        reader = _JsonReader(line, number)
        try:
            job = reader.object()
            reader.end()
            yield job
        except _Refused as error:
            yield _Faults((number, error.reason))


class _JsonReader:
    """Walks the outer levels of a JSON text, because the json module does not tell where a key stands."""

    def __init__(self, text: str, first_line: int = 1) -> None:
        self.line = _Lines(text, first_line)
        self._text = text
        self._at = 0
        self._decoder = json.JSONDecoder(
            parse_int=_whole, parse_float=_finite, parse_constant=_finite, object_pairs_hook=_unique
        )

    def array(self) -> Iterator[_Job]:
        self._take("[")
        first = True
        while not self.next_is("]"):
            if not first:
                self._take(",")
            yield self.object()
            first = False
        self._take("]")

    def object(self) -> _Job:
        self._take("{", "a job is a JSON object:")
        job = _Job(self.line.at(self._at))
        while not self.next_is("}"):
            if job.fields:
                self._take(",")
            at = self._skip()
            key = self._value()
            if not isinstance(key, str):
                raise _Refused(at, "expected a key in double quotes")
            if key in job.fields:
                raise _Refused(at, f"the key {shown(key)} stands twice")
            self._take(":")
            job.lines[key] = self.line.at(at)
            job.fields[key] = self._value()
        self._take("}")
        return job

    def end(self) -> None:
        """Raises `_Refused` unless nothing follows."""
        if self._skip() < len(self._text):
            raise _Refused(self._at, "more follows the end of the JSON; one object a line is called .jsonl")

    def next_is(self, char: str) -> bool:
        return self._text.startswith(char, self._skip())

    def _skip(self) -> int:
        """Over white space; where the next token begins."""
        if space := _JSON_SPACE.match(self._text, self._at):
            self._at = space.end()
        return self._at

    def _take(self, char: str, reason: str = "is not valid JSON:") -> None:
        if not self.next_is(char):
            raise _Refused(self._at, f"{reason} expected `{char}`")
        self._at += 1

    def _value(self) -> JsonValue:
        at = self._skip()
        try:
            value, self._at = self._decoder.raw_decode(self._text, at)
        except json.JSONDecodeError as error:
            raise _Refused(error.pos, f"is not valid JSON: {error.msg[:1].lower()}{error.msg[1:]}") from error
        except RecursionError as error:
            raise _Refused(at, _TOO_DEEP) from error
        except ValueError as error:
            raise _Refused(at, str(error)) from error
        if _deeper_than(NESTING_MAX - 1, value):
            raise _Refused(at, _TOO_DEEP)
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
