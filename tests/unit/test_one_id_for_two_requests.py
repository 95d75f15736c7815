"""A request id that a factory has used for one thing does nothing else, and the answer says so."""

from typing import Any

import pytest

from broker import factories, operating, schedules
from broker.answers import Answer, Reason, Retry, Word
from broker.asked import Asked
from broker.documents import Job
from broker.fence import FenceOk, UsedToClaim, check
from broker.messages import REQUESTS
from broker.settle import settle
from broker.transitions import Decision, Replay, decision, operator
from datastore import Expected, Ok
from tests.unit.desk import NOW, Desk

JOB = {"job_id": "job"}
TICK = {"name": "tick", "cron": "* * * * *", "job": {}}
PAIRS: list[tuple[str, dict[str, Any], str, dict[str, Any]]] = [
    ("pause_queue", {"queue": "re"}, "resume_queue", {"queue": "re"}),
    ("pause_queue", {"queue": "re"}, "pause_queue", {"queue": "other"}),
    ("set_limit", {"limit": "key:k", "capacity": 1}, "remove_limit", {"limit": "key:k"}),
    ("set_limit", {"limit": "key:k", "capacity": 1}, "set_limit", {"limit": "key:other", "capacity": 1}),
    ("put_schedule", TICK, "change_schedule", {"name": "tick", "to": "paused"}),
    ("change_schedule", {"name": "known", "to": "paused"}, "change_schedule", {"name": "known", "to": "active"}),
    ("drain_factory", {"factory": "mac"}, "resume_factory", {"factory": "mac"}),
    ("cancel", JOB, "hold", JOB),
    ("hold", JOB, "lift", JOB),
    ("cancel", JOB, "redrive", JOB),
    ("hold", JOB, "revoke", JOB),
    ("hold", JOB, "cancel", JOB),
]
NAMES = [f"{first} {second}" for first, _, second, _ in PAIRS]


@pytest.fixture
def desk() -> Desk:
    made = Desk()
    made.submit()
    assert ask(made, "put_schedule", "before", name="known", cron="* * * * *", job={}).good
    return made


def ask(desk: Desk, op: str, request_id: str, **body: Any) -> Answer:
    address = {"factory_id": "one", "incarnation": "start-1", "instance": "x"}
    request = REQUESTS.validate_python({"op": op, "request_id": request_id, **address, "body": body})
    return settle(desk.context, request, now_ms=NOW).answer


def stored(desk: Desk) -> dict[str, dict[str, Any]]:
    """What all documents say, but for who wrote them last: a refusal that may rest on a stale read is written on."""
    every = desk.store.find({}, limit=100).documents
    return {each.id: {name: value for name, value in each.body.items() if name != "write_id"} for each in every}


def told_of_both(desk: Desk, pair: tuple[str, dict[str, Any], str, dict[str, Any]]) -> Answer:
    """What the second is told, and the store is as the first left it."""
    first, its, second, others = pair
    assert ask(desk, first, "n9", **its).word is Word.OK
    before = stored(desk)
    answer = ask(desk, second, "n9", **others)
    assert stored(desk) == before
    assert ask(desk, first, "n9", **its).word is Word.REPLAYED, "the first is known as it was"
    return answer


def untruths(answer: Answer) -> list[str]:
    return ["it is told that it was done"] if answer.good else []


@pytest.mark.parametrize("pair", PAIRS, ids=NAMES)
def test_an_id_that_was_used_for_something_else_is_refused_for_good(desk: Desk, pair: Any) -> None:
    answer = told_of_both(desk, pair)
    assert not untruths(answer)
    assert (answer.word, answer.reason, answer.retry) == (Word.INVALID, Reason.REQUEST_ID_USED, Retry.FINAL)
    assert answer.body["op"].startswith(pair[0])


@pytest.fixture
def ignoring_ops(monkeypatch: pytest.MonkeyPatch) -> None:
    """The broken twin: who is known has been served, whatever is asked."""

    def known(earlier: tuple[Asked, ...], asked: Asked) -> bool:
        return any((e.request_id, e.factory_id) == (asked.request_id, asked.factory_id) for e in earlier)

    for module in (factories, operating, schedules):
        monkeypatch.setattr(module, "has_done", known)

    def replay(job: Job, request_id: str, *, by: str, op: str) -> Decision:
        return Replay(Answer(Word.REPLAYED, body={"job_id": job.id, "asked": op, "id": request_id, "by": by}))

    monkeypatch.setattr(decision, "replay", replay)


@pytest.mark.parametrize("pair", PAIRS, ids=NAMES)
@pytest.mark.usefixtures("ignoring_ops")
def test_a_memory_that_ignores_what_was_asked_says_that_all_was_done(desk: Desk, pair: Any) -> None:
    assert untruths(told_of_both(desk, pair))


@pytest.mark.parametrize(
    ("second", "more"),
    [
        ("release", {}),
        ("fail", {"error": "x"}),
        ("hand_over", {"to": "two"}),
        ("progress", {"progress": 1}),
        ("renew", {}),
    ],
)
def test_a_holder_that_repeats_an_id_for_something_else_is_told_so(desk: Desk, second: str, more: Any) -> None:
    grant = ask(desk, "claim", "c1", job_id="job").body
    lease = {"job_id": "job", "epoch": grant["epoch"], "token": grant["token"]}
    assert ask(desk, "complete", "n9", **lease).word is Word.OK
    answer = ask(desk, second, "n9", **lease, **more)
    assert (answer.word, answer.reason, answer.body["op"]) == (Word.INVALID, Reason.REQUEST_ID_USED, "complete")
    assert ask(desk, "complete", "n9", **lease).word is Word.REPLAYED


OF_A_HOLDER: dict[str, dict[str, Any]] = {
    "complete": {},
    "fail": {"error": "x"},
    "release": {},
    "hand_over": {"to": "two"},
    "renew": {},
    "progress": {"progress": 1},
}
OF_AN_OPERATOR = ("revoke", "hold", "lift", "cancel", "redrive")


def told_under_a_claims_id(desk: Desk, op: str) -> Answer:
    """What its own factory is told that asks for something else under it, while the lease stands."""
    grant = ask(desk, "claim", "c1", job_id="job").body
    lease = {"epoch": grant["epoch"], "token": grant["token"], **OF_A_HOLDER[op]} if op in OF_A_HOLDER else {}
    before = stored(desk)
    answer = ask(desk, op, "c1", job_id="job", **lease)
    if stored(desk) != before:
        return Answer(Word.OK)
    again = ask(desk, "claim", "c1", job_id="job")
    assert (again.word, again.body["token"]) == (Word.REPLAYED, grant["token"]), "the claim itself is known as it was"
    return answer


@pytest.mark.parametrize("op", [*OF_A_HOLDER, *OF_AN_OPERATOR])
def test_the_id_of_a_claim_does_nothing_else_while_its_lease_stands(desk: Desk, op: str) -> None:
    answer = told_under_a_claims_id(desk, op)
    assert (answer.word, answer.reason, answer.body["op"]) == (Word.INVALID, Reason.REQUEST_ID_USED, "claim")


@pytest.mark.parametrize("op", [*OF_A_HOLDER, *OF_AN_OPERATOR])
def test_a_memory_of_recent_requests_alone_forgets_the_claim(
    desk: Desk, op: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The broken twin."""
    monkeypatch.setattr(decision, "check", lambda *of: FenceOk() if check(*of) == UsedToClaim() else check(*of))
    monkeypatch.setattr(operator, "known", lambda *_, **__: None)
    assert told_under_a_claims_id(desk, op).reason is not Reason.REQUEST_ID_USED


def test_the_id_of_another_factorys_claim_is_as_good_as_any(desk: Desk) -> None:
    assert ask(desk, "claim", "c1", job_id="job").word is Word.GRANTED
    address = {"factory_id": "two", "incarnation": "start-1", "instance": "x"}
    request = REQUESTS.validate_python({"op": "hold", "request_id": "c1", **address, "body": JOB})
    assert settle(desk.context, request, now_ms=NOW).answer.word is Word.OK


def test_a_hand_over_that_acknowledged_a_cancel_is_known_as_one(desk: Desk) -> None:
    grant = ask(desk, "claim", "c1", job_id="job").body
    lease = {"job_id": "job", "epoch": grant["epoch"], "token": grant["token"]}
    assert ask(desk, "cancel", "c2", job_id="job").good
    told = [ask(desk, "hand_over", "n9", **lease, to="two").word for _ in range(2)]
    assert told == [Word.OK, Word.REPLAYED]


def test_of_an_older_release_that_noted_no_operation_every_one_is_known(desk: Desk) -> None:
    assert ask(desk, "put_schedule", "n9", **TICK).good
    found = desk.store.read("schedule:tick", "schedule:tick")
    assert isinstance(found, Ok)
    noted = [{"request_id": "n9", "factory_id": "one"}]
    desk.store.update_if_match(
        "schedule:tick", "schedule:tick", Expected(etag=found.document.etag), {"recent_requests": noted}
    )
    assert ask(desk, "change_schedule", "n9", name="tick", to="paused").word is Word.REPLAYED
