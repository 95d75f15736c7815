"""What a person is told of an answer that had no effect: what it is about, why, and what to do next."""

from typing import Any

import pytest

from broker.answers import Answer, Reason, Word
from broker.cli import exec_command, output
from broker.cli.answers import Refused, finish
from broker.cli.exits import Exit
from broker.client.trust import NOT_SIGNED
from broker.exec import Ending, ExecResult
from tests.unit.test_call import reply

QUOTA = {"reason": "quota", "capacity": 1, "used": 1}


@pytest.mark.parametrize(
    ("answer", "problem", "step"),
    [
        (Answer(Word.NOT_FOUND, body={"job_id": "j"}), "not_found: job j", "see `broker jobs`"),
        (Answer(Word.NOT_FOUND, body={"name": "nightly"}), "not_found: schedule nightly", "broker schedule list"),
        (Answer(Word.NOT_FOUND, body={"factory": "mac-1"}), "not_found: factory mac-1", "broker factory list"),
        (Answer(Word.NOT_FOUND, body={"limit": "key:db"}), "not_found: limit key:db", "broker limit list"),
        (
            Answer(Word.DRAINING, body={"why": "update", "until_ms": 1_795_632_000_000, "job_id": "j"}),
            'draining: job j, because "update", until 2026-11-25 18:40:00Z',
            "broker factory resume",
        ),
        (
            Answer(Word.CONFLICT, Reason.HELD, {"job_id": "j", "epoch": 3, "holder": "f", "remaining_ms": 9_000}),
            "conflict (held): job j, epoch 3, held by f for another 9.0 s",
            "wait until its lease is over",
        ),
        (
            Answer(Word.REQUEST_EXPIRED, Reason.LEASE_OVER, {"job_id": "j", "epoch": 3}),
            "request_expired (lease_over): job j, epoch 3",
            "claim anew, with a new request id",
        ),
        (
            Answer(Word.INVALID, Reason.REQUEST_ID_USED, {"op": "hold", "detail": "this request id was used for hold"}),
            "invalid (request_id_used): this request id was used for hold",
            "choose another request id",
        ),
        (Answer(Word.CONFLICT, Reason.EXISTS, {"job_id": "j"}), "conflict (exists): job j", "choose another id"),
        (Answer(Word.CONFLICT, Reason.EXISTS, {"name": "n"}), "conflict (exists): schedule n", "with --replace"),
        (
            Answer(Word.NOT_CLAIMABLE, body={"reasons": ["paused"]}),
            "not_claimable (paused)",
            "wait for it with --wait; see `broker queue list`",
        ),
        (
            Answer(Word.NOT_CLAIMABLE, body={"reasons": ["quota"], "obstacles": [QUOTA | {"limit": "queue:q"}]}),
            "limit queue:q is reached",
            "wait for it with --wait",
        ),
        (
            Answer(Word.NOT_CLAIMABLE, body={"reasons": ["quota"], "obstacles": [QUOTA | {"limit": "factory:mac-1"}]}),
            "limit factory:mac-1 is reached",
            "end one of this factory's jobs, or see `broker limit list`: a claim does not wait for that",
        ),
        (
            Answer(
                Word.UNAUTHORIZED, Reason.NOT_PERMITTED, {"detail": "claim is not for a key with the role submitter"}
            ),
            "unauthorized (not_permitted): claim is not for",
            "`factory` claims, holds leases and submits",
        ),
    ],
)
def test_an_answer_says_what_it_is_about_and_what_to_do(
    capsys: pytest.CaptureFixture[str], answer: Answer, problem: str, step: str
) -> None:
    said: Any = reply(answer)
    assert finish(said, json=False, good="unused") != 0
    told = capsys.readouterr().err
    assert problem in told
    assert step in told


@pytest.mark.parametrize(
    ("reason", "told"),
    [
        (Reason.NOT_REDRIVABLE, False), (Reason.NOT_CANCELLABLE, False), (Reason.NOT_LEASED, False),
        (Reason.SCHEDULED, True),
    ],
)  # fmt: skip
def test_from_when_on_to_ask_again_is_told_where_time_changes_the_answer(
    capsys: pytest.CaptureFixture[str], reason: Reason, told: bool
) -> None:
    said: Any = reply(Answer(Word.CONFLICT, reason, {"job_id": "j"}))
    assert finish(said, json=False, good="unused") != 0
    assert ("not before" in capsys.readouterr().err) is told


FORGED = "no\nlast run    succeeded, epoch 9, mac-1"


@pytest.mark.parametrize("word", [Word.CONFLICT, Word.OK])
def test_what_a_factory_says_begins_no_line(capsys: pytest.CaptureFixture[str], word: Word) -> None:
    said: Any = reply(Answer(word, body={"detail": FORGED, "why": FORGED}))
    finish(said, json=False, good=f"job j is held: {FORGED}")
    told = capsys.readouterr()
    lines = (told.out + told.err).splitlines()
    assert len(lines) == (1 if word is Word.OK else 2)
    assert not any(line.startswith("last run") for line in lines)


def test_where_newlines_are_let_through_what_a_factory_says_begins_a_line(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The twin."""
    monkeypatch.setattr(output, "printable", lambda text: text)
    finish(reply(Answer(Word.OK)), json=False, good=f"job j is held: {FORGED}")
    assert capsys.readouterr().out.splitlines()[1].startswith("last run")


def test_of_several_grants_each_has_its_line(capsys: pytest.CaptureFixture[str]) -> None:
    finish(reply(Answer(Word.REPLAYED)), json=False, good=["one", "two"])
    assert capsys.readouterr().out == "one\ntwo (as before: this request id was known)\n"


def test_a_listing_that_is_refused_says_what_to_do_and_gives_the_answers_own_object() -> None:
    said: Any = reply(Answer(Word.UNAUTHORIZED, Reason.UNSIGNED, {"detail": "requests have to be signed here"}))
    refused = Refused(said)
    assert str(refused) == "unauthorized (unsigned): requests have to be signed here"
    assert "BROKER_KEY_FILE" in refused.next_step
    assert refused.exit == 1
    assert (refused.shown()["answer"], refused.shown()["reason"]) == ("unauthorized", "unsigned")


@pytest.mark.parametrize(
    ("answer", "status"),
    [
        (Answer(Word.REQUEST_EXPIRED, Reason.LEASE_OVER), Exit.LOST),
        (Answer(Word.REQUEST_EXPIRED), Exit.UNKNOWN),
        (Answer(Word.INVALID, Reason.REQUEST_ID_USED), Exit.REFUSED),
        (Answer(Word.THROTTLED, Reason.OVERLOADED), Exit.UNKNOWN),
        (Answer(Word.DRAINING), Exit.UNKNOWN),
    ],
)
def test_only_what_a_repetition_can_change_has_the_exit_status_of_a_repetition(answer: Answer, status: Exit) -> None:
    said: Any = reply(answer)
    assert finish(said, json=True, good="unused") == status == Refused(said).exit


@pytest.mark.parametrize(
    "answer",
    [
        Answer(Word.OUTCOME_UNKNOWN, Reason.STORE),
        Answer(Word.THROTTLED, Reason.OVERLOADED),
        Answer(Word.REQUEST_EXPIRED),
        Answer(Word.OUTCOME_UNKNOWN, body={NOT_SIGNED: True}),
    ],
)
def test_who_only_reads_is_not_told_of_a_request_id(answer: Answer, capsys: pytest.CaptureFixture[str]) -> None:
    said: Any = reply(answer)
    assert finish(said, json=False, good="unused", reads=True) == finish(said, json=False, good="unused")
    read, wrote = (line for line in capsys.readouterr().err.splitlines() if line.startswith("next: "))
    assert ("--request-id" in read, "repeat it" in read) == (False, True)
    assert "--request-id" in wrote
    assert "--request-id" not in Refused(said).next_step


@pytest.mark.parametrize("reason", ["superseded", "timed_out", "terminal", "revoked"])
def test_a_lost_lease_is_told_without_a_guess_at_who_has_the_job(
    reason: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert exec_command._told(ExecResult(Ending.LEASE_LOST, reason, "j", 3), json=False) == Exit.LOST
    told = capsys.readouterr().err
    assert f"job j, epoch 3: lease_lost ({reason})" in told
    assert "see `broker job j` for where it stands now" in told
    assert "another factory" not in told
