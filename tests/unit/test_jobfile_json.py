"""JSON and JSON Lines say what a Markdown job file says, and each fault has its line too."""

from typing import Any

import pytest

from broker.jobfile import JobFileError, parse_job_text


def only(text: str) -> dict[str, Any]:
    """The body of the one job in a text."""
    (submission,) = parse_job_text(text, "job.json")
    return dict(submission.body)


def refused(text: str, source: str) -> str:
    with pytest.raises(JobFileError) as caught:
        parse_job_text(text, source)
    return str(caught.value)


def test_json_takes_the_same_keys_and_either_a_payload_or_params() -> None:
    assert only('{"id": "a", "timeout": "3h", "cwd": "/x", "body": "Do it."}') == {
        "job_id": "a",
        "timeout_ms": 10_800_000,
        "payload": {"params": {"cwd": "/x"}, "body": "Do it."},
    }
    assert only('{"timeout_ms": 5, "payload": [1, {"a": null}]}') == {
        "timeout_ms": 5,
        "payload": [1, {"a": None}],
    }
    assert only("{}") == {"payload": {"params": {}, "body": ""}}


def test_an_array_and_json_lines_hold_several_jobs_with_their_lines() -> None:
    array = parse_job_text('[\n  {"id": "a"},\n\n  {\n"id": "b"}\n]\n', "jobs.json")
    assert [(job.line, job.body["job_id"]) for job in array] == [(2, "a"), (4, "b")]
    lines = parse_job_text('{"id": "a"}\n\n{"id": "b", "x": "\u2028"}\n', "jobs.jsonl")
    assert [(job.line, job.body["job_id"]) for job in lines] == [(1, "a"), (3, "b")]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ('{"id": "a",\n "id": "b"}', "j.json:2: the key `id` stands twice"),
        ('{"id": "a",\n "x": {"k": 1, "k": 2}}', "j.json:2: the key `k` stands twice"),
        ('[{"id": "a"},\n {"id": "a"}]', "j.json:2: id: `a` is also the job of line 1"),
        ('[{"id": "a"}, {"id": "a"}]', "j.json:1: id: `a` is also the job of line 1"),
        ('{"id": "a",\n "priority": 5000}', "j.json:2: priority: "),
        ('{"a": 1,\n}', "j.json:2: is not valid JSON"),
        ('{"a": 1\n "b": 2}', "j.json:2: is not valid JSON: expected `,`"),
        ('{"a" 1}', "j.json:1: is not valid JSON: expected `:`"),
        ("{1: 2}", "j.json:1: expected a key in double quotes"),
        ('{"a": "x\ny"}', "j.json:1: is not valid JSON"),
        ('{"a": 1}\n{"b": 2}', "j.json:2: more follows the end of the JSON; one object a line is called .jsonl"),
        ("[1]", "j.json:1: a job is a JSON object: expected `{`"),
        ('"text"', "j.json:1: a job is a JSON object: expected `{`"),
        ('[{"a": 1}\n', "j.json:2: is not valid JSON: expected `,`"),
        ('{"a": NaN}', "j.json:1: `NaN` is not a finite number"),
        ('{"a": -Infinity}', "j.json:1: `-Infinity` is not a finite number"),
        ('{"a": 1e999}', "j.json:1: `1e999` is not a finite number"),
        ('{"a": 1' + "0" * 5_000 + "}", "j.json:1: `1000"),
        ('{"a": ' + "[" * 33 + "]" * 33 + "}", "j.json:1: is nested more than 32 levels deep"),
        ('{"a": ' + "[" * 100_000, "j.json:1: is nested more than 32 levels deep"),
        ('{"a": "\\ud800"}', "j.json:1: payload: "),
        ('{"payload": 1,\n "x": 2, "body": ""}', "j.json:1: payload: is taken as it is; move `x`, `body` into it"),
        ('{"x": 1, "body": 7}', "j.json:1: payload: `body` must be text"),
        ('{"payload": "' + "x" * 70_000 + '"}', "j.json:1: payload: 70002 bytes of JSON"),
    ],
    ids=lambda value: value[:40] if isinstance(value, str) else "",
)
def test_malformed_json_is_refused_with_its_line_and_reason(text: str, problem: str) -> None:
    assert refused(text, "j.json").startswith(problem)


def test_a_bad_line_of_json_lines_does_not_hide_the_next_and_nothing_is_submitted() -> None:
    message = refused('{"id": "a"}\n{"id": \n[]\n{"id": "b", "ttl": "x"}\n', "j.jsonl")
    assert [line.split(":")[1] for line in message.split("\n")] == ["2", "3", "4"]


def test_a_file_of_nothing_but_faults_is_told_in_twenty() -> None:
    with pytest.raises(JobFileError) as caught:
        parse_job_text("x\n" * 1_000, "j.jsonl")
    assert len(caught.value.problems) == 20
