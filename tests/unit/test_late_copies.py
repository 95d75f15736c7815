"""What an operator asks of schedules and limits has its effect once: a late copy undoes nothing that came after it."""

from typing import Any

import pytest

from broker.answers import Answer, Word
from broker.asked import ASKED_MAX
from broker.controls import Controls
from broker.messages import REQUESTS
from broker.settle import settle
from datastore import Expected, Ok
from tests.twins.stale import ShowsEarlier
from tests.unit.desk import NOW, Desk


@pytest.fixture
def desk() -> Desk:
    return Desk()


def ask(desk: Desk, op: str, request_id: str, *, by: str = "one", store: Any = None, **body: Any) -> Answer:
    address = {"factory_id": by, "incarnation": "start-1", "instance": "x"}
    request = REQUESTS.validate_python({"op": op, "request_id": request_id, **address, "body": body})
    return settle(desk.context if store is None else desk.on(store), request, now_ms=NOW).answer


def put(desk: Desk, request_id: str, cron: str, **fields: Any) -> Word:
    return ask(desk, "put_schedule", request_id, name="tick", cron=cron, job={}, replace=True, **fields).word


def change(desk: Desk, request_id: str, to: str, **fields: Any) -> Word:
    return ask(desk, "change_schedule", request_id, name="tick", to=to, **fields).word


def shown(desk: Desk) -> dict[str, Any]:
    [only] = desk.ask("list_schedules", name="tick").answer.body["schedules"]
    assert isinstance(only, dict)
    return only


def test_a_late_copy_of_a_replacement_does_not_put_the_old_schedule_back(desk: Desk) -> None:
    assert [put(desk, "p1", "0 1 * * *"), put(desk, "p2", "0 2 * * *")] == [Word.OK, Word.OK]
    assert [put(desk, "p1", "0 1 * * *"), put(desk, "p2", "0 2 * * *")] == [Word.REPLAYED, Word.REPLAYED]
    assert shown(desk)["cron"] == "0 2 * * *"
    assert put(desk, "p1", "0 3 * * *", by="two") is Word.OK, "another operator's is another request"


def test_a_late_copy_is_known_though_a_read_shows_the_schedule_as_it_was_before_it(desk: Desk) -> None:
    put(desk, "p0", "0 0 * * *")
    was = desk.store.read("schedule:tick", "schedule:tick")
    assert [put(desk, "p1", "0 1 * * *"), put(desk, "p2", "0 2 * * *")] == [Word.OK, Word.OK]
    stale = ShowsEarlier(desk.store, "schedule:tick", was, times=1)
    assert put(desk, "p1", "0 1 * * *", store=stale) is Word.REPLAYED
    assert shown(desk)["cron"] == "0 2 * * *"


@pytest.mark.parametrize(("asked", "then"), [("paused", "active"), ("active", "paused")])
def test_a_late_copy_of_a_pause_or_its_end_changes_nothing(desk: Desk, asked: str, then: str) -> None:
    put(desk, "p1", "* * * * *")
    assert [change(desk, "c1", asked), change(desk, "c2", then)] == [Word.OK, Word.OK]
    assert change(desk, "c1", asked) is Word.REPLAYED
    assert shown(desk)["state"] == then


def test_a_removal_that_comes_again_is_a_replay_and_another_finds_nothing(desk: Desk) -> None:
    put(desk, "p1", "* * * * *")
    assert [change(desk, "c1", "removed") for _ in range(2)] == [Word.OK, Word.REPLAYED]
    assert change(desk, "c2", "removed") is Word.NOT_FOUND
    assert put(desk, "p2", "* * * * *") is Word.OK
    assert change(desk, "c1", "removed") is Word.REPLAYED
    assert shown(desk)["state"] == "active"


def test_a_schedule_remembers_the_last_requests_and_shows_none(desk: Desk) -> None:
    for number in range(ASKED_MAX + 1):
        put(desk, f"p{number}", "* * * * *")
    assert [put(desk, f"p{number}", "* * * * *") for number in (1, 0)] == [Word.REPLAYED, Word.OK]
    found = desk.store.read("schedule:tick", "schedule:tick")
    assert isinstance(found, Ok)
    body: Any = found.document.body
    assert len(body["recent_requests"]) == ASKED_MAX
    assert "recent_requests" not in shown(desk)


def test_a_schedule_that_remembers_nothing_yet_knows_the_request_that_stored_it(desk: Desk) -> None:
    put(desk, "p1", "* * * * *")
    found = desk.store.read("schedule:tick", "schedule:tick")
    assert isinstance(found, Ok)
    desk.store.update_if_match(
        "schedule:tick", "schedule:tick", Expected(etag=found.document.etag), {"recent_requests": []}
    )
    assert put(desk, "p1", "* * * * *") is Word.REPLAYED


def limit(desk: Desk) -> int | None:
    found = Controls(desk.store).limits().get("key:k")
    return None if found is None else found.capacity


def test_a_late_copy_of_a_limit_does_not_put_the_old_one_back(desk: Desk) -> None:
    assert ask(desk, "set_limit", "l1", limit="key:k", capacity=1).word is Word.OK
    assert ask(desk, "set_limit", "l2", limit="key:k", capacity=2).word is Word.OK
    late = ask(desk, "set_limit", "l1", limit="key:k", capacity=1)
    assert (late.word, late.body["capacity"], limit(desk)) == (Word.REPLAYED, 2, 2)
    assert ask(desk, "set_limit", "l1", by="two", limit="key:k", capacity=1).word is Word.OK
    assert ask(desk, "remove_limit", "l3", limit="key:k").word is Word.OK
    late = ask(desk, "set_limit", "l2", limit="key:k", capacity=2)
    assert (late.word, late.body["capacity"], limit(desk)) == (Word.REPLAYED, None, None)


def test_the_removal_of_a_limit_that_comes_again_is_a_replay_and_another_finds_nothing(desk: Desk) -> None:
    ask(desk, "set_limit", "l1", limit="key:k", capacity=1)
    assert [ask(desk, "remove_limit", "l2", limit="key:k").word for _ in range(2)] == [Word.OK, Word.REPLAYED]
    assert ask(desk, "remove_limit", "l3", limit="key:k").word is Word.NOT_FOUND
    ask(desk, "set_limit", "l4", limit="key:k", capacity=4)
    assert ask(desk, "remove_limit", "l2", limit="key:k").word is Word.REPLAYED
    assert limit(desk) == 4


def test_what_was_refused_or_found_nothing_is_not_remembered(desk: Desk) -> None:
    assert [ask(desk, "set_limit", "l1", limit="key:k").word for _ in range(2)] == [Word.INVALID, Word.INVALID]
    assert [ask(desk, "remove_limit", "l2", limit="key:k").word for _ in range(2)] == [Word.NOT_FOUND, Word.NOT_FOUND]


@pytest.mark.parametrize(("op", "then", "paused"), [("pause", "resume", False), ("resume", "pause", True)])
def test_a_late_copy_of_what_was_asked_of_a_queue_changes_nothing(desk: Desk, op: str, then: str, paused: bool) -> None:
    assert ask(desk, f"{op}_queue", "q1", queue="builds").word is Word.OK
    assert ask(desk, f"{then}_queue", "q2", queue="builds").word is Word.OK
    late = ask(desk, f"{op}_queue", "q1", queue="builds")
    assert (late.word, late.body["paused"]) == (Word.REPLAYED, paused)
    assert (Controls(desk.store).queue("builds").pause is not None) is paused


def test_the_fleet_remembers_the_last_requests(desk: Desk) -> None:
    for number in range(ASKED_MAX + 1):
        ask(desk, "set_limit", f"l{number}", limit="key:k", capacity=number + 1)
    late = [ask(desk, "set_limit", f"l{number}", limit="key:k", capacity=number + 1).word for number in (1, 0)]
    assert late == [Word.REPLAYED, Word.OK]
