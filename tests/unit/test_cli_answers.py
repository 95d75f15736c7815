"""What a person is told of an answer that had no effect: what it is about, why, and what to do next."""

from typing import Any

import pytest

from broker.answers import Answer, Reason, Word
from broker.cli import output
from broker.cli.answers import Refused, finish
from tests.unit.test_call import reply


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
        (Answer(Word.CONFLICT, Reason.EXISTS, {"job_id": "j"}), "conflict (exists): job j", "choose another id"),
        (Answer(Word.CONFLICT, Reason.EXISTS, {"name": "n"}), "conflict (exists): schedule n", "with --replace"),
        (
            Answer(Word.NOT_CLAIMABLE, body={"reasons": ["paused"]}),
            "not_claimable (paused)",
            "wait for it with --wait; see `broker queue list`",
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
