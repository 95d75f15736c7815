"""Histories in files: what a SIGKILL leaves, and what is no history at all."""

import os
from pathlib import Path

import msgspec
import pytest

from broker.cli import run as run_command
from broker.cli.app import build_app
from broker.history import check
from broker.history.reading import RECORD_BYTES_MAX, NotAHistory, read
from tests.history.telling import Story


def written(path: Path, story: Story) -> Path:
    path.write_bytes(b"".join(msgspec.json.encode(record) + b"\n" for record in story.records))
    return path


def forked() -> Story:
    story = Story()
    story.submit(0, 1)
    story.grant(1, 2, 3)
    story.grant(1, 2, 3, by="b", token="other")
    return story


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    status = run_command(build_app(), ["check-history", *arguments])
    out, err = capsys.readouterr()
    return status, out, err


def test_a_line_that_a_sigkill_cut_off_is_a_call_without_an_answer(tmp_path: Path) -> None:
    story = Story()
    story.submit(0, 1)
    story.grant(1, 2, 3)
    path = written(tmp_path / "h.jsonl", story)
    path.write_bytes(path.read_bytes()[:-20])
    report = check(record for records in read([path]) for record in records)
    assert (report.violations, report.calls, report.unknown, report.grants) == ((), 2, 1, 0)


@pytest.mark.parametrize("cut", [1, 3, 20, 70])
def test_a_line_that_a_full_disk_cut_off_and_another_client_wrote_on_costs_that_line_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], cut: int
) -> None:
    path = written(tmp_path / "h.jsonl", forked())
    first, *others = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(first + first[:cut] + b"".join(others))
    status, out, err = run(capsys, str(path))
    assert status == 1, "what is wrong on the lines that follow is found"
    assert f"{path}:4" in out
    assert f"{path}:2" in err


def test_of_several_lines_cut_off_one_after_the_other_the_last_record_is_read_and_a_whole_one_is_too(
    tmp_path: Path,
) -> None:
    path = written(tmp_path / "h.jsonl", forked())
    whole, *others = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(whole[:30] + whole[:50] + whole[:-1] + b"".join(others))
    assert sum(len(records) for records in read([path])) == 1 + len(others)


def test_a_line_that_was_cut_off_and_never_ended_is_no_record(tmp_path: Path) -> None:
    path = written(tmp_path / "h.jsonl", forked())
    first, *others = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(first + others[0][:20] + b"\n" + b"".join(others))
    with pytest.raises(NotAHistory, match=r"h\.jsonl:2 is not a record"):
        list(read([path]))


def test_a_broken_line_before_the_last_is_told_with_its_place(tmp_path: Path) -> None:
    path = written(tmp_path / "h.jsonl", forked())
    lines = path.read_bytes().splitlines(keepends=True)
    lines[2] = b'{"type": "what", "at": 1}\n'
    path.write_bytes(b"".join(lines))
    with pytest.raises(NotAHistory, match=r"h\.jsonl:3 is not a record"):
        list(read([path]))


def test_a_sound_history_exits_0_and_ends_with_the_counts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    story = Story()
    story.submit(0, 1)
    story.grant(1, 2, 3)
    story.hold("complete", 1, 4, 5)
    written(tmp_path / "h.jsonl", story)
    status, out, err = run(capsys, "--drained", str(tmp_path))
    assert (status, err) == (0, "")
    assert out.startswith("history: ok violations=0 calls=3 unknown=0 jobs=1 grants=1 submitted=1 completed=1 ")


def test_a_violation_exits_1_and_names_the_job_the_epoch_and_both_lines(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = written(tmp_path / "h.jsonl", forked())
    status, out, _ = run(capsys, str(path))
    assert status == 1
    first, *places, last = out.splitlines()
    assert first == "two_holders: job j epoch 1: the epoch was granted twice"
    assert [place.split()[0] for place in places] == [f"{path}:4", f"{path}:6"]
    assert last.startswith("history: broken violations=1 ")


def test_json_gives_a_violation_a_line_and_then_the_counts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = written(tmp_path / "h.jsonl", forked())
    status, out, _ = run(capsys, "--json", str(path))
    violation, counts = (msgspec.json.decode(line) for line in out.splitlines())
    assert (status, violation["rule"], violation["job"], violation["epoch"]) == (1, "two_holders", "j", 1)
    assert [(record["file"], record["line"]) for record in violation["records"]] == [(str(path), 4), (str(path), 6)]
    assert (counts["ok"], counts["violations"], counts["grants"]) == (False, 1, 2)


def test_what_goes_on_without_an_end_is_no_history_and_is_not_read_to_its_own(tmp_path: Path) -> None:
    path = tmp_path / "h.jsonl"
    path.touch()
    os.truncate(path, 8 * RECORD_BYTES_MAX)
    with pytest.raises(NotAHistory, match=r"h\.jsonl:1 is longer than any record"):
        list(read([path]))


@pytest.mark.parametrize("content", [None, b"", b"no json\n"])
def test_what_is_no_history_exits_2(tmp_path: Path, capsys: pytest.CaptureFixture[str], content: bytes | None) -> None:
    path = tmp_path / "h.jsonl"
    if content is not None:
        path.write_bytes(content)
    status, out, err = run(capsys, str(path))
    assert (status, out) == (2, "")
    assert "next: " in err


@pytest.mark.parametrize(
    "wrong",
    [
        b'{"type":"invoke","at":1,"client":"\xff"}',
        b'{"x":' + b"[" * 90_000,
        b'{"type":"ok","at":-1,"client":"x"}',
        b'{"type":"ok","at":%d,"client":"x"}' % (1 << 63),
        b'{"type":"ok","at":1,"client":"x","epoch":-1}',
        b'{"type":"ok","at":1,"client":"x","seen":-1}',
    ],
)
def test_a_line_that_is_no_text_too_deep_or_out_of_range_is_named(tmp_path: Path, wrong: bytes) -> None:
    path = tmp_path / "h.jsonl"
    path.write_bytes(b'{"type":"start","at":1,"client":"x"}\n' + wrong + b"\n")
    with pytest.raises(NotAHistory, match=r"h\.jsonl:2 is not a record"):
        list(read([path]))


def test_an_epoch_that_a_caller_made_up_is_a_record_however_high_it_is(tmp_path: Path) -> None:
    story = Story()
    story.submit(0, 1)
    story.refused("renew", 2, 3, epoch=10**30, token="t1", answer="invalid", seen=0, state="ready")
    path = written(tmp_path / "h.jsonl", story)
    assert check(record for records in read([path]) for record in records).violations == ()
