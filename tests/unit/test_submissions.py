"""Submissions whose store fails half-way, or that come again: one job, one answer, and no effect that was refused."""

from collections.abc import Callable
from functools import partial
from typing import Any
from unittest.mock import patch

import pytest

from broker import coordinator, keys, repository, schedules
from broker.answers import Reason, Retry, Word
from broker.coordinator import Context, Settlement
from broker.documents import State
from broker.fence import Fence
from broker.messages import REQUESTS
from broker.repository import read_submitted
from broker.settle import settle
from broker.settlement import Change
from datastore import Conflict, Corrupt, DatastoreError, NotFound, Ok, Throttled, Unavailable
from datastore.interface import Body, CreateResult, Expected, Patch, ReadResult, UpdateResult
from datastore.memory import MemoryDatastore
from tests.twins.forwarding import Forwarding
from tests.twins.stale import ShowsEarlier
from tests.unit.desk import NOW, Desk


@pytest.fixture
def desk() -> Desk:
    return Desk()


def submit(on: Context, request_id: str, *, now_ms: int = NOW, **body: Any) -> Settlement:
    """As `s`, whose request ids are its own."""
    address = {"factory_id": "s", "incarnation": "start-1", "instance": "x"}
    request = {"op": "submit", "request_id": request_id, **address, "body": body}
    return settle(on, REQUESTS.validate_python(request), now_ms=now_ms)


class NoNewest(Forwarding):
    """Fails where the newest job of a key is to be written down, while `error` is set."""

    def __init__(self, inner: MemoryDatastore, error: DatastoreError) -> None:
        super().__init__(inner)
        self.error: DatastoreError | None = error

    def update_if_match(self, id: str, partition_key: str, expected: Expected, patch: Patch) -> UpdateResult:
        if self.error is not None and id.startswith("newest:"):
            raise self.error
        return super().update_if_match(id, partition_key, expected, patch)


@pytest.mark.parametrize(
    "error", [Throttled("429", retry_after_ms=9), Unavailable("503"), Corrupt("rot")], ids=["busy", "down", "corrupt"]
)
def test_a_submission_that_made_its_job_is_to_be_repeated_under_its_id_until_the_older_jobs_are_told(
    desk: Desk, error: DatastoreError
) -> None:
    desk.submit("old", supersedes="k")
    store = NoNewest(desk.store, error)
    on = desk.on(store)
    cut = submit(on, "s1", job_id="new", supersedes="k", now_ms=NOW + 1)
    assert (cut.answer.word, cut.answer.retry) == (Word.OUTCOME_UNKNOWN, Retry.SAME_ID)
    assert [(change.after.id, change.new) for change in cut.changes] == [("new", True)], "it is offered all the same"
    assert desk.job("old").state is State.READY
    store.error = None
    assert submit(on, "s1", job_id="new", supersedes="k", now_ms=NOW + 2).answer.word is Word.REPLAYED
    assert (desk.job("old").state, desk.job("new").state) == (State.CANCELLED, State.READY)


def test_a_fire_whose_older_jobs_could_not_be_told_is_fired_again(desk: Desk) -> None:
    minute_ms = 60_000
    desk.submit("old", supersedes="k")
    desk.ask("put_schedule", name="tick", cron="* * * * *", job={"supersedes": "k"})
    found = desk.store.read("schedule:tick", "schedule:tick")
    assert isinstance(found, Ok)
    store = NoNewest(desk.store, Unavailable("503"))
    on = desk.on(store)
    cut = schedules.fire(on, found.document, now_ms=NOW + minute_ms)
    assert (cut.answer.word, len(cut.changes)) == (Word.OUTCOME_UNKNOWN, 1)
    assert desk.job("old").state is State.READY
    store.error = None
    found = desk.store.read("schedule:tick", "schedule:tick")
    assert isinstance(found, Ok)
    assert schedules.fire(on, found.document, now_ms=NOW + minute_ms).answer.body["fired"] == 1
    assert desk.job("old").state is State.CANCELLED


@pytest.mark.parametrize("policy", ["reject", "replace", "join"])
def test_a_submission_that_was_refused_leaves_nothing_that_takes_effect_later(desk: Desk, policy: str) -> None:
    desk.submit("old", unique={"key": "k"})
    fence = desk.claim("old")
    unique = {"key": "k", "policy": policy}
    refused = submit(desk.context, "s1", job_id="deploy", unique=unique, payload=1).answer
    assert (refused.reason, refused.body.get("joined")) in [(Reason.NOT_UNIQUE, None), (None, True)]
    assert isinstance(desk.store.read("deploy:spec", "deploy"), NotFound)
    assert coordinator.complete(desk.context, "old", fence, now_ms=NOW).answer.good
    assert submit(desk.context, "s2", job_id="deploy", unique=unique, payload=2).answer.word is Word.OK
    assert read_submitted(desk.store, "deploy")["payload"] == 2


class HidesSpecs(Forwarding):
    """No read shows a spec that is there, and who would create it again is not shown it either."""

    def read(self, id: str, partition_key: str) -> ReadResult:
        return NotFound() if id.endswith(":spec") else super().read(id, partition_key)

    def create(self, id: str, partition_key: str, body: Body) -> CreateResult:
        created = super().create(id, partition_key, body)
        return created if isinstance(created, Ok) else Conflict(None)


@pytest.mark.parametrize("cut_off", [False, True], ids=["its job is made", "its job is not made yet"])
def test_a_submission_whose_spec_no_read_shows_is_to_be_repeated_under_its_id(desk: Desk, cut_off: bool) -> None:
    if cut_off:
        with patch.object(repository, "create_job", side_effect=Unavailable("503")):
            submit(desk.context, "s1", job_id="new")
    else:
        submit(desk.context, "s1", job_id="new")
    answer = submit(desk.on(HidesSpecs(desk.store)), "s1", job_id="new").answer
    assert (answer.word, answer.retry) == (Word.OUTCOME_UNKNOWN, Retry.SAME_ID)
    assert submit(desk.context, "s1", job_id="new").answer.word is (Word.OK if cut_off else Word.REPLAYED)


def test_a_submission_replaces_a_job_that_waits(desk: Desk) -> None:
    desk.submit("old", unique={"key": "k"})
    assert submit(desk.context, "s1", job_id="new", unique={"key": "k", "policy": "replace"}).answer.word is Word.OK
    assert (desk.job("old").state, desk.job("old").why) == (State.CANCELLED, "replaced by new")


JOIN = {"key": "k", "policy": "join"}


@pytest.fixture
def owner(desk: Desk) -> Fence:
    """The holder of `old`, whose key is taken."""
    desk.submit("old", unique={"key": "k"})
    return desk.claim("old")


def is_over(desk: Desk, owner: Fence) -> None:
    assert coordinator.complete(desk.context, "old", owner, now_ms=NOW).answer.good


def joins(on: Context, request_id: str = "s1") -> tuple[str, bool]:
    """The job that is to run, and whether it is another's."""
    answer = submit(on, request_id, unique=JOIN).answer
    assert answer.word is Word.OK
    return answer.body["job_id"], answer.body.get("joined", False)


def test_a_submission_that_joined_a_job_is_told_so_again_whatever_became_of_that_job_and_its_key(
    desk: Desk, owner: Fence
) -> None:
    assert joins(desk.context) == ("old", True)
    assert joins(desk.context) == ("old", True)
    is_over(desk, owner)
    assert joins(desk.context) == ("old", True), "it is over: nothing new runs for the same request"
    assert joins(desk.context, "s2") == ("j-s2", False)
    assert joins(desk.context) == ("old", True), "the key is another job's by now"
    other = {"factory_id": "other", "incarnation": "start-1", "instance": "x", "body": {"unique": JOIN}}
    request = REQUESTS.validate_python({"op": "submit", "request_id": "s1", **other})
    assert settle(desk.context, request, now_ms=NOW).answer.body["job_id"] == "j-s2", "another factory's is another"


def test_a_submission_that_joined_a_job_is_told_so_again_though_another_has_made_a_job_of_its_id(
    desk: Desk, owner: Fence
) -> None:
    first = submit(desk.context, "s1", job_id="named", unique=JOIN).answer
    is_over(desk, owner)
    assert submit(desk.context, "s2", job_id="named", unique=JOIN).answer.word is Word.OK
    again = submit(desk.context, "s1", job_id="named", unique=JOIN).answer
    assert [(each.word, each.body["job_id"]) for each in (first, again)] == [(Word.OK, "old")] * 2
    assert submit(desk.context, "s3", job_id="named", unique=JOIN).answer.reason is Reason.EXISTS


def test_a_key_remembers_the_last_that_joined(desk: Desk, owner: Fence) -> None:
    for number in range(keys.JOINED_MAX + 1):
        joins(desk.context, f"s{number}")
    is_over(desk, owner)
    assert joins(desk.context, "s1") == ("old", True)
    assert joins(desk.context, "s0") == ("j-s0", False)
    found = desk.store.read(keys.key_id("unique", "k"), keys.key_id("unique", "k"))
    assert isinstance(found, Ok)
    body: Any = found.document.body
    assert len(body["joined"]) == keys.JOINED_MAX


def test_nobody_joins_a_job_that_only_a_stale_read_shows_alive(desk: Desk, owner: Fence) -> None:
    was = desk.store.read("old", "old")
    is_over(desk, owner)
    assert joins(desk.on(ShowsEarlier(desk.store, "old", was, times=3))) == ("j-s1", False)


def test_where_the_owner_is_not_written_on_a_job_that_is_over_is_joined_and_nothing_runs(
    desk: Desk, owner: Fence
) -> None:
    was = desk.store.read("old", "old")
    is_over(desk, owner)
    unsure = patch.object(repository, "rev_update_job", lambda _store, job, _changes, **_mark: repository.Updated(job))
    with unsure:
        assert joins(desk.on(ShowsEarlier(desk.store, "old", was, times=3))) == ("old", True)


def test_the_version_of_the_job_that_is_joined_is_the_one_that_stands(desk: Desk, owner: Fence) -> None:
    answer = submit(desk.context, "s1", unique=JOIN).answer
    assert answer.body["etag"] == desk.job("old").document.etag
    assert owner.epoch == desk.job("old").epoch


class ActsBefore(Forwarding):
    """Before a document is created for the first time, something else happens."""

    def __init__(self, inner: MemoryDatastore, id: str, act: Callable[[], None]) -> None:
        super().__init__(inner)
        self._acts = {id: act}

    def create(self, id: str, partition_key: str, body: Body) -> CreateResult:
        self._acts.pop(id, lambda: None)()
        return super().create(id, partition_key, body)


def test_of_two_copies_of_a_submission_at_once_both_join_or_neither_does(desk: Desk) -> None:
    desk.submit("old", unique={"key": "k"})
    coordinator.cancel(desk.context, "old", request_id="x", by="f", now_ms=NOW)

    def other_copy() -> None:
        desk.ask("redrive", job_id="old")
        owner = desk.claim("old")
        assert joins(desk.context) == ("old", True)
        is_over(desk, owner)

    assert joins(desk.on(ActsBefore(desk.store, "j-s1:spec", other_copy))) == ("old", True)


def test_who_loses_the_race_for_a_key_joins_the_job_that_won_it(desk: Desk) -> None:
    desk.submit("old", unique={"key": "k"})
    coordinator.cancel(desk.context, "old", request_id="x", by="f", now_ms=NOW)
    rival = ActsBefore(desk.store, "j-s1:spec", lambda: desk.submit("rival", unique={"key": "k"}))
    assert joins(desk.on(rival)) == ("rival", True)
    coordinator.cancel(desk.context, "rival", request_id="x", by="f", now_ms=NOW)
    assert joins(desk.context) == ("rival", True)


def supersedes_at_once(desk: Desk, *names: str) -> None:
    for name in names:
        assert submit(desk.context, f"s-{name}", job_id=name, supersedes="k", now_ms=NOW).answer.good


def supersedes(desk: Desk, *names: str) -> None:
    """Jobs of one key, each newer than the one before; their request ids are their own."""
    for number, name in enumerate(names):
        assert submit(desk.context, f"s-{name}", job_id=name, supersedes="k", now_ms=NOW + number).answer.good


@pytest.mark.parametrize("other", [{"payload": "B"}, {"labels": {"team": "b"}}, {"queue": "b"}], ids=str)
def test_a_request_id_that_stands_for_one_submission_is_refused_for_another(desk: Desk, other: dict[str, Any]) -> None:
    said: dict[str, Any] = {"payload": {"steps": ["a", {"n": [1.5, None]}]}, "labels": {"team": "a"}, "queue": "a"}
    assert submit(desk.context, "s1", **said).answer.word is Word.OK
    again = submit(desk.context, "s1", now_ms=NOW + 9, **(said | other)).answer
    assert (again.word, again.reason, again.body["op"]) == (Word.INVALID, Reason.REQUEST_ID_USED, "submit")
    assert submit(desk.context, "s1", now_ms=NOW + 9, not_before_ms=NOW + 99, **said).answer.word is Word.REPLAYED


PAYLOADS = [0, False, 1, True, "1", None, [1], [True], [1, 1], {"n": 1}, {"n": True}, {"m": 1}, {"n": {"n": [False]}}]


@pytest.mark.parametrize("first", PAYLOADS, ids=repr)
def test_true_is_another_payload_than_1_however_deep_it_stands(desk: Desk, first: Any) -> None:
    assert submit(desk.context, "s1", payload=first).answer.word is Word.OK
    told = {repr(other): submit(desk.context, "s1", payload=other).answer.word for other in PAYLOADS}
    assert [shown for shown, word in told.items() if word is Word.REPLAYED] == [repr(first)]


def test_a_number_is_the_same_whether_or_not_it_was_written_with_a_point(desk: Desk) -> None:
    # Cosmos gives 1 back for 1.0.
    assert submit(desk.context, "s1", payload={"n": [1.0]}).answer.word is Word.OK
    assert submit(desk.context, "s1", payload={"n": [1]}).answer.word is Word.REPLAYED


@pytest.mark.parametrize("names", ["ab", "ba", "cab", "dcba"])
def test_of_jobs_taken_in_one_millisecond_the_one_that_came_last_supersedes_the_others(desk: Desk, names: str) -> None:
    for name in (*names, *names):  # and their resends change nothing
        answer = submit(desk.context, f"s-{name}", job_id=name, supersedes="k", now_ms=NOW).answer
        assert answer.good
    assert [name for name in names if desk.job(name).state is State.READY] == [names[-1]]


def test_however_many_are_taken_in_one_millisecond_a_resend_of_the_first_supersedes_none(desk: Desk) -> None:
    names = [f"j{number}" for number in range(3 * keys.SAME_MS_MAX // 2)]
    for name in (*names, *names):
        assert submit(desk.context, f"s-{name}", job_id=name, supersedes="k", now_ms=NOW).answer.good
    assert [name for name in names if desk.job(name).state is State.READY] == [names[-1]]


def test_what_an_earlier_release_wrote_of_a_key_has_no_list_and_a_resend_supersedes_none_all_the_same(
    desk: Desk,
) -> None:
    supersedes_at_once(desk, "a", "b")
    name = keys.key_id("newest", "k")
    found = desk.store.read(name, name)
    assert isinstance(found, Ok)
    desk.store.update_if_match(name, name, Expected(rev=found.document.rev), {"same_ms": []})
    supersedes_at_once(desk, "a", "b")
    assert [desk.job(name).state for name in "ab"] == [State.CANCELLED, State.READY]


def test_a_resend_that_finds_its_job_superseded_in_the_same_millisecond_is_told_so(desk: Desk) -> None:
    for name in "ba":
        submit(desk.context, f"s-{name}", job_id=name, supersedes="k", now_ms=NOW)
    again = submit(desk.context, "s-b", job_id="b", supersedes="k", now_ms=NOW).answer
    assert (again.word, again.body["state"]) == (Word.REPLAYED, "cancelled")


def test_a_submission_that_gives_way_to_a_newer_job_at_once_is_told_that_it_is_cancelled(desk: Desk) -> None:
    submit(desk.context, "s-newer", job_id="newer", supersedes="k", now_ms=NOW + 1)
    late = submit(desk.context, "s-older", job_id="older", supersedes="k", now_ms=NOW)
    assert (late.answer.word, late.answer.body["state"]) == (Word.OK, "cancelled")
    assert late.answer.body["etag"] == desk.job("older").document.etag


@pytest.mark.parametrize("newer", [("b",), ("b", "c"), ("b", "c", "d")], ids=len)
def test_a_late_copy_of_a_submission_leaves_alone_what_was_redriven(desk: Desk, newer: tuple[str, ...]) -> None:
    supersedes(desk, "a", *newer)
    assert desk.ask("redrive", job_id="a").answer.good
    for name in ("a", *newer):
        late = submit(desk.context, f"s-{name}", job_id=name, supersedes="k", now_ms=NOW + 9)
        assert late.answer.word is Word.REPLAYED
    assert [desk.job(name).state for name in ("a", newer[-1])] == [State.READY, State.READY]


def test_a_late_copy_of_a_submission_leaves_alone_a_failed_job_that_was_redriven(desk: Desk) -> None:
    supersedes(desk, "a")
    coordinator.fail(desk.context, "a", desk.claim("a"), now_ms=NOW, retryable=False)
    supersedes(desk, "a", "b")
    assert desk.ask("redrive", job_id="a").answer.good
    supersedes(desk, "a", "b")
    assert (desk.job("a").state, desk.job("b").state) == (State.READY, State.READY)


@pytest.mark.parametrize("older", ["a", "ab", "abc", "abcd"])
def test_a_new_submission_supersedes_whatever_was_redriven_too(desk: Desk, older: str) -> None:
    supersedes(desk, *older)
    for name in older[:-1]:
        assert desk.ask("redrive", job_id=name).answer.good
    desk.claim(older[0])
    supersedes(desk, *older, "x")
    waiting = [name for name in (*older, "x") if desk.job(name).state is State.READY]
    assert (waiting, desk.job(older[0]).superseded_by) == (["x"], "x")
    assert desk.ask("redrive", job_id=older[-1]).answer.good is (len(older) > 1)
    supersedes(desk, *older, "x", "y")
    assert [name for name in (*older, "x", "y") if desk.job(name).state is State.READY] == ["y"]


def test_a_redrive_that_is_refused_takes_no_place_among_those_that_were_redriven(desk: Desk) -> None:
    supersedes(desk, "a", "b")
    key = keys.key_id("newest", "k")
    before = desk.store.read(key, key)
    assert desk.ask("redrive", job_id="b").answer.word is Word.CONFLICT
    assert desk.store.read(key, key) == before


class Meanwhile(Forwarding):
    """As one document is written, something else happens first, once."""

    def __init__(self, inner: MemoryDatastore, id: str, act: Callable[[], object]) -> None:
        super().__init__(inner)
        self._acts = {id: act}

    def update_if_match(self, id: str, partition_key: str, expected: Expected, patch: Patch) -> UpdateResult:
        self._acts.pop(id, lambda: None)()
        return super().update_if_match(id, partition_key, expected, patch)


@pytest.mark.parametrize("written", ["key", "job"])
def test_a_job_that_is_redriven_as_a_newer_one_comes_gives_way_now_or_to_the_next_one(desk: Desk, written: str) -> None:
    supersedes(desk, "a", "b", "c")
    id = "a" if written == "job" else keys.key_id("newest", "k")
    store = Meanwhile(desk.store, id, lambda: supersedes(desk, "a", "b", "c", "d"))
    assert desk.ask("redrive", store=store, job_id="a").answer.good
    supersedes(desk, "a", "b", "c", "d", "e")
    assert [name for name in "abcde" if desk.job(name).state is State.READY] == ["e"]


def test_a_job_whose_redrive_could_not_be_written_down_with_its_key_stays_over(desk: Desk) -> None:
    supersedes(desk, "a", "b", "c")
    redrive = desk.ask("redrive", store=NotWritten(desk.store, keys.key_id("newest", "k")), job_id="a")
    assert (redrive.answer.word, desk.job("a").state) == (Word.THROTTLED, State.CANCELLED)


class NotWritten(Forwarding):
    """Fails to change one document."""

    def __init__(self, inner: MemoryDatastore, id: str) -> None:
        super().__init__(inner)
        self._id = id

    def update_if_match(self, id: str, partition_key: str, expected: Expected, patch: Patch) -> UpdateResult:
        if id == self._id:
            raise Unavailable("503")
        return super().update_if_match(id, partition_key, expected, patch)


def test_what_a_submission_has_changed_of_others_is_told_though_it_was_cut_off(desk: Desk) -> None:
    desk.submit("replaced", unique={"key": "u"})
    cut = submit(desk.on(NotWritten(desk.store, keys.key_id("unique", "u"))), "s1", **REPLACES)
    assert (cut.answer.word, changed(cut)) == (Word.OUTCOME_UNKNOWN, {"replaced": State.CANCELLED})
    assert submit(desk.context, "s1", **REPLACES).answer.word is Word.OK
    for job in ("first", "second"):
        desk.submit(job, supersedes="k")
    desk.ask("redrive", job_id="first")
    cut = submit(desk.on(NotWritten(desk.store, "second")), "s2", job_id="newer", supersedes="k", now_ms=NOW + 9)
    assert cut.answer.word is Word.OUTCOME_UNKNOWN
    assert changed(cut) == {"newer": State.READY, "first": State.CANCELLED}


REPLACES: dict[str, Any] = {"job_id": "new", "unique": {"key": "u", "policy": "replace"}}


def changed(settled: Settlement) -> dict[str, State]:
    return {change.after.id: change.after.state for change in settled.changes}


@pytest.mark.parametrize("settled_last", ["old", "new"])
def test_a_submission_that_was_cut_off_before_the_older_job_gave_way_is_finished_by_its_resend(
    desk: Desk, settled_last: str
) -> None:
    taken_ms = {"old": NOW, "new": NOW + 1}
    first = "new" if settled_last == "old" else "old"
    assert submit(desk.context, first, job_id=first, supersedes="k", now_ms=taken_ms[first]).answer.good
    cut_off = desk.on(NotWritten(desk.store, "old"))
    cut = submit(cut_off, settled_last, job_id=settled_last, supersedes="k", now_ms=taken_ms[settled_last])
    assert cut.answer.word is Word.OUTCOME_UNKNOWN
    assert desk.job("old").state is State.READY
    again = submit(desk.context, settled_last, job_id=settled_last, supersedes="k", now_ms=NOW + 9)
    assert again.answer.word is Word.REPLAYED
    assert (desk.job("old").state, desk.job("new").state) == (State.CANCELLED, State.READY)


def cut_off_in_a_row(desk: Desk, meanwhile: Callable[[], None] = lambda: None) -> list[State]:
    """What becomes of three jobs of a key where the last two submissions were cut off as the oldest was to give way."""
    supersedes(desk, "a")
    stuck = desk.on(NotWritten(desk.store, "a"))
    for number, name in enumerate(("b", "c"), start=1):
        cut = submit(stuck, f"s-{name}", job_id=name, supersedes="k", now_ms=NOW + number)
        assert cut.answer.word is Word.OUTCOME_UNKNOWN
        meanwhile()
    assert submit(desk.context, "s-c", job_id="c", supersedes="k", now_ms=NOW + 3).answer.word is Word.REPLAYED
    return [desk.job(name).state for name in "abc"]


def test_a_submission_leaves_none_waiting_whose_newer_jobs_were_all_cut_off(desk: Desk) -> None:
    assert cut_off_in_a_row(desk) == [State.CANCELLED, State.CANCELLED, State.READY]


def test_a_submission_that_comes_late_finishes_what_a_newer_one_began(desk: Desk) -> None:
    supersedes(desk, "a")
    stored = submit(
        desk.on(NoNewest(desk.store, Unavailable("503"))), "s-b", job_id="b", supersedes="k", now_ms=NOW + 1
    )
    newest = submit(desk.on(NotWritten(desk.store, "a")), "s-c", job_id="c", supersedes="k", now_ms=NOW + 2)
    assert [cut.answer.word for cut in (stored, newest)] == [Word.OUTCOME_UNKNOWN] * 2
    assert submit(desk.context, "s-b", job_id="b", supersedes="k", now_ms=NOW + 3).answer.good
    assert [desk.job(name).state for name in "abc"] == [State.CANCELLED, State.CANCELLED, State.READY]


def test_where_nobody_finishes_what_the_one_before_began_the_oldest_waits_for_good(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    sound = keys._superseded

    def for_itself(context: Context, job_id: str, by: str, now_ms: int, **how: Any) -> tuple[Change, ...]:
        return () if by == "b" else sound(context, job_id, by, now_ms, **how)

    broken = partial(monkeypatch.setattr, keys, "_superseded", for_itself)
    assert cut_off_in_a_row(desk, broken) == [State.READY, State.CANCELLED, State.READY]


@pytest.mark.parametrize("failing", ["key", "job"])
def test_a_submission_that_stored_its_spec_is_to_be_repeated_under_its_id_until_its_job_is_made(
    desk: Desk, failing: str
) -> None:
    class Fails(Forwarding):
        def create(self, id: str, partition_key: str, body: Body) -> CreateResult:
            if body["kind"] == failing:
                raise Throttled("429", retry_after_ms=9)
            return super().create(id, partition_key, body)

    cut = submit(desk.on(Fails(desk.store)), "s1", job_id="job", unique={"key": "k"}).answer
    assert (cut.word, cut.retry) == (Word.OUTCOME_UNKNOWN, Retry.SAME_ID)
    assert submit(desk.context, "s1", job_id="job", unique={"key": "k"}).answer.word is Word.OK


def test_a_submission_that_stored_nothing_may_come_under_another_id(desk: Desk) -> None:
    class NoSpecs(Forwarding):
        def create(self, id: str, partition_key: str, body: Body) -> CreateResult:
            raise Throttled(f"429 for {id} of {partition_key} {body['kind']}", retry_after_ms=9)

    cut = submit(desk.on(NoSpecs(desk.store)), "s1", job_id="job", payload=1).answer
    assert (cut.word, cut.retry) == (Word.THROTTLED, Retry.LATER)
    assert submit(desk.context, "s2", job_id="job", payload=2).answer.word is Word.OK
    assert read_submitted(desk.store, "job")["payload"] == 2
