"""Submissions whose store fails half-way, or that come again: one job, one answer, and no effect that was refused."""

from typing import Any

import pytest

from broker import coordinator, schedules
from broker.answers import Reason, Retry, Word
from broker.coordinator import Context, Settlement
from broker.documents import State
from broker.messages import REQUESTS
from broker.repository import read_submitted
from broker.settle import settle
from datastore import Corrupt, DatastoreError, NotFound, Ok, Throttled, Unavailable
from datastore.interface import Expected, Patch, UpdateResult
from datastore.memory import MemoryDatastore
from tests.twins.forwarding import Forwarding
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


def test_a_submission_replaces_a_job_that_waits(desk: Desk) -> None:
    desk.submit("old", unique={"key": "k"})
    assert submit(desk.context, "s1", job_id="new", unique={"key": "k", "policy": "replace"}).answer.word is Word.OK
    assert (desk.job("old").state, desk.job("old").why) == (State.CANCELLED, "replaced by new")
