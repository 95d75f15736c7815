"""What the command line says and returns where no broker is needed to know."""

import json
import sys
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import pytest
import typer

from broker.answers import Word
from broker.cli import CommandError, run
from broker.cli.app import build_app
from broker.cli.exits import EXITS, Exit
from broker.cli.options import json_value, listed, milliseconds
from broker.cli.output import cell, moment, printable, span, table

Broker = Callable[..., tuple[int, str, str]]


@pytest.fixture
def broker(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Broker:
    """`status, out, err = broker("claim", …)`, in a folder where nothing runs."""
    monkeypatch.chdir(tmp_path)

    def run_broker(*arguments: str) -> tuple[int, str, str]:
        status = run(build_app(), arguments)
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    return run_broker


def test_every_answer_has_an_exit_status() -> None:
    assert set(EXITS) == set(Word)


@pytest.mark.parametrize(
    ("word", "status"),
    [
        (Word.GRANTED, 0),
        (Word.REPLAYED, 0),
        (Word.NOT_FOUND, 1),
        (Word.NOT_CLAIMABLE, 1),
        (Word.INVALID, 1),
        (Word.NONE_AVAILABLE, 3),
        (Word.OUTCOME_UNKNOWN, 4),
        (Word.REQUEST_EXPIRED, 4),
        (Word.THROTTLED, 4),
        (Word.CONFLICT, 5),
        (Word.LEASE_LOST, 5),
        (Word.ALREADY_TERMINAL, 5),
    ],
)
def test_exit_statuses_are_those_of_the_documentation(word: Word, status: int) -> None:
    assert EXITS[word] == status


def test_the_documentation_names_every_answer() -> None:
    text = (Path(__file__).parents[2] / "docs" / "cli.md").read_text(encoding="utf-8")
    assert [word.value for word in Word if f"`{word.value}`" not in text] == []


def test_without_a_broker_a_command_says_how_to_get_one(broker: Broker) -> None:
    status, out, err = broker("jobs")
    assert (status, out) == (1, "")
    assert 'run "broker up" or set BROKER_REDIS_URL' in err


def test_the_way_to_get_a_broker_names_the_folder_it_was_looked_for_in(broker: Broker) -> None:
    _, _, err = broker("jobs", "--state-dir", "some where")
    assert "run \"broker up --state-dir 'some where'\" or set BROKER_REDIS_URL" in err


def test_a_file_in_that_folder_that_nobody_of_ours_wrote_stands_for_no_broker(broker: Broker, tmp_path: Path) -> None:
    (tmp_path / "up.json").write_text("[" * 200_000)
    status, out, err = broker("jobs", "--state-dir", str(tmp_path))
    assert (status, out) == (1, "")
    assert f"no broker runs in {tmp_path}" in err


def test_an_error_is_an_object_with_json(broker: Broker) -> None:
    status, out, err = broker("jobs", "--json")
    assert (status, err) == (1, "")
    shown = json.loads(out)
    assert set(shown) == {"error", "next"}
    assert "broker up" in shown["next"]


def test_json_after_the_dashes_belongs_to_the_command_that_exec_runs(broker: Broker) -> None:
    status, out, err = broker("exec", "--factory", "f", "--", "ls", "--json")
    assert (status, out) == (1, "")
    assert "error: no broker runs" in err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["clam"], "Did you mean 'claim'?"),
        (["claim", "--bogus"], "No such option"),
        (["claim"], "--factory NAME"),
        (["claim", "--factory", "f", "--wait", "soon"], "not a duration"),
        (["claim", "--factory", "f", "--ttl", "-1"], "not a number of seconds"),
        (["claim", "--factory", "f", "--ttl", "0.5"], "0.5: 1 to 86400 seconds"),
        (["claim", "--factory", "f", "--wait", "61"], "61: 0 to 60 seconds"),
        (["complete", "j", "--factory", "f", "--epoch", "0", "--token", "t"], "--epoch"),
        (["complete", "j", "--factory", "f", "--epoch", "1", "--token", "t", "--result", "{x"], "not JSON"),
        (["complete", "j", "--factory", "f", "--epoch", "1", "--token", "t", "--result", "NaN"], "NaN is not JSON"),
        (["complete", "j", "--factory", "f", "--epoch", "1", "--token", "t", "--result", "@gone"], "can't read"),
        (["jobs", "--state", "done"], "--state"),
        (["jobs", "--redis", "http://x"], "redis://"),
        (["jobs", "--redis", "redis://localhost:1/?foo=1"], "there is no option foo"),
        (["renew-many", "[]", "--factory", "f"], "holds no lease: there is nothing to renew"),
        (["renew-many", "1", "--factory", "f"], "an array of objects with job_id, epoch and token"),
        (["renew-many", '{"answer":"none_available"}', "--factory", "f"], "with job_id, epoch and token"),
        (["renew-many", '[{"job_id":"j"}]', "--factory", "f"], "with job_id, epoch and token"),
        (["check-store", "mysql://x"], "memory://"),
        (["completion", "tcsh"], "bash"),
        (["submit", "--format", "xml", "x"], "markdown"),
        (["submit", "--set", "que=builds", "x"], "que can't be set: only keys that docs/job-files.md gives a meaning"),
        (["submit", "--set", "timeout=400d", "x"], "timeout: `400d`: at most 365 days"),
    ],
)
def test_a_wrong_command_line_is_status_2_and_says_what_is_wrong(
    broker: Broker, arguments: list[str], said: str
) -> None:
    status, out, err = broker(*arguments)
    assert (status, out) == (2, "")
    assert err.startswith("error: ")
    assert said in err
    assert "\nnext: " in err


@pytest.mark.parametrize("group", ["limit", "queue", "factory", "schedule"])
def test_a_group_without_a_command_says_so_under_its_help(broker: Broker, group: str) -> None:
    status, out, err = broker(group)
    assert (status, f"Usage: broker {group}" in out) == (2, True)
    assert err == f"error: a command is missing\nnext: see `broker {group} --help`\n"


def test_a_wrong_variable_is_named(broker: Broker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BROKER_TTL_MS", "soon")
    status, _, err = broker("jobs")
    assert status == 2
    assert "BROKER_TTL_MS" in err


@pytest.mark.parametrize(
    ("environ", "told"),
    [
        ({"BROKER_LOG_LEVEL": "loud"}, "error: BROKER_LOG_LEVEL: 'loud' is none of CRITICAL, "),
        ({"BROKER_WIRE": "pigeon"}, "error: BROKER_WIRE: Input should be 'rq' or 'intake'"),
        ({"BROKER_SKEW_MS": "60000"}, "error: BROKER_SKEW_MS must be below BROKER_TTL_MS"),
        ({"BROKER_TTL_MS": "0", "BROKER_QUEUE_MAX": "1"}, ", and BROKER_QUEUE_MAX: "),
    ],
)
def test_wrong_variables_are_told_in_the_error_and_not_as_what_to_do_next(
    broker: Broker, monkeypatch: pytest.MonkeyPatch, environ: dict[str, str], told: str
) -> None:
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    status, _, err = broker("jobs")
    assert (status, told in err) == (2, True), err
    assert err.endswith("\nnext: correct the variable, or unset it\n")


def test_a_redis_that_is_down_is_status_1(broker: Broker, tmp_path: Path) -> None:
    status, _, err = broker("jobs", "--redis", f"unix://{tmp_path}/nobody.sock", "--timeout", "0.2")
    assert status == 1
    assert "BROKER_REDIS_URL" in err


def test_the_environment_of_exec_stands_in_for_what_a_holder_has_to_say(
    broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in (("JOB_ID", "j"), ("LEASE_EPOCH", "1"), ("LEASE_TOKEN", "0" * 32), ("FACTORY", "f")):
        monkeypatch.setenv(f"BROKER_{name}", value)
    status, _, err = broker("renew")
    assert status == 1
    assert "no broker runs" in err


def unexpected() -> typer.Typer:
    app = build_app()

    @app.command()
    def stumble() -> None:
        raise LookupError("a mistake of ours")

    return app


def test_an_unexpected_error_shows_no_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(unexpected(), ["stumble"]) == 1
    said = capsys.readouterr().err
    assert "unexpected LookupError: a mistake of ours" in said
    assert "Traceback" not in said
    assert "BROKER_DEBUG=1" in said


def test_an_unexpected_error_is_raised_to_whoever_debugs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BROKER_DEBUG", "1")
    with pytest.raises(LookupError):
        run(unexpected(), ["stumble"])


def test_a_message_of_ours_is_split_into_the_problem_and_the_advice() -> None:
    error = CommandError.from_text("it is down; it really is; start it", otherwise="-")
    assert (str(error), error.next_step, error.exit) == ("it is down; it really is", "start it", Exit.REFUSED)
    assert CommandError.from_text("it is down", otherwise="start it").next_step == "start it"


def test_check_store_names_every_promise(broker: Broker) -> None:
    status, out, _ = broker("check-store", "memory://", "--json")
    assert status == 0
    found = [json.loads(line) for line in out.splitlines()]
    assert len(found) > 10
    assert "bogus" in found[0]["check"]
    assert all(set(each) == {"check", "ok", "failure"} and each["ok"] for each in found)


def test_check_store_on_a_place_that_cannot_be_opened_is_status_1(broker: Broker, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    status, _, err = broker("check-store", f"sqlite:///{tmp_path}/file/jobs.db")
    assert status == 1
    assert err.startswith("error: ")


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_prints_a_script(broker: Broker, shell: str) -> None:
    status, out, _ = broker("completion", shell)
    assert status == 0
    assert "_BROKER_COMPLETE" in out


def test_bad_job_files_are_named_with_their_lines_and_nothing_is_sent(broker: Broker, tmp_path: Path) -> None:
    (tmp_path / "bad.md").write_text("---\npriority: high\n---\ntext")
    (tmp_path / "bad.jsonl").write_text('{"payload": 1}\n{"queue": 7}\n')
    status, out, err = broker("submit", "bad.md", "bad.jsonl", "missing.md")
    assert (status, out) == (1, "")
    assert "bad.md:2: priority" in err
    assert "bad.jsonl:2: queue" in err
    assert "missing.md:1: can't be read" in err


def test_a_bad_job_file_is_an_object_with_json(broker: Broker, tmp_path: Path) -> None:
    (tmp_path / "bad.md").write_text("---\npriority: high\n---\ntext")
    status, out, _ = broker("submit", "bad.md", "--json")
    shown = json.loads(out)
    assert status == 1
    assert (shown["file"], shown["line"]) == ("bad.md", 2)


@pytest.mark.parametrize(
    ("text", "ms"), [("5", 5_000), ("0", 0), ("0.5", 500), ("90s", 90_000), ("3m", 180_000), ("1h30m", 5_400_000)]
)
def test_times_are_seconds_or_durations(text: str, ms: int) -> None:
    assert milliseconds(text) == ms


@pytest.mark.parametrize("text", ["-1", "nan", "inf", "1e12", "soon", ""])
def test_what_is_no_time_is_refused(text: str) -> None:
    with pytest.raises(typer.BadParameter):
        milliseconds(text)


def test_several_values_may_stand_in_one_option_or_in_many() -> None:
    assert listed(["os=linux,gpu", " mem_gb=32 "]) == ["os=linux", "gpu", "mem_gb=32"]
    assert listed(None) == []


def test_a_json_value_may_come_from_a_file(tmp_path: Path) -> None:
    (tmp_path / "result.json").write_text('{"ok": true}')
    assert json_value(f"@{tmp_path / 'result.json'}") == {"ok": True}


def test_what_a_job_says_cannot_steer_the_terminal() -> None:
    assert printable("\x1b[31mred\x9b\u202e") == "\\x1b[31mred\\x9b\\u202e"
    assert cell("two\nlines") == "two lines"
    assert printable("two\n\tlines") == "two\\n\\tlines"
    assert len(cell("long" * 100)) == 60


@pytest.mark.parametrize(("terminal", "drawn"), [("80", True), ("30", False)])
def test_a_table_that_a_narrow_terminal_would_fold_to_letters_is_plain_columns(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, terminal: str, drawn: bool
) -> None:
    monkeypatch.setenv("COLUMNS", terminal)
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    table(("JOB", "STATE", "UPDATED"), [("nightly", "succeeded", "2026-11-26 06:51:20Z")])
    lines = capsys.readouterr().out.splitlines()
    plain = ["JOB      STATE      UPDATED", "nightly  succeeded  2026-11-26 06:51:20Z"]
    assert (lines == plain) is not drawn


def test_a_table_without_a_terminal_is_plain_columns(capsys: pytest.CaptureFixture[str]) -> None:
    table(("JOB", "STATE"), [("build-42", "ready"), ("x", None)])
    assert capsys.readouterr().out == "JOB       STATE\nbuild-42  ready\nx         -\n"


@pytest.mark.parametrize(
    ("ms", "text"),
    [(0, "0.0 s"), (1_500, "1.5 s"), (60_000, "1 min 0 s"), (59_999, "1 min 0 s"), (3_720_000, "1 h 2 min")],
)
def test_a_span_reads_well(ms: int, text: str) -> None:
    assert span(ms) == text


def test_a_moment_is_utc() -> None:
    assert moment(1_700_000_000_000) == "2023-11-14 22:13:20Z"
    assert moment(None) is None


def test_a_choice_that_there_is_not_is_told_without_the_terms_of_the_library(broker: Broker) -> None:
    status, _, err = broker("jobs", "--state", "lost")
    assert status == Exit.USAGE
    assert err.startswith("error: Invalid value for '--state': 'lost' is not one of")


@pytest.mark.parametrize("command", ["exec", "agent"])
def test_the_help_gives_a_default_in_the_unit_of_its_option_and_wraps_by_the_terminal(
    broker: Broker, command: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    status, out, _ = broker(command, "--help")
    lines = [line.strip() for line in out.splitlines()]
    assert status == 0
    assert [line for line in lines if "CMD has to stop; default 10 seconds." in line]
    assert "10000" not in out
    told = [line for line in lines if "With --json" in line]
    assert len(told) == 1
    assert len(told[0]) < 200


def test_the_version_is_that_of_the_installed_package(broker: Broker) -> None:
    status, out, _ = broker("--version")
    assert (status, out) == (0, f"broker {version('claim-broker')}\n")


def test_the_help_of_jobs_names_its_states_in_words(broker: Broker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    assert "blocked, scheduled, ready, leased, succeeded, failed, cancelled" in broker("jobs", "--help")[1]
