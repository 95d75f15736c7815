"""What a person is told of an answer that had no effect: what it is about, why, and what to do next."""

from typing import Any

import pytest

from broker.answers import Answer, Reason, Word
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


def test_a_listing_that_is_refused_says_what_to_do_and_gives_the_answers_own_object() -> None:
    said: Any = reply(Answer(Word.UNAUTHORIZED, Reason.UNSIGNED, {"detail": "requests have to be signed here"}))
    refused = Refused(said)
    assert str(refused) == "unauthorized (unsigned): requests have to be signed here"
    assert "BROKER_KEY_FILE" in refused.next_step
    assert refused.exit == 1
    assert (refused.shown()["answer"], refused.shown()["reason"]) == ("unauthorized", "unsigned")
