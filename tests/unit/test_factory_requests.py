"""What is asked of a factory has its effect once, and is not denied once it had it, whatever fails afterwards."""

from typing import Any

import pytest

from broker.answers import Answer, Reason, Word
from broker.controls import Controls, FactoryRecord
from broker.messages import REQUESTS
from broker.settle import settle
from broker.settlement import Settlement
from broker.shared_document import REREADS_MAX
from datastore import Corrupt, DatastoreError, Filter, NotFound, Page, Rejected, Throttled, Unavailable
from datastore.interface import Expected, Patch, UpdateResult
from datastore.memory import MemoryDatastore
from tests.twins.forwarding import Forwarding
from tests.twins.stale import ShowsEarlier
from tests.unit.desk import NOW, Desk

LATER = NOW + 1_000


@pytest.fixture
def desk() -> Desk:
    """Factory `f` has registered its first start, which holds a job."""
    made = Desk()
    ask(made, "register_factory", "g1")
    made.submit()
    made.claim()
    return made


def settled(
    desk: Desk,
    op: str,
    request_id: str,
    *,
    start: str = "start-1",
    store: Any = None,
    now_ms: int = LATER,
    **body: Any,
) -> Settlement:
    address = {"factory_id": "f", "incarnation": start, "instance": "x"}
    request = REQUESTS.validate_python({"op": op, "request_id": request_id, **address, "body": body})
    return settle(desk.context if store is None else desk.on(store), request, now_ms=now_ms)


def ask(desk: Desk, op: str, request_id: str, **asked: Any) -> Answer:
    return settled(desk, op, request_id, **asked).answer


def record(desk: Desk) -> FactoryRecord:
    return Controls(desk.store).factory("f")


class NoLeases(Forwarding):
    """Fails to search for what a factory holds."""

    def __init__(self, inner: MemoryDatastore, error: DatastoreError) -> None:
        super().__init__(inner)
        self._error = error

    def find(self, filter: Filter, limit: int = 100, cursor: str | None = None) -> Page:  # noqa: ARG002  # it fails
        raise self._error


class Stuck(Forwarding):
    """Fails to write one job."""

    def __init__(self, inner: MemoryDatastore, job_id: str) -> None:
        super().__init__(inner)
        self._job_id = job_id

    def update_if_match(self, id: str, partition_key: str, expected: Expected, patch: Patch) -> UpdateResult:
        if id == self._job_id:
            raise Unavailable("503")
        return super().update_if_match(id, partition_key, expected, patch)


FAILURES = [Throttled("429", retry_after_ms=9), Unavailable("503"), Rejected("403"), Corrupt("rot")]
ENDS_LEASES: dict[str, dict[str, Any]] = {
    "register_factory": {"start": "start-2"},
    "remove_factory": {"factory": "f", "force": True},
}


@pytest.mark.parametrize("error", FAILURES, ids=lambda error: type(error).__name__)
@pytest.mark.parametrize("op", ENDS_LEASES)
def test_a_change_that_was_made_is_not_denied_where_the_leases_can_t_be_ended(
    desk: Desk, op: str, error: DatastoreError
) -> None:
    cut = ask(desk, op, "r1", store=NoLeases(desk.store, error), **ENDS_LEASES[op])
    assert (cut.word, cut.retry) == (Word.OUTCOME_UNKNOWN, "same_id")
    assert record(desk).has_replaced("start-1")
    again = ask(desk, op, "r1", **ENDS_LEASES[op])
    assert (again.good, again.body["ended"]) == (True, ["job"])
    assert desk.job().lease is None


@pytest.mark.parametrize("op", ENDS_LEASES)
def test_leases_that_were_ended_before_one_could_not_be_are_told_of(desk: Desk, op: str) -> None:
    desk.submit("stuck")
    desk.claim("stuck")
    cut = settled(desk, op, "r1", store=Stuck(desk.store, "stuck"), **ENDS_LEASES[op])
    assert cut.answer.word is Word.OUTCOME_UNKNOWN
    assert [change.after.id for change in cut.changes] == ["job"]
    assert ask(desk, op, "r1", **ENDS_LEASES[op]).body["ended"] == ["stuck"]


@pytest.mark.parametrize("op", ENDS_LEASES)
def test_a_job_that_does_not_parse_keeps_no_lease_of_another_from_ending(desk: Desk, op: str) -> None:
    desk.store.create("rot", "rot", {"kind": "job", "state": "leased", "lease": {"factory_id": "f"}})
    answer = ask(desk, op, "r1", **ENDS_LEASES[op])
    assert (answer.word, answer.body["ended"]) == (Word.OK, ["job"])


def test_a_job_that_does_not_parse_hides_no_factory(desk: Desk) -> None:
    desk.store.create("rot", "rot", {"kind": "job", "state": "leased", "lease": {"factory_id": "f"}})
    answer = ask(desk, "list_factories", "l1")
    assert [(row["factory"], row["leases"]) for row in answer.body["factories"]] == [("f", 1)]


def test_a_removal_that_comes_again_is_a_replay_and_another_finds_nothing(desk: Desk) -> None:
    remove = {"factory": "f", "force": True}
    assert [ask(desk, "remove_factory", "r1", **remove).word for _ in range(2)] == [Word.OK, Word.REPLAYED]
    assert ask(desk, "remove_factory", "r2", **remove).word is Word.NOT_FOUND


def test_a_late_copy_of_a_removal_leaves_the_start_alone_that_has_come_since(desk: Desk) -> None:
    ask(desk, "remove_factory", "r1", factory="f", force=True)
    ask(desk, "register_factory", "g2", start="start-2")
    for force in (True, False):
        late = ask(desk, "remove_factory", "r1", factory="f", force=force)
        assert (late.word, late.body["ended"]) == (Word.REPLAYED, [])
    assert record(desk).incarnation == "start-2"


def test_a_removal_that_was_refused_is_not_remembered(desk: Desk) -> None:
    refused = [ask(desk, "remove_factory", "r1", factory="f") for _ in range(2)]
    assert [(answer.word, answer.reason) for answer in refused] == [(Word.CONFLICT, Reason.HELD)] * 2


@pytest.mark.parametrize("was_removed", [False, True], ids=["never registered", "removed before"])
def test_a_factory_without_a_record_is_removed_by_force_only_where_it_holds_leases(was_removed: bool) -> None:
    desk = Desk()
    if was_removed:
        ask(desk, "register_factory", "g1")
        ask(desk, "remove_factory", "r0", factory="f")
    desk.submit()
    claimed = settled(desk, "claim", "c1", start="start-9", now_ms=LATER + 1, job_id="job").answer
    held = ask(desk, "remove_factory", "r1", factory="f", now_ms=LATER + 2)
    assert (held.word, held.reason, [each["job_id"] for each in held.body["leases"]]) == (
        Word.CONFLICT, Reason.HELD, ["job"],
    )  # fmt: skip
    assert desk.job().lease is not None
    remove = {"factory": "f", "force": True, "now_ms": LATER + 3}
    done = [ask(desk, "remove_factory", "r2", **remove) for _ in range(2)]
    assert [(answer.word, answer.body["ended"]) for answer in done] == [(Word.OK, ["job"]), (Word.REPLAYED, [])]
    assert (desk.job().state, desk.job().epoch) == ("ready", claimed.body["epoch"])
    assert ask(desk, "list_factories", "l1").body["factories"] == []
    assert ask(desk, "remove_factory", "r3", **remove).word is Word.NOT_FOUND


@pytest.mark.parametrize("force", [False, True])
def test_a_factory_without_a_record_and_leases_is_not_found_and_leaves_no_record(force: bool) -> None:
    desk = Desk()
    assert ask(desk, "remove_factory", "r1", factory="f", force=force).word is Word.NOT_FOUND
    assert desk.store.read("factory:f", "factory:f") == NotFound()


def test_a_removal_that_could_not_end_a_lease_is_made_good_by_another(desk: Desk) -> None:
    cut = settled(desk, "remove_factory", "r1", store=Stuck(desk.store, "job"), factory="f", force=True)
    assert cut.answer.word is Word.OUTCOME_UNKNOWN
    assert ask(desk, "remove_factory", "r2", factory="f", force=True).body["ended"] == ["job"]


def is_drained(desk: Desk) -> bool:
    return record(desk).drain is not None


@pytest.mark.parametrize(("op", "then", "drained"), [("drain", "resume", False), ("resume", "drain", True)])
def test_a_late_copy_of_a_drain_or_its_end_changes_nothing(desk: Desk, op: str, then: str, drained: bool) -> None:
    assert ask(desk, f"{op}_factory", "d1", factory="f").word is Word.OK
    assert ask(desk, f"{then}_factory", "d2", factory="f").word is Word.OK
    late = ask(desk, f"{op}_factory", "d1", factory="f")
    assert (late.word, late.body["drain"] is not None) == (Word.REPLAYED, drained)
    assert is_drained(desk) is drained


@pytest.mark.parametrize("until_ms", [LATER, LATER - 1, 0])
def test_a_drain_whose_end_is_past_is_refused_and_leaves_another_alone(desk: Desk, until_ms: int) -> None:
    refused = ask(desk, "drain_factory", "d1", factory="f", until_ms=until_ms)
    assert (refused.word, refused.body["factory"]) == (Word.INVALID, "f")
    assert "until_ms is past" in refused.body["detail"]
    assert not is_drained(desk)
    assert ask(desk, "drain_factory", "d2", factory="f", reason="operator").word is Word.OK
    assert ask(desk, "drain_factory", "d3", factory="f", until_ms=until_ms).word is Word.INVALID
    drain = record(desk).drain
    assert drain is not None
    assert drain.reason == "operator"


def test_a_drain_of_a_factory_that_nobody_knows_makes_no_document_where_its_end_is_past(desk: Desk) -> None:
    assert ask(desk, "drain_factory", "d1", factory="unheard", until_ms=NOW - 1).word is Word.INVALID
    assert isinstance(desk.store.read("factory:unheard", "factory:unheard"), NotFound)


def test_a_copy_of_a_drain_that_comes_after_its_end_is_told_that_it_was_done(desk: Desk) -> None:
    assert ask(desk, "drain_factory", "d1", factory="f", until_ms=LATER + 1).word is Word.OK
    late = ask(desk, "drain_factory", "d1", now_ms=LATER + 1, factory="f", until_ms=LATER + 1)
    assert (late.word, late.body["drain"]) == (Word.REPLAYED, None)


def test_a_late_copy_of_a_registration_does_not_put_the_old_offers_back(desk: Desk) -> None:
    assert ask(desk, "register_factory", "g2", offers=["old"]).word is Word.OK
    assert ask(desk, "register_factory", "g3", offers=["new"]).word is Word.OK
    late = ask(desk, "register_factory", "g2", offers=["old"])
    assert (late.word, late.body["offers"], record(desk).offers) == (Word.REPLAYED, ("new",), ("new",))


def test_a_late_copy_of_the_registration_of_a_start_that_is_over_says_so(desk: Desk) -> None:
    ask(desk, "register_factory", "g2", start="start-2")
    late = ask(desk, "register_factory", "g1")
    assert (late.word, late.reason) == (Word.CONFLICT, Reason.RESTARTED)


def test_a_new_start_does_not_make_it_forget_what_was_asked(desk: Desk) -> None:
    ask(desk, "drain_factory", "d1", factory="f")
    ask(desk, "resume_factory", "d2", factory="f")
    ask(desk, "register_factory", "g2", start="start-2")
    assert ask(desk, "drain_factory", "d1", factory="f").word is Word.REPLAYED
    assert not is_drained(desk)


@pytest.mark.parametrize("shown", ["removed", "not yet"])
@pytest.mark.parametrize("op", ["resume_factory", "remove_factory"])
def test_a_factory_that_came_back_is_not_called_unknown_for_a_read_from_before(desk: Desk, op: str, shown: str) -> None:
    ask(desk, "remove_factory", "r1", factory="f", force=True)
    was = desk.store.read("factory:f", "factory:f") if shown == "removed" else NotFound()
    ask(desk, "register_factory", "g2", start="start-2")
    behind = ShowsEarlier(desk.store, "factory:f", was, times=1 if shown == "removed" else REREADS_MAX)
    assert ask(desk, op, "r2", store=behind, factory="f").word is Word.OK


def test_what_is_remembered_is_not_shown(desk: Desk) -> None:
    shown = [ask(desk, "drain_factory", "d1", factory="f").body, ask(desk, "get_factory", "d2", factory="f").body]
    assert not any("recent_requests" in body for body in shown)
