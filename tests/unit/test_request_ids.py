"""The same request id from two factories is two requests: neither is answered with what became of the other."""

from typing import Any

import pytest

from broker.answers import Answer, Word
from broker.messages import REQUESTS
from broker.settle import settle
from tests.unit.desk import NOW, Desk

ID = "the-same"


@pytest.fixture
def desk() -> Desk:
    made = Desk()
    made.submit()
    return made


def ask(desk: Desk, op: str, by: str, request_id: str = ID, **body: Any) -> Answer:
    address = {"factory_id": by, "incarnation": "start-1", "instance": "x"}
    request = {"op": op, "request_id": request_id, **address, "body": {"job_id": "job", **body}}
    return settle(desk.context, REQUESTS.validate_python(request), now_ms=NOW).answer


def held(desk: Desk, by: str) -> dict[str, Any]:
    """What a holder says of its lease, which it has just been granted."""
    fence = desk.claim(by=by)
    return {"epoch": fence.epoch, "token": fence.token}


@pytest.mark.parametrize(
    ("op", "said", "word"),
    [
        ("complete", {"result": 1}, Word.OK),
        ("fail", {"error": "broke"}, Word.OK),
        ("release", {}, Word.OK),
        ("hand_over", {"to": "h"}, Word.OK),
        ("renew", {}, Word.RENEWED),
        ("progress", {"progress": 1}, Word.OK),
    ],
)
@pytest.mark.parametrize("earlier", ["release", "hold"])
def test_what_a_holder_asks_is_carried_out_though_another_factory_has_used_its_id(
    desk: Desk, earlier: str, op: str, said: dict[str, Any], word: Word
) -> None:
    if earlier == "release":
        assert ask(desk, "release", "f", **held(desk, "f")).word is Word.OK
    fence = held(desk, "g")
    if earlier == "hold":
        assert ask(desk, "hold", "operator").word is Word.OK
    assert ask(desk, op, "g", **fence, **said).word is word
    if word is Word.OK and op != "progress":
        assert ask(desk, op, "g", **fence, **said).word is Word.REPLAYED


def test_a_claim_is_granted_though_another_factory_has_claimed_under_its_id(desk: Desk) -> None:
    for factory in ("f", "g"):  # the second while `last_end` still tells of the first
        granted = ask(desk, "claim", factory)
        assert granted.word is Word.GRANTED
        fence = {name: granted.body[name] for name in ("epoch", "token")}
        assert ask(desk, "release", factory, f"end-{factory}", **fence).word is Word.OK
    assert ask(desk, "release", "h", "end-h", **held(desk, "h")).word is Word.OK
    assert ask(desk, "claim", "k").word is Word.GRANTED, "also where only the remembered claims tell"
    for factory in ("f", "g"):
        assert ask(desk, "claim", factory).word is Word.REQUEST_EXPIRED, "a stray copy of its own"


@pytest.mark.parametrize("op", ["cancel", "revoke", "hold", "lift", "redrive"])
def test_what_an_operator_asks_is_carried_out_though_another_has_used_its_id(desk: Desk, op: str) -> None:
    for operator in ("one", "two"):
        if op in ("cancel", "revoke") and desk.job().lease is None:
            desk.claim()
        if op == "redrive":
            desk.ask("cancel", job_id="job")
        assert ask(desk, op, operator).word is Word.OK
    for operator in ("one", "two"):
        assert ask(desk, op, operator).word is Word.REPLAYED
