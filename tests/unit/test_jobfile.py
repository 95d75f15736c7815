"""Job files: what people write becomes a submission, and what is wrong is told with its line."""

import json
from pathlib import Path
from typing import Any

import pytest

from broker.jobfile import (
    JobFileError,
    duration_ms,
    parse_job_bytes,
    parse_job_text,
    read_job_file,
)
from broker.messages import SubmitBody

ROOT = Path(__file__).parents[2]
NOW_MS = 1_700_000_000_000


def front(*lines: str, body: str = "Do it.\n") -> str:
    return "\n".join(["---", *lines, "---", body])


def only(text: str, source: str = "job.md", now_ms: int | None = None) -> dict[str, Any]:
    """The body of the one job in a text."""
    (submission,) = parse_job_text(text, source, now_ms=now_ms)
    return dict(submission.body)


def params(*lines: str) -> dict[str, Any]:
    payload = only(front(*lines))["payload"]
    found: dict[str, Any] = payload["params"]
    return found


def refused(text: str, source: str = "job.md") -> str:
    with pytest.raises(JobFileError) as caught:
        parse_job_text(text, source)
    return str(caught.value)


# The job file of the seed


def test_the_seed_becomes_a_requirement_a_lock_a_deadline_and_a_payload() -> None:
    path = ROOT / "tests/data/job.md"
    (submission,) = read_job_file(path)
    body = dict(submission.body)
    payload: Any = body.pop("payload")
    assert body == {"requires": ["engine=devin"], "locks": ["common-plat"], "timeout_ms": 3 * 3_600_000}
    assert payload["params"] == {"cwd": "/Users/sd9235/code/mygh/learning_ai_common_plat", "yolo": True}
    assert payload["body"] == path.read_text("utf-8").split("---\n", 2)[2]
    assert payload["body"].startswith("ROLE: Senior distributed-systems engineer.")
    assert (submission.source, submission.line) == (str(path), 1)


@pytest.mark.parametrize("path", sorted((ROOT / "examples/jobs").iterdir()), ids=lambda path: path.name)
def test_each_example_is_a_submission_that_the_broker_takes(path: Path) -> None:
    submissions = read_job_file(path, now_ms=NOW_MS)
    assert submissions
    for submission in submissions:
        SubmitBody.model_validate_json(json.dumps(submission.body))


def test_every_key_with_a_meaning_travels_under_its_own_name_and_the_rest_is_params() -> None:
    text = front(
        "id: build-1",
        "queue: builds",
        "priority: -5",
        "engine: claude code",
        "requires: os=linux gpu mem_gb>=16",
        "lock: [repo, 'path with space']",
        "depends_on: [a, b]",
        "not_before: 2026-01-31T18:00:00Z",
        "timeout: 1h30m",
        "ttl: 90",
        "max_failures: 2",
        "max_expiries: 4",
        "labels: {team: core}",
        "que: misspelt",
    )
    assert only(text) == {
        "job_id": "build-1",
        "queue": "builds",
        "priority": -5,
        "requires": ["engine=claude code", "os=linux", "gpu", "mem_gb>=16"],
        "locks": ["repo", "path with space"],
        "depends_on": ["a", "b"],
        "not_before_ms": 1_769_882_400_000,
        "timeout_ms": 5_400_000,
        "ttl_ms": 90_000,
        "max_failures": 2,
        "max_expiries": 4,
        "labels": {"team": "core"},
        "payload": {"params": {"que": "misspelt"}, "body": "Do it.\n"},
    }


# The shape of a Markdown file


def test_a_byte_order_mark_and_windows_line_ends_make_no_difference() -> None:
    plain = front("engine: devin", body="one\ntwo\n")
    assert parse_job_text("\ufeff" + plain.replace("\n", "\r\n"), "job.md") == parse_job_text(plain, "job.md")
    assert parse_job_bytes(b"\xef\xbb\xbf" + plain.encode(), "job.md") == parse_job_text(plain, "job.md")


@pytest.mark.parametrize("text", ["[]", " [ ]\n"])
def test_an_array_without_a_job_is_no_job_file(text: str) -> None:
    with pytest.raises(JobFileError, match=r"jobs.json:1: holds no job: the array is empty"):
        parse_job_text(text, "jobs.json")


def test_an_empty_body_and_an_empty_front_matter_are_fine() -> None:
    assert only("---\nid: a\n---")["payload"] == {"params": {}, "body": ""}
    assert only("---\n---\nDo it.") == {"payload": {"params": {}, "body": "Do it."}}
    assert only(front("id:", "queue: ~", "note:")) == {"payload": {"params": {"note": None}, "body": "Do it.\n"}}


def test_a_line_of_dashes_in_the_body_belongs_to_the_body() -> None:
    assert only("---\nid: a\n---\none\n---\ntwo: [\n")["payload"] == {"params": {}, "body": "one\n---\ntwo: [\n"}


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "job.md:1: is empty"),
        ("Do it.\n", "job.md:1: expected `---`"),
        ("\n---\nid: a\n---\n", "job.md:1: expected `---`"),
        ("---\nid: a\n", "job.md:1: the front matter is never closed"),
        (front("- id"), "job.md:2: expected lines `key: value`"),
        (front("id: a", "just words"), "job.md:3: is not valid YAML: could not find expected"),
        (front("id: a", "title: x: y"), "job.md:3: is not valid YAML: mapping values are not allowed here"),
        (front("id: a", "", "# a comment", "id: b"), "job.md:5: the key `id` stands twice"),
        (front("a:", "  b: 1", "  c: 2", "  b: 3"), "job.md:5: the key `b` stands twice"),
        (front("a: 1", "yes: 2"), "job.md:3: the key `yes` is not text for YAML; put it in quotes"),
        (front("a: 1", "7: 2"), "job.md:3: the key `7` is not text"),
        (front("a: 1", "? [b]", ": 2"), "job.md:3: the key is not text"),
        (front("a: 1", "<<: {b: 2}"), "job.md:3: the key `<<` is not text"),
        (front("a: &x 1"), "job.md:2: aliases and anchors"),
        (front("a: 1", "b: *x"), "job.md:3: aliases and anchors"),
        (front("a: !!python/object/apply:os.system [ls]"), "job.md:2: tags"),
        (front("a: !secret x"), "job.md:2: tags"),
        (front("a:", "  - .nan"), "job.md:3: `.nan` is not a finite number"),
        (front("a: -.Inf"), "job.md:2: `-.Inf` is not a finite number"),
        (front("mode: 0755"), "job.md:2: `0755` would be read as an octal number; put it in quotes"),
        (front("a: 99999999999999999999"), "job.md:2: `99999999999999999999` does not fit into 64 bits"),
        (front("a: " + "9" * 5_000), "job.md:2: `999999"),
        (front("day: 2026-02-31"), "job.md:2: day is out of range for month; put it in quotes"),
        (front("a: 1", "b: " + "[" * 40 + "]" * 40), "job.md:3: is nested more than 32 levels deep"),
        (front("b: " + "[" * 8_000), "job.md:2: is nested more than 32 levels deep"),
        (front("a: " + "x" * 20_000), "job.md:1: the front matter is larger than 16384 bytes"),
        (front("a: 1", "b: \x07"), "job.md:3: holds a character that YAML does not take"),
        (front("a: 1", 'b: "\\UFFFFFFFF"'), "job.md:3: is not valid YAML: an escape"),
        (front("a: 1", 'b: "\\U00110000"'), "job.md:3: is not valid YAML: an escape"),
        (front("a: 1", body="\ud800"), "job.md:4: holds half of a surrogate pair"),
        (front("a: 1", body="x" * 70_000), "job.md:1: payload: 70028 bytes of JSON; at most 65536"),
        (front("id: a", "timeout: 366d"), "job.md:3: timeout: `366d`: at most 365 days"),
        (front("ttl: 500ms"), "job.md:2: ttl: `500ms`: from 1 s to 24 h"),
        (front("ttl_ms: 500"), "job.md:2: ttl_ms: `500`: input should be greater than or equal to 1000"),
        (front("not_before: '2200-01-01T00:00Z'"), "job.md:2: not_before: `2200-01-01T00:00Z`: a time between 1970"),
    ],
    ids=lambda value: value[:40].encode("ascii", "replace").decode() if isinstance(value, str) else "",
)
def test_a_malformed_file_is_refused_with_its_line_and_reason(text: str, problem: str) -> None:
    assert refused(text).startswith(problem)


def test_lines_are_those_of_the_file_whatever_breaks_lines_elsewhere() -> None:
    assert refused(front("a: 'x\u2028y\x85z'", "id: a b")).startswith("job.md:3: id: `a b`")
    assert refused("\ufeff" + front("a: 1", "id: a b").replace("\n", "\r\n")).startswith("job.md:3: id: `a b`")


# YAML's surprises


def test_what_yaml_reads_in_surprising_ways_is_json_in_the_payload() -> None:
    assert params(
        "yolo: yes",
        "state: 'off'",
        "at: 12:30",
        "long: 1:30.5",
        "day: 2026-01-31",
        "moment: 2026-01-31 18:00:00 +02:00",
        "hex: 0x1F",
        "grouped: 1_000",
        "share: .5",
        "version: 1.2.3",
        "equals: =",
        "nested: {a: [1, ~, {b: 2026-01-31}]}",
    ) == {
        "yolo": True,
        "state": "off",
        "at": "12:30",
        "long": "1:30.5",
        "day": "2026-01-31",
        "moment": "2026-01-31T18:00:00+02:00",
        "hex": 31,
        "grouped": 1000,
        "share": 0.5,
        "version": "1.2.3",
        "equals": "=",
        "nested": {"a": [1, None, {"b": "2026-01-31"}]},
    }


# Values


@pytest.mark.parametrize(
    ("value", "milliseconds"),
    [
        ("3h", 10_800_000),
        ("90m", 5_400_000),
        ("45s", 45_000),
        ("1h30m", 5_400_000),
        ("1H 30M", 5_400_000),
        ("2d", 172_800_000),
        ("500ms", 500),
        ("1d2h3m4s5ms", 93_784_005),
        (90, 90_000),
        ("90", 90_000),
        (1.5, 1_500),
    ],
)
def test_a_duration_is_read_in_the_units_people_write(value: str | float, milliseconds: int) -> None:
    assert duration_ms(value) == milliseconds


@pytest.mark.parametrize(
    "value",
    ["", " ", "3 hours", "h", "-3h", "0s", 0, -1, True, None, "30m1h", "1:30", "1.5h", "٣h", [1], float("-inf")],
)
def test_what_is_no_duration_is_refused_with_examples(value: Any) -> None:
    with pytest.raises(ValueError, match="is not a duration: write 3h, 90m"):
        duration_ms(value)


def test_a_huge_duration_is_refused_and_not_rounded_into_a_valid_one() -> None:
    assert "timeout: " in refused(front("timeout: 1" + "0" * 18))
    assert "timeout: " in refused(front("timeout: 999999999d"))
    assert "ttl: " in refused(front("ttl: 1ms"))


@pytest.mark.parametrize(
    ("line", "requires"),
    [
        ("requires: os=linux gpu", ["os=linux", "gpu"]),
        ("requires: [os=linux, gpu, os=linux]", ["os=linux", "gpu"]),
        ("requires: {os: linux, gpu: yes, cpus: 8, mem_gb: '>= 16'}", ["os=linux", "gpu", "cpus=8", "mem_gb>=16"]),
        ("requires: [lang=go, lang=py]", ["lang=go", "lang=py"]),
        ("requires: mem_gb<64 url=a=b", ["mem_gb<64", "url=a=b"]),
    ],
)
def test_requirements_may_be_text_a_list_or_a_mapping(line: str, requires: list[str]) -> None:
    assert only(front(line))["requires"] == requires
    assert only(front("engine: devin", line))["requires"] == ["engine=devin", *requires]


@pytest.mark.parametrize(
    "line",
    [
        "requires: os=",
        "requires: os!=linux",
        "requires: mem_gb=>16",
        "requires: mem_gb>=much",
        "requires: mem_gb >= 16",
        "requires: {gpu: no}",
        "requires: {python: 3.10}",
        "requires: {a b: c}",
        "requires: [[a]]",
        "requires: 7",
        "requires: " + "k" * 65,
        "engine: yes",
        "engine: 3.5",
        "engine: '>=3'",
        "engine: ''",
        "engine: [devin]",
        "id: 42",
        "id: a b",
        "id: ../a",
        "id: " + "a" * 129,
        "queue: a:b",
        "queue: " + "q" * 65,
        "priority: high",
        "priority: 1001",
        "priority: -1001",
        "priority: yes",
        "priority: 1.0",
        "lock: ''",
        "lock: ' a'",
        'lock: "a\\nb"',
        "lock: [1]",
        "lock: " + "k" * 257,
        "depends_on: a b",
        "depends_on: [a, 7]",
        "max_failures: 0",
        "max_expiries: none",
        "labels: [a]",
        "labels: {year: 2026}",
        "not_before: soon",
        "not_before: 1700000000",
        "not_before: 1969-12-31T23:59:59Z",
        "not_before: 0001-01-01T00:00:00+23:59",
        "not_before: 9999-12-31T23:59:59-23:59",
        "timeout_ms: 3h",
        "ttl: 1d1ms",
    ],
)
def test_a_value_outside_its_rule_is_refused_by_name_on_its_line(line: str) -> None:
    key = line.partition(":")[0]
    message = refused(front("note: x", line))
    assert message.startswith(f"job.md:3: {key}: ")
    assert "\n" not in message


def test_a_moment_needs_a_zone_and_a_relative_one_needs_the_time() -> None:
    assert only(front("not_before: 2026-01-31T20:00:00+02:00"))["not_before_ms"] == 1_769_882_400_000
    assert only(front("not_before: +10m"), now_ms=NOW_MS)["not_before_ms"] == NOW_MS + 600_000
    assert "add" not in refused(front("not_before: +10m"))
    assert "Z for UTC" in refused(front("not_before: 2026-01-31T20:00:00"))
    assert "Z for UTC" in refused(front("not_before: 2026-01-31"))


def test_a_job_can_not_depend_on_itself_nor_say_one_thing_under_two_names() -> None:
    assert "depends on itself" in refused(front("id: a", "depends_on: [b, a]"))
    assert "job.md:3: locks: stands twice, also as `lock`" in refused(front("lock: a", "locks: [b]"))


def test_all_that_is_wrong_with_a_file_is_told_at_once_in_order() -> None:
    with pytest.raises(JobFileError) as caught:
        parse_job_text(front("priority: 5000", "id: a b", "timeout: soon"), "job.md")
    assert [problem.line for problem in caught.value.problems] == [2, 3, 4]
    assert str(caught.value).count("job.md:") == 3
    assert (caught.value.source, caught.value.line) == ("job.md", 2)


def test_a_reason_never_carries_what_a_terminal_would_obey() -> None:
    message = refused('{"id": "\\u001b[2J\\ud800"}', "job.json")
    assert message.isprintable()


def test_a_submission_that_was_read_can_be_written_as_json_and_read_again() -> None:
    body = only(front("id: a", "engine: devin", "lock: x", "timeout: 3h", "not_before: 2026-01-31T18:00:00Z", "n: 1"))
    assert only(json.dumps(body), "job.json") == body


# Which format, and files that can't be read


@pytest.mark.parametrize(
    ("text", "source", "jobs"),
    [
        (front("id: a"), "<stdin>", 1),
        ('{"id": "a"}', "<stdin>", 1),
        ('{\n"id": "a"\n}', "<stdin>", 1),
        ('\n [{"id": "a"}, {}]', "-", 2),
        ('{"id": "a"}\n{"id": "b"}\n', "-", 2),
        ('{"id": "a"}\n{"id": "b"}\n', "jobs.NDJSON", 2),
        (front("id: a"), "notes.markdown", 1),
        (front("id: a"), "job.txt", 1),
    ],
)
def test_the_suffix_tells_the_format_and_else_the_first_characters(text: str, source: str, jobs: int) -> None:
    assert len(parse_job_text(text, source)) == jobs


def test_a_format_that_is_given_wins_over_the_suffix() -> None:
    assert [job.body for job in parse_job_text('{"id": "a"}', "job.md", "json")] == [
        {"job_id": "a", "payload": {"params": {}, "body": ""}}
    ]


def test_a_file_that_can_not_be_read_is_told_like_any_other_fault(tmp_path: Path) -> None:
    latin = tmp_path / "latin.md"
    latin.write_bytes(front("a: 1", body="caf\xe9").encode("latin-1"))
    with pytest.raises(JobFileError, match=r"latin\.md:4: is not UTF-8 \(byte 0xe9\)"):
        read_job_file(latin)
    with pytest.raises(JobFileError, match=r"missing\.md:1: can't be read: No such file"):
        read_job_file(tmp_path / "missing.md")
    with pytest.raises(JobFileError, match="can't be read: Is a directory"):
        read_job_file(tmp_path)
    with pytest.raises(JobFileError, match="can't be read"):
        read_job_file("a\0b")
    with pytest.raises(JobFileError, match="is larger than 16777216 bytes"):
        parse_job_bytes(b" " * 16_777_217, "big.md")
