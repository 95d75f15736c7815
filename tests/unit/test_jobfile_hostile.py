"""Whatever stands in a file, reading it ends soon, with valid submissions or a JobFileError."""

import contextlib
import json
import threading
from time import thread_time
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from broker.jobfile import Format, JobFileError, Problem, parse_job_bytes, parse_job_text
from broker.messages import SubmitBody

NOW_MS = 1_700_000_000_000


def front(*lines: str) -> str:
    return "\n".join(["---", *lines, "---", "Do it."])


pieces = st.one_of(
    st.sampled_from(
        [
            "---",
            "\n",
            "\r\n",
            "id: a",
            "lock:",
            " - x",
            "{",
            "}",
            "[",
            "]",
            '"',
            "'",
            ",",
            ": ",
            "&a",
            "*a",
            "!!int ",
            "|",
        ]
    ),
    st.sampled_from(
        ["requires: ", "timeout: ", "not_before: ", "engine: ", "2026-01-31", "0755", ".inf", "1e999", '"id"']
    ),
    st.text(max_size=8),
    st.characters(),
)
texts = st.one_of(
    st.text(),
    st.lists(pieces, max_size=40).map("".join),
    st.lists(pieces, max_size=40).map(lambda parts: front("".join(parts))),
    st.lists(pieces, max_size=40).map(lambda parts: '{"a": ' + "".join(parts)),
)
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.sampled_from(["3h", "+1h", "a=b", ">=1"]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=10,
)
KEYS = [
    *("id", "queue", "priority", "engine", "requires", "lock", "depends_on", "not_before", "timeout", "ttl"),
    *("max_failures", "labels", "payload", "body", "x"),
]


def problems(data: str | bytes, source: str, format: Format | None = None) -> tuple[Problem, ...]:
    """What is wrong; nothing, if the broker takes all that was read."""
    try:
        if isinstance(data, bytes):
            submissions = parse_job_bytes(data, source, format, now_ms=NOW_MS)
        else:
            submissions = parse_job_text(data, source, format, now_ms=NOW_MS)
    except JobFileError as error:
        return error.problems
    for submission in submissions:
        SubmitBody.model_validate_json(json.dumps(submission.body, allow_nan=False))
    return ()


def soon(data: str, source: str, format: Format | None = None) -> tuple[Problem, ...]:
    """The same; it takes little of a processor, however long others have that meanwhile."""
    start = thread_time()
    found = problems(data, source, format)
    assert thread_time() - start < 2
    return found


formats: st.SearchStrategy[Format | None] = st.sampled_from([None, "markdown", "json", "jsonl"])


@given(texts, formats)
@settings(max_examples=500, deadline=None)
def test_arbitrary_text_is_a_valid_submission_or_a_job_file_error(text: str, format: Format | None) -> None:
    lines = text.count("\n") + text.count("\r") + 1
    assert all(1 <= problem.line <= lines for problem in soon(text, "job", format))


@given(st.binary(), formats)
@settings(deadline=None)
def test_arbitrary_bytes_are_a_valid_submission_or_a_job_file_error(data: bytes, format: Format | None) -> None:
    assert all(str(problem).startswith("job:") for problem in problems(data, "job", format))


@given(st.dictionaries(st.sampled_from(KEYS), values, max_size=6))
@settings(max_examples=300, deadline=None)
def test_arbitrary_values_under_known_keys_are_a_valid_submission_or_a_job_file_error(job: dict[str, Any]) -> None:
    assert all(problem.line == 1 for problem in soon(json.dumps(job), "job.json"))


@pytest.mark.parametrize(
    ("text", "source"),
    [
        (front("a: " + "[" * 16_000), "job.md"),
        (front("a: " + "{" * 16_000), "job.md"),
        (front("a: [" + "[]," * 5_000 + "]"), "job.md"),
        (front("- " * 8_000), "job.md"),
        (front("? " * 8_000), "job.md"),
        (front("a: '" + "\\" * 16_000), "job.md"),
        (front("a: " + ":" * 16_000), "job.md"),
        (front(*(f"k{n}: 1" for n in range(2_000))), "job.md"),
        ("---\n" * 1_000_000, "job.md"),
        ("[" + "{}," * 20_000 + "{}]", "jobs.json"),
        ("[" + '{"a":\n"b c"},\n' * 20_000 + "{}]", "jobs.json"),
        ("[" * 1_000_000, "jobs.json"),
        ('{"a":' * 200_000, "jobs.json"),
        ("{\n" + " " * 5_000_000, "jobs.json"),
        ("\n" * 5_000_000 + "x", "jobs.jsonl"),
    ],
    ids=lambda value: value[:24] if isinstance(value, str) else "",
)
def test_hostile_sizes_end_soon(text: str, source: str) -> None:
    """Quadratic work would take minutes here; the allowance is a slow machine's."""

    def parse() -> None:
        with contextlib.suppress(JobFileError):
            parse_job_text(text, source)
        finished.set()

    finished = threading.Event()
    threading.Thread(target=parse, daemon=True).start()
    assert finished.wait(timeout=30), "still parsing after 30 s"
