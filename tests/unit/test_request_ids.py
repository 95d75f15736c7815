"""The same request id from two factories is two requests: neither is answered with what became of the other."""

from typing import Any

import pytest

from broker.answers import Answer, Word
from broker.exclusion import Slots
from broker.messages import REQUESTS
from broker.settle import settle
from broker.shared_document import read_body
from broker.slots import slot_id
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


def slots_of(desk: Desk, by: str) -> Slots:
    """Those of a claim under the same id."""
    return Slots.of(desk.store, desk.context.entropy, desk.job("locked"), epoch=1, request_id=ID, factory_id=by)


def test_a_claim_that_steps_back_leaves_the_slots_of_another_factorys_claim_under_its_id(desk: Desk) -> None:
    desk.submit("locked", locks=["lock"])
    mine, theirs = slots_of(desk, "f"), slots_of(desk, "g")
    assert [mine.take(now_ms=NOW), theirs.take(now_ms=NOW)] == [None, None], "the job decides between them"
    mine.step_back()
    assert theirs.confirm()
    assert not mine.confirm()


def test_a_slot_says_which_of_two_factories_with_one_request_id_holds_it(desk: Desk) -> None:
    desk.submit("locked", locks=["lock"])
    assert slots_of(desk, "f").take(now_ms=NOW) is None
    granted = ask(desk, "claim", "g", job_id="locked")
    assert granted.word is Word.GRANTED
    body: Any = read_body(desk.store, slot_id("lock"))
    assert [each["factory_id"] for each in body["holders"] if each["confirmed"]] == ["g"]
    fence = {name: granted.body[name] for name in ("epoch", "token")}
    assert ask(desk, "release", "g", "end", job_id="locked", **fence).word is Word.OK
    body = read_body(desk.store, slot_id("lock"))
    assert [each["factory_id"] for each in body["holders"]] == ["f"]
