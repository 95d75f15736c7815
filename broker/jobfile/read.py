"""The door for job files: finds the format, and gives all jobs of a file or all that is wrong with it."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias

from pydantic import JsonValue

from broker.jobfile.fields import FieldFaults, submission_body
from broker.jobfile.jsontext import json_document, json_lines
from broker.jobfile.markdown import markdown
from broker.jobfile.raw import Faults, RawJob

Format: TypeAlias = Literal["markdown", "json", "jsonl"]

FILE_BYTES_MAX = 16_777_216
"""Of one file, read into memory whole."""
PROBLEMS_MAX = 20
"""Of one file. Reading stops there: more would only bury the first."""

_FORMATS: Mapping[str, Format] = {
    ".md": "markdown",
    ".markdown": "markdown",
    ".json": "json",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
}


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
    readers = {"markdown": markdown, "json": json_document, "jsonl": json_lines}
    for job in readers[format or _FORMATS.get(Path(source).suffix.lower()) or _sniffed(text)](text):
        try:
            submissions.append(_submission(job, source, line_of_id, now_ms))
        except Faults as error:
            problems += [Problem(source, line, reason) for line, reason in sorted(error.faults)]
        if len(problems) >= PROBLEMS_MAX:
            break
    if problems:
        first, *more = problems[:PROBLEMS_MAX]
        raise JobFileError(source, first.line, first.reason, *more)
    if not submissions:
        raise JobFileError(source, 1, "holds no job: the array is empty")
    return submissions


def _submission(job: RawJob | Faults, source: str, line_of_id: dict[JsonValue, int], now_ms: int | None) -> Submission:
    if isinstance(job, Faults):
        raise job
    try:
        body = submission_body(job.fields, text=job.text, now_ms=now_ms)
    except FieldFaults as error:
        raise Faults(*((job.lines.get(key, job.line), f"{key}: {why}") for key, why in error.faults)) from error
    job_id = body.get("job_id")
    if job_id in line_of_id:
        raise Faults((job.lines.get("id", job.line), f"id: `{job_id}` is also the job of line {line_of_id[job_id]}"))
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
