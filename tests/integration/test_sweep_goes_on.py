"""A sweep does what it can: a search that always fails, or one document that is broken, holds up nothing else."""

import sqlite3
from collections.abc import Callable, Mapping
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import pytest
import redis

from broker.index import INDEXED
from broker.limits import limit_key
from broker.repository import INDEXES
from broker.slots import slot_id
from datastore import Corrupt, Datastore, DatastoreError, Expected, Filter, Ok, Page, Unavailable, connect
from tests.concurrency.race import read
from tests.in_process import SKEW_MS, TTL_MS, InProcess
from tests.twins.forwarding import Forwarding

READY = "broker:ready:default:in:[]"


class LosesASearch(Forwarding):
    """The searches that `lost` names fail, each time."""

    def __init__(self, inner: Datastore, lost: Callable[[Filter, str | None], bool], error: DatastoreError) -> None:
        super().__init__(inner)
        self._lost = lost
        self._error = error

    def find(self, filter: Filter, limit: int = 100, cursor: str | None = None) -> Page:
        if self._lost(filter, cursor):
            raise self._error
        return super().find(filter, limit, cursor)


def much_to_do(broker: InProcess) -> None:
    """A dead lease, a ready job without a hint, a blocked job of whose parent's end nobody was told."""
    broker.submit("parent", "dead", "lost")
    broker.submit("child", depends_on=["parent"])
    for job in ("parent", "dead"):
        [granted] = broker.ask(broker.caller.make("claim", job_id=job))
        if job == "parent":
            fence = {name: granted["body"][name] for name in ("job_id", "epoch", "token")}
            broker.redis.delete("broker:children:parent")
            assert broker.ask(broker.caller.make("complete", **fence))[0]["answer"] == "ok"
    broker.clock.advance(TTL_MS + SKEW_MS + 1)
    broker.redis.delete(READY)


def done(broker: InProcess) -> list[str]:
    """What of it is done."""
    states = {"dead": "ready", "child": "ready"}
    found = [job for job, state in states.items() if read(broker.store, job).state == state]
    return found + (["lost"] if broker.redis.zscore(READY, "lost") is not None else [])


SEARCHES: Mapping[str, tuple[Callable[[Filter], bool], set[str]]] = {
    "schedules": (lambda search: search["kind"] == "schedule", set()),
    "dead leases": (lambda search: "lease.expires_ms" in search, {"dead"}),
    "cancels": (lambda search: "cancel.enforce_ms" in search, set()),
    "what is scheduled": (lambda search: "not_before_ms" in search, set()),
    "deadlines": (lambda search: "deadline_ms" in search, set()),
    "stuck runs": (lambda search: "stuck_after_ms" in search, set()),
    "factories": (lambda search: search["kind"] == "factory", set()),
    "blocked jobs": (lambda search: search == {"kind": "job", "state": "blocked"}, {"child"}),
    "what is from the future": (lambda search: "updated_ms" in search, set()),
    "open runs": (lambda search: "open" in search, set()),
    "ready jobs": (lambda search: search == {"kind": "job", "state": "ready"}, {"lost"}),
}


@pytest.mark.parametrize("case", SEARCHES)
def test_where_one_search_always_fails_all_else_is_done(broker: InProcess, case: str) -> None:
    much_to_do(broker)
    lost, undone = SEARCHES[case]

    def is_lost(search: Filter, _cursor: str | None) -> bool:
        return lost({"kind": "", **search})

    failing = InProcess(LosesASearch(broker.store, is_lost, Unavailable("scripted")), broker.redis)
    failing.clock.advance(broker.clock.now_ms() - failing.clock.now_ms())
    with pytest.raises(Unavailable):
        failing.sweep()
    assert set(done(broker)) == {"dead", "child", "lost"} - undone


def schedule(broker: InProcess, **broken: Any) -> None:
    """One that is due, as no broker writes it: by a host that knows other time zones, or a later release."""
    put = broker.caller.make("put_schedule", name="tick", cron="* * * * *", job={"payload": 7})
    assert broker.ask(put)[0]["answer"] == "ok"
    changed = broker.store.update_if_match("schedule:tick", "schedule:tick", Expected(rev=1), {**broken, "next_ms": 1})
    assert isinstance(changed, Ok)


def limit(broker: InProcess, **broken: Any) -> None:
    assert broker.ask(broker.caller.make("set_limit", limit="queue:other", capacity=1))[0]["answer"] == "ok"
    slot = slot_id(limit_key("queue:other"))
    assert isinstance(broker.store.create(slot, slot, broken), Ok)


BROKEN: Mapping[str, Callable[[InProcess], None]] = {
    "a schedule of a zone that this host does not know": lambda broker: schedule(broker, tz="Nowhere/Atall"),
    "a schedule at times that are none": lambda broker: schedule(broker, cron="never"),
    "a schedule of a job that is none": lambda broker: schedule(broker, job={"payload": 7, "priority": "x"}),
    "a schedule that is none": lambda broker: schedule(broker, catch_up=7),
    "the slot of a limit": lambda broker: limit(broker, kind="slot", key="limit:queue:other", holders=7),
}


@pytest.mark.parametrize("case", BROKEN)
def test_one_document_that_is_broken_holds_up_nothing_else(broker: InProcess, case: str) -> None:
    BROKEN[case](broker)
    much_to_do(broker)
    with suppress(Exception):  # it may say so
        broker.sweep()
    assert set(done(broker)) == {"dead", "child", "lost"}


def test_what_comes_before_a_page_that_can_not_be_read_does_not_wait_for_it(
    broker: InProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("broker.repository.PAGE_DOCUMENTS", 2)
    broker.submit("a", "b", "c", "d")
    broker.redis.set(INDEXED, 1)

    def second_page(search: Filter, cursor: str | None) -> bool:
        return search.get("state") == "ready" and cursor is not None

    failing = InProcess(LosesASearch(broker.store, second_page, Corrupt("scripted")), broker.redis)
    for _ in range(2):
        broker.redis.delete(READY)
        with pytest.raises(Corrupt):
            failing.sweep()
        assert broker.redis.zrange(READY, 0, -1) == [b"a", b"b"]


def test_what_is_due_before_a_page_that_can_not_be_read_does_not_wait_for_it(
    broker: InProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("broker.repository.PAGE_DOCUMENTS", 2)
    broker.submit("a", "b", "c", "d", not_before_ms=broker.clock.now_ms() + 1_000)

    def second_page(search: Filter, cursor: str | None) -> bool:
        return "not_before_ms" in search and cursor is not None

    failing = InProcess(LosesASearch(broker.store, second_page, Unavailable("scripted")), broker.redis)
    failing.clock.advance(broker.clock.advance(2_000) - failing.clock.now_ms())
    with pytest.raises(Unavailable):
        failing.sweep()
    assert [read(broker.store, job).state.value for job in "abcd"] == ["ready", "ready", "scheduled", "scheduled"]


def test_a_document_that_does_not_parse_hides_no_dead_lease_behind_it(
    redis_client: redis.Redis, tmp_path: Path
) -> None:
    path = tmp_path / "jobs.db"
    broker = InProcess(connect(f"sqlite:///{path}", indexes=INDEXES), redis_client)
    broker.submit("b")
    broker.ask(broker.caller.make("claim", job_id="b"))
    body = r'{"kind": "job", "state": "leased", "lease": {"expires_ms": 1}, "queue": "\ud800"}'
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute(
            "INSERT INTO documents (partition_key, id, rev, etag, body) VALUES ('a', 'a', 1, 'e', ?)", (body,)
        )
    broker.clock.advance(TTL_MS + SKEW_MS + 1)
    assert broker.sweep().reaped == 1
    [listed] = broker.ask(broker.caller.make("list_jobs"))
    assert [job["id"] for job in listed["body"]["jobs"]] == ["b"]
