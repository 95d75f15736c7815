"""Recurring jobs: each fire makes one job, however many sweeps there are, and an outage is made up for as asked."""

import hashlib
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import redis
import structlog
from msgspec import structs

from broker import fires, schedules
from broker.client import Client
from broker.clock import ManualClock
from broker.events import STREAM
from broker.keys import key_id
from broker.repository import find_documents
from broker.schedules import EARLIER_MAX
from broker.settings import load
from broker.shared_document import REREADS_MAX
from broker.terms import FIRES_MAX, Term
from datastore import (
    CreateResult,
    Datastore,
    Expected,
    Filter,
    NotFound,
    Page,
    Patch,
    Unavailable,
    UpdateResult,
    connect,
)
from datastore.interface import Body
from tests.caller import Reply
from tests.concurrency.race import at_once
from tests.in_process import InProcess
from tests.twins.forwarding import Forwarding
from tests.twins.sloppy import Upserts
from tests.twins.stale import ShowsEarlier
from workers.sweep import Sweep

MINUTE_MS = 60_000
MINUTES = [f"12{minute:02}00Z" for minute in range(1, 60)]
"""Fires of every minute after noon."""
NOON_MS = int(datetime(2026, 1, 31, 12, 0, 30, tzinfo=UTC).timestamp() * 1_000)


@pytest.fixture
def broker(broker: InProcess) -> InProcess:
    broker.clock.advance(NOON_MS - broker.clock.now_ms())
    return broker


def put(broker: InProcess, cron: str = "* * * * *", **fields: Any) -> Reply:
    fields = {"job": {"payload": 7}, **fields}
    return broker.ask(broker.caller.make("put_schedule", name="tick", cron=cron, **fields))[0]


def change(broker: InProcess, to: str) -> Reply:
    return broker.ask(broker.caller.make("change_schedule", name="tick", to=to))[0]


def made(store: Datastore) -> list[str]:
    return [document.id.removeprefix("tick.20260131T") for document in find_documents(store, {"kind": "job"})]


def test_each_fire_makes_one_job_named_after_its_time(broker: InProcess) -> None:
    assert put(broker, job={"queue": "nightly", "priority": 5, "payload": 7})["body"]["state"] == "active"
    assert broker.sweep().fired == 0
    for _ in range(8):
        broker.clock.advance(15_000)
        broker.sweep()
    assert made(broker.store) == ["120100Z", "120200Z"]
    [grant] = broker.ask(broker.caller.make("claim", queue="nightly"))
    assert (grant["body"]["job_id"], grant["body"]["payload"]) == ("tick.20260131T120100Z", 7)
    assert grant["body"]["labels"] == {"schedule": "tick"}


@pytest.mark.parametrize(
    ("catch_up", "expected"),
    [
        ("none", ["122900Z", "123000Z"]),
        ("last", ["122900Z", "123000Z"]),
        ("all", [f"12{m:02}00Z" for m in range(1, 31)]),
    ],
)
def test_an_outage_is_made_up_for_as_asked(broker: InProcess, catch_up: str, expected: list[str]) -> None:
    put(broker, catch_up=catch_up)
    broker.clock.advance(30 * MINUTE_MS)
    broker.sweep()
    assert made(broker.store) == expected


@pytest.mark.parametrize(
    ("catch_up", "expected"), [("none", []), ("last", ["190000Z"]), ("all", ["140000Z", "190000Z"])]
)
def test_fires_that_were_all_missed_are_made_up_for_as_asked(
    broker: InProcess, catch_up: str, expected: list[str]
) -> None:
    put(broker, "0 14,19 * * *", catch_up=catch_up)
    broker.clock.advance(9 * 60 * MINUTE_MS)
    broker.sweep()
    assert made(broker.store) == expected
    broker.sweep()
    assert made(broker.store) == expected


def test_a_long_outage_is_made_up_for_in_pieces_that_miss_nothing(broker: InProcess) -> None:
    put(broker, catch_up="all")
    broker.clock.advance(250 * MINUTE_MS)
    broker.sweep()
    assert len(made(broker.store)) == FIRES_MAX
    broker.sweep()
    broker.sweep()
    assert len(made(broker.store)) == 250


class NoLock:
    """Sweeps of several brokers, none of which waits for the others."""

    def __init__(self, broker: InProcess, store: Datastore, clock: ManualClock, connection: redis.Redis) -> None:
        self._sweep = Sweep(structs.replace(broker.context, store=store), connection, load())
        self._clock = clock

    def __call__(self) -> None:
        self._sweep.pass_over(self._clock.now_ms())


@pytest.mark.parametrize("minutes", [1, 7])
def test_of_eight_sweeps_at_once_none_doubles_a_fire_and_none_is_missed(
    broker: InProcess, redis_url: str, tmp_path: Path, minutes: int
) -> None:
    url = f"sqlite:///{tmp_path}/jobs.db"
    put(broker, catch_up="all")
    stores, connections = [connect(url) for _ in range(8)], [redis.Redis.from_url(redis_url) for _ in range(8)]
    sweeps = [NoLock(broker, *each[:1], broker.clock, each[1]) for each in zip(stores, connections, strict=True)]
    for _ in range(6):
        broker.clock.advance(minutes * MINUTE_MS)
        at_once(sweeps)
    assert made(broker.store) == MINUTES[: 6 * minutes]
    jobs = list(find_documents(broker.store, {"kind": "job"}))
    assert {job.rev for job in jobs} == {1}
    for store, connection in zip(stores, connections, strict=True):
        store.close()
        connection.close()


class DiesBeforeMovingOn(Forwarding):
    """The sweep dies with the job of a fire made and the schedule not moved on."""

    def update_if_match(self, id: str, partition_key: str, expected: Expected, patch: Patch) -> UpdateResult:
        if "since_ms" in patch:
            raise Unavailable("died")
        return super().update_if_match(id, partition_key, expected, patch)


def test_a_sweep_that_died_half_way_is_followed_by_one_that_doubles_nothing(
    broker: InProcess, redis_client: redis.Redis
) -> None:
    put(broker)
    broker.clock.advance(MINUTE_MS)
    NoLock(broker, DiesBeforeMovingOn(broker.store), broker.clock, redis_client)()
    assert made(broker.store) == ["120100Z"]
    [grant] = broker.ask(broker.caller.make("claim", job_id="tick.20260131T120100Z"))
    broker.ask(broker.caller.make("complete", **{name: grant["body"][name] for name in ("job_id", "epoch", "token")}))
    broker.sweep()
    assert made(broker.store) == ["120100Z"]
    broker.clock.advance(MINUTE_MS)
    broker.sweep()
    assert made(broker.store) == ["120100Z", "120200Z"]


class FullAfter(Forwarding):
    """The store takes so many jobs, and nothing afterwards."""

    def __init__(self, inner: Datastore, jobs: int) -> None:
        super().__init__(inner)
        self._left = jobs

    def create(self, id: str, partition_key: str, body: Body) -> CreateResult:
        if id == partition_key:
            self._left -= 1
        if self._left < 0:
            raise Unavailable("scripted: full")
        return super().create(id, partition_key, body)


@pytest.mark.parametrize("stop", [lambda store: FullAfter(store, 2), DiesBeforeMovingOn])
def test_each_job_is_told_once_though_the_schedule_could_not_be_moved_on(
    broker: InProcess, redis_client: redis.Redis, redis_url: str, stop: Callable[[Datastore], Datastore]
) -> None:
    put(broker, catch_up="all")
    broker.clock.advance(3 * MINUTE_MS)
    NoLock(broker, stop(broker.store), broker.clock, redis_client)()
    broker.sweep()
    with Client.connect(redis_url, factory_id="watcher") as watcher:
        told = [event.job_id for event in watcher.events() if event.event == "submitted"]
    assert told == [f"tick.20260131T{minute}" for minute in MINUTES[:3]]


def test_on_a_store_whose_create_replaces_a_fire_is_doubled_every_time(redis_client: redis.Redis) -> None:
    broker = InProcess(Upserts(), redis_client)
    broker.clock.advance(NOON_MS - broker.clock.now_ms())
    put(broker)
    broker.clock.advance(MINUTE_MS)
    NoLock(broker, DiesBeforeMovingOn(broker.store), broker.clock, redis_client)()
    broker.sweep()
    assert [job.rev for job in find_documents(broker.store, {"kind": "job"})] == [2]


class ShowsAsItWas(Forwarding):
    """Searches show schedules as they were when it was made."""

    def __init__(self, inner: Datastore) -> None:
        super().__init__(inner)
        self._was = inner.find({"kind": "schedule"})

    def find(self, filter: Filter, limit: int = 100, cursor: str | None = None) -> Page:
        return self._was if filter.get("kind") == "schedule" else super().find(filter, limit, cursor)


@pytest.mark.parametrize("to", ["paused", "removed"])
def test_a_schedule_that_was_paused_does_not_fire_though_a_search_shows_it_as_it_was(
    broker: InProcess, to: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(broker, catch_up="all")
    stale = ShowsAsItWas(broker.store)
    change(broker, to)
    broker.clock.advance(MINUTE_MS)
    sweep = NoLock(broker, stale, broker.clock, broker.redis)
    sweep()
    assert made(broker.store) == []
    monkeypatch.setattr(schedules, "_update", lambda _context, document, _patch: document)  # the twin: any version does
    sweep()
    assert made(broker.store) == ["120100Z"]


SCHEDULE = "schedule:tick"


@pytest.mark.parametrize("shown", ["removed", "not yet"])
def test_a_schedule_is_not_called_unknown_for_a_read_from_before_it_was_stored(broker: InProcess, shown: str) -> None:
    put(broker)
    change(broker, "removed")
    was = broker.store.read(SCHEDULE, SCHEDULE) if shown == "removed" else NotFound()
    put(broker)
    behind = ShowsEarlier(broker.store, SCHEDULE, was, times=1 if shown == "removed" else REREADS_MAX)
    assert change(InProcess(behind, broker.redis), "paused")["answer"] == "ok"


def test_a_name_is_not_called_taken_for_a_read_from_before_it_was_free(broker: InProcess) -> None:
    put(broker)
    was = broker.store.read(SCHEDULE, SCHEDULE)
    change(broker, "removed")
    assert put(InProcess(ShowsEarlier(broker.store, SCHEDULE, was, times=1), broker.redis))["answer"] == "ok"


def test_what_a_sweep_makes_wakes_a_claim_that_waits(broker: InProcess) -> None:
    put(broker)
    waiting = broker.caller.make("claim", wait_ms=60_000)
    broker.caller.send(waiting)
    broker.serve()
    broker.clock.advance(45_000)
    broker.sweep()
    broker.serve()
    assert broker.caller.replies(waiting)[0]["body"]["job_id"] == "tick.20260131T120100Z"


def test_a_paused_schedule_rests_and_makes_up_for_nothing_once_resumed(broker: InProcess) -> None:
    put(broker, catch_up="all")
    assert change(broker, "paused")["body"]["state"] == "paused"
    broker.clock.advance(10 * MINUTE_MS)
    broker.sweep()
    assert change(broker, "active")["answer"] == "ok"
    broker.clock.advance(MINUTE_MS)
    broker.sweep()
    assert made(broker.store) == ["121100Z"]


# What was due before a change, and no sweep had come yet.


def replaced(broker: InProcess) -> None:
    assert put(broker, "*/7 * * * *", replace=True, job={"queue": "new"})["answer"] == "ok"


def paused(broker: InProcess) -> None:
    assert change(broker, "paused")["answer"] == "ok"


def paused_and_resumed(broker: InProcess) -> None:
    paused(broker)
    assert change(broker, "active")["answer"] == "ok"


def paused_and_replaced(broker: InProcess) -> None:
    paused(broker)
    replaced(broker)


CHANGES = pytest.mark.parametrize("changed", [replaced, paused, paused_and_resumed, paused_and_replaced])


def queues(store: Datastore) -> set[str]:
    return {str(document.body["queue"]) for document in find_documents(store, {"kind": "job"})}


@CHANGES
@pytest.mark.parametrize("catch_up", ["none", "last", "all"])
def test_a_fire_just_before_a_change_makes_its_job_as_it_was_then(
    broker: InProcess, changed: Callable[[InProcess], None], catch_up: str
) -> None:
    put(broker, "0 * * * *", catch_up=catch_up, job={"queue": "old"})
    broker.clock.advance(60 * MINUTE_MS - 27_000)
    changed(broker)
    for _ in range(3):
        broker.clock.advance(15_000)
        broker.sweep()
    assert (made(broker.store), queues(broker.store)) == (["130000Z"], {"old"})


@CHANGES
@pytest.mark.parametrize(
    ("catch_up", "expected"),
    [("none", []), ("last", ["150000Z"]), ("all", ["130000Z", "140000Z", "150000Z"])],
)
def test_what_an_outage_swallowed_before_a_change_is_made_up_for_as_it_was_asked_then(
    broker: InProcess, changed: Callable[[InProcess], None], catch_up: str, expected: list[str]
) -> None:
    put(broker, "0 * * * *", catch_up=catch_up, job={"queue": "old"})
    broker.clock.advance(200 * MINUTE_MS)
    changed(broker)
    for _ in range(2):
        broker.sweep()
    assert (made(broker.store), queues(broker.store)) == (expected, {"old"} if expected else set())


def test_a_long_outage_before_a_replacement_is_made_up_for_in_pieces_beside_what_the_new_one_fires(
    broker: InProcess,
) -> None:
    put(broker, catch_up="all", job={"queue": "old"})
    broker.clock.advance(150 * MINUTE_MS)
    put(broker, "*/7 * * * *", replace=True, catch_up="none", job={"queue": "new"})
    broker.clock.advance(5 * MINUTE_MS)
    assert [broker.sweep().fired for _ in range(3)] == [FIRES_MAX, 51, 0]
    news = find_documents(broker.store, {"kind": "job", "queue": "new"})
    assert [document.id.removeprefix("tick.20260131T") for document in news] == ["143500Z"]


def test_of_a_schedule_a_sweep_makes_a_hundred_jobs_at_most_those_of_what_it_is_now_first(broker: InProcess) -> None:
    put(broker, catch_up="all", job={"queue": "old"})
    for _ in range(3):
        broker.clock.advance(150 * MINUTE_MS)
        put(broker, replace=True, catch_up="all", job={"queue": "new"})
    broker.clock.advance(70 * MINUTE_MS)
    assert broker.sweep().fired == FIRES_MAX
    assert Counter(document.body["queue"] for document in find_documents(broker.store, {"kind": "job"})) == {
        "old": FIRES_MAX - 70,
        "new": 70,
    }
    assert [broker.sweep().fired for _ in range(5)] == [FIRES_MAX, FIRES_MAX, FIRES_MAX, FIRES_MAX, 20]
    assert len(set(made(broker.store))) == 520


def test_what_fails_of_one_term_leaves_the_others_room(broker: InProcess) -> None:
    put(broker, catch_up="all", job={"queue": "old", "supersedes": "k"})
    broken = "tick.20260131T120200Z"
    broker.store.create(broken, broken, {"kind": "job", "state": 7})
    broker.clock.advance(150 * MINUTE_MS)
    put(broker, "*/7 * * * *", replace=True, job={"queue": "new"})
    broker.clock.advance(5 * MINUTE_MS)
    broker.sweep()
    assert "143500Z" in made(broker.store)


@pytest.mark.parametrize(
    ("job", "corrected"),
    [
        ({"supersedes": "k"}, True),
        ({"unique": {"key": "k", "policy": "replace"}}, True),
        ({"unique": {"key": "k"}}, False),
    ],
    ids=["supersedes", "replaces", "waits"],
)
def test_a_job_of_what_replaced_a_schedule_does_not_give_way_to_one_that_was_owed_before(
    broker: InProcess, job: dict[str, Any], corrected: bool
) -> None:
    put(broker, catch_up="all", job={"queue": "old", **job})
    broker.clock.advance(150 * MINUTE_MS)
    put(broker, replace=True, catch_up="all", job={"queue": "new", **job})
    broker.clock.advance(5 * MINUTE_MS)
    for _ in range(3):
        broker.sweep()
        broker.clock.advance(1_000)
    waiting = {document.body["queue"] for document in find_documents(broker.store, {"kind": "job", "state": "ready"})}
    assert waiting == {"new" if corrected else "old"}, "a fire that waits its turn out makes no job"


def test_a_fire_at_the_moment_of_a_change_is_made_by_a_sweep_whose_time_is_a_little_behind(broker: InProcess) -> None:
    put(broker)
    broker.clock.advance(MINUTE_MS // 2)
    paused(broker)
    Sweep(broker.context, broker.redis, load()).pass_over(broker.clock.now_ms() - 10)
    broker.sweep()
    assert made(broker.store) == ["120100Z"]


@pytest.mark.parametrize("changed", [replaced, paused_and_resumed])
def test_what_was_changed_while_the_clock_was_ahead_owes_no_fires_of_the_future(
    broker: InProcess, changed: Callable[[InProcess], None]
) -> None:
    put(broker, catch_up="all", job={"queue": "old"})
    broker.clock.advance(24 * 60 * MINUTE_MS)
    changed(broker)
    broker.clock.advance(-24 * 60 * MINUTE_MS + 2 * MINUTE_MS)
    for _ in range(3):
        broker.sweep()
    assert made(broker.store) == MINUTES[:2]
    broker.clock.advance(7 * MINUTE_MS)
    broker.sweep()
    later = set(made(broker.store)) - set(MINUTES[:2])
    assert later == ({"120700Z"} if changed is replaced else set(MINUTES[2:9])), "only the schedule as it is now fires"


class ChangedWhileItFires(Forwarding):
    """An operator changes the schedule once the sweep has made the job of a fire, before it has moved on."""

    def __init__(self, inner: Datastore, act: Callable[[], None]) -> None:
        super().__init__(inner)
        self._acts = [act]

    def update_if_match(self, id: str, partition_key: str, expected: Expected, patch: Patch) -> UpdateResult:
        if "since_ms" in patch and self._acts:
            self._acts.pop()()
        return super().update_if_match(id, partition_key, expected, patch)


@CHANGES
def test_a_change_while_a_sweep_fires_doubles_nothing(broker: InProcess, changed: Callable[[InProcess], None]) -> None:
    put(broker, catch_up="all", job={"queue": "old"})
    broker.clock.advance(2 * MINUTE_MS)
    NoLock(broker, ChangedWhileItFires(broker.store, lambda: changed(broker)), broker.clock, broker.redis)()
    assert made(broker.store) == ["120100Z", "120200Z"]
    at_once([NoLock(broker, broker.store, broker.clock, broker.redis) for _ in range(4)])
    assert made(broker.store) == ["120100Z", "120200Z"]
    assert {job.rev for job in find_documents(broker.store, {"kind": "job"})} == {1}


def test_what_was_due_when_a_schedule_was_removed_is_not_made_though_its_name_is_taken_again(
    broker: InProcess,
) -> None:
    put(broker, catch_up="all")
    broker.clock.advance(MINUTE_MS)
    paused(broker)
    change(broker, "removed")
    put(broker)
    broker.clock.advance(MINUTE_MS)
    broker.sweep()
    assert made(broker.store) == ["120200Z"]


def test_a_schedule_that_was_changed_too_often_before_a_sweep_is_changed_once_one_has_come(broker: InProcess) -> None:
    put(broker)
    for _ in range(EARLIER_MAX):
        broker.clock.advance(MINUTE_MS)
        assert put(broker, replace=True, catch_up="all")["answer"] == "ok"
    assert put(broker, replace=True)["answer"] == "ok", "nothing is due of the last one"
    broker.clock.advance(MINUTE_MS)
    assert put(broker, replace=True)["answer"] == "throttled"
    assert change(broker, "paused")["answer"] == "throttled"
    broker.sweep()
    assert made(broker.store) == MINUTES[: EARLIER_MAX + 1]
    assert put(broker, replace=True)["answer"] == "ok"


@pytest.mark.parametrize(
    "broken",
    [{"tz": "Nowhere/Atall"}, {"cron": "never"}, {"job": {"payload": 7, "priority": "x"}}],
    ids=["zone", "times", "job"],
)
def test_a_schedule_that_can_not_fire_is_mended_by_a_replacement(broker: InProcess, broken: dict[str, Any]) -> None:
    put(broker)
    changed = broker.store.update_if_match(SCHEDULE, SCHEDULE, Expected(rev=1), broken)
    assert not isinstance(changed, NotFound)
    broker.clock.advance(MINUTE_MS)
    assert put(broker, replace=True, tz="UTC")["answer"] == "ok"
    broker.clock.advance(MINUTE_MS)
    broker.sweep()
    assert made(broker.store) == ["120200Z"]


@pytest.mark.parametrize("broken", ["job", "key"])
def test_a_fire_that_can_not_be_made_does_not_hold_up_the_schedule_that_replaces_it(
    broker: InProcess, broken: str
) -> None:
    job_id, store = "tick.20260131T120100Z", broker.store
    put(broker, job={"queue": "old", "supersedes": "k"})
    if broken == "job":
        store.create(job_id, job_id, {"kind": "job", "state": 7})
    else:
        newest = key_id("newest", "k")
        key: Body = {"kind": "key", "key": "k", "job_id": "x", "since_ms": 0, "before": "y", "also": ["x"]}
        store.create(newest, newest, key)
        store.create("x", "x", {"kind": "job", "state": 7})
    broker.clock.advance(MINUTE_MS)
    broker.sweep()
    put(broker, replace=True, job={"queue": "new"})
    for _ in range(3):
        broker.clock.advance(MINUTE_MS)
        broker.sweep()
    news = find_documents(broker.store, {"kind": "job", "queue": "new"})
    assert [document.id.removeprefix("tick.20260131T") for document in news] == MINUTES[1:4]


def owes_in_a_zone_unknown_here(broker: InProcess) -> None:
    """Replaced, and what it owes from before has a zone that only another broker knows."""
    put(broker)
    broker.clock.advance(MINUTE_MS)
    put(broker, replace=True)
    [schedule] = broker.store.find({"kind": "schedule"}).documents
    earlier: Any = schedule.body["earlier"]
    changed: Body = {"earlier": [{**earlier[0], "tz": "Nowhere/Atall"}]}
    assert not isinstance(broker.store.update_if_match(SCHEDULE, SCHEDULE, Expected(rev=2), changed), NotFound)


def test_what_is_owed_in_an_unknown_zone_is_kept_and_holds_up_nothing(broker: InProcess) -> None:
    owes_in_a_zone_unknown_here(broker)
    broker.clock.advance(MINUTE_MS)
    broker.sweep()
    assert made(broker.store) == ["120200Z"]
    assert put(broker, replace=True)["answer"] == "ok"
    [schedule] = broker.store.find({"kind": "schedule"}).documents
    assert "Nowhere/Atall" in str(schedule.body["earlier"])


def test_a_schedule_in_an_unknown_zone_is_listed_and_changed_without_its_next_time(broker: InProcess) -> None:
    owes_in_a_zone_unknown_here(broker)
    broker.store.update_if_match(SCHEDULE, SCHEDULE, Expected(rev=3), {"tz": "Nowhere/Atall"})
    broker.ask(broker.caller.make("put_schedule", name="other", cron="* * * * *", job={}))
    listed = broker.ask(broker.caller.make("list_schedules"))[0]["body"]["schedules"]
    assert [(each["name"], each["next_ms"] is None) for each in listed] == [("other", False), ("tick", True)]
    for to in "paused", "active":
        told = change(broker, to)
        assert (told["answer"], told["body"]["next_ms"]) == ("ok", None)


def test_who_changes_a_schedule_is_told_when_it_fires_next_as_it_is_now(broker: InProcess) -> None:
    put(broker)
    broker.clock.advance(MINUTE_MS)
    told = put(broker, "0 * * * *", replace=True)["body"]["next_ms"]
    [shown] = broker.ask(broker.caller.make("list_schedules", name="tick"))[0]["body"]["schedules"]
    assert told == shown["next_ms"] == NOON_MS - 30_000 + 60 * MINUTE_MS
    assert "earlier" not in shown
    assert change(broker, "paused")["body"]["next_ms"] is None
    broker.sweep()
    assert broker.ask(broker.caller.make("list_schedules"))[0]["body"]["schedules"][0]["next_ms"] is None


def test_a_removed_schedule_is_gone_and_its_name_free(broker: InProcess) -> None:
    put(broker)
    assert put(broker)["reason"] == "exists"
    assert change(broker, "removed")["answer"] == "ok"
    assert change(broker, "active")["answer"] == "not_found"
    broker.clock.advance(MINUTE_MS)
    assert broker.sweep().fired == 0
    assert put(broker, "0 * * * *")["answer"] == "ok"


def test_schedules_are_listed_replaced_and_stored_once_for_each_request(broker: InProcess) -> None:
    request = broker.caller.make("put_schedule", name="tick", cron="0 2 * * *", tz="Europe/Berlin", job={"payload": 7})
    assert [broker.ask(request)[0]["answer"] for _ in range(2)] == ["ok", "replayed"]
    [listed] = broker.ask(broker.caller.make("list_schedules"))[0]["body"]["schedules"]
    assert (listed["name"], listed["next_ms"], listed["job"]) == ("tick", NOON_MS - 30_000 + 13 * 60 * MINUTE_MS, None)
    assert put(broker, "0 3 * * *", replace=True)["answer"] == "ok"
    [shown] = broker.ask(broker.caller.make("list_schedules", name="tick"))[0]["body"]["schedules"]
    assert (shown["cron"], shown["tz"], shown["job"]["payload"]) == ("0 3 * * *", "Europe/Berlin", 7)


def test_a_fire_of_a_unique_job_waits_its_turn_out(broker: InProcess) -> None:
    put(broker, job={"unique": {"key": "tick"}})
    for _ in range(3):
        broker.clock.advance(MINUTE_MS)
        broker.sweep()
    assert made(broker.store) == ["120100Z"]


def second_makes_no_job(broker: InProcess, unique: dict[str, str]) -> tuple[str, Any]:
    """The job that the first of two fires has made, and what is logged of the second."""
    put(broker, job={"unique": unique})
    with structlog.testing.capture_logs() as logs:
        for _ in range(2):
            broker.clock.advance(MINUTE_MS)
            broker.sweep()
    [first] = [job.id for job in find_documents(broker.store, {"kind": "job"})]
    [told] = [each for each in logs if each["event"] == "fire_made_no_job"]
    return first, told


def test_a_fire_that_makes_no_job_is_logged_and_its_schedule_names_the_job_that_was_made(broker: InProcess) -> None:
    first, told = second_makes_no_job(broker, {"key": "tick"})
    assert (told["name"], told["why"], told["told"]["job_id"]) == ("tick", "not_unique", first)
    [shown] = broker.ask(broker.caller.make("list_schedules"))[0]["body"]["schedules"]
    assert shown["last_job_id"] == first
    assert shown["last_fire_ms"] == broker.clock.now_ms() // MINUTE_MS * MINUTE_MS


def test_a_fire_that_joins_a_job_makes_none_and_is_logged(broker: InProcess) -> None:
    first, told = second_makes_no_job(broker, {"key": "tick", "policy": "join"})
    assert (told["told"]["job_id"], told["told"]["joined"]) == (first, True)
    [shown] = broker.ask(broker.caller.make("list_schedules"))[0]["body"]["schedules"]
    assert shown["last_job_id"] == first


def test_what_is_replaced_keeps_its_zone_its_catch_up_and_its_pause_unless_told_otherwise(broker: InProcess) -> None:
    def shown() -> tuple[str, str, str, str]:
        [found] = broker.ask(broker.caller.make("list_schedules", name="tick"))[0]["body"]["schedules"]
        return found["cron"], found["tz"], found["catch_up"], found["state"]

    put(broker, "0 2 * * *", tz="Europe/Berlin", catch_up="all")
    change(broker, "paused")
    assert put(broker, "0 3 * * *", replace=True)["body"]["state"] == "paused"
    assert shown() == ("0 3 * * *", "Europe/Berlin", "all", "paused")
    change(broker, "active")
    moved = put(broker, "0 3 * * *", replace=True, tz="Asia/Tokyo")
    assert datetime.fromtimestamp(moved["body"]["next_ms"] / 1_000, UTC).hour == 18
    assert put(broker, "0 3 * * *", replace=True, catch_up="none")["answer"] == "ok"
    assert shown() == ("0 3 * * *", "Asia/Tokyo", "none", "active")
    change(broker, "removed")
    put(broker, "0 3 * * *")
    assert shown() == ("0 3 * * *", "UTC", "last", "active")


def fired_where_its_ids_are_taken(broker: InProcess) -> list[str]:
    """Of two fires whose ids a factory has taken: the jobs that the schedule itself has made, sweeps going at once."""
    put(broker, catch_up="all")
    taken = [f"tick.20260131T{minute}" for minute in MINUTES[:2]]
    submitted = broker.ask(*(broker.caller.make("submit", job_id=each, payload="nothing") for each in taken))
    assert [reply["answer"] for reply in submitted] == ["ok", "ok"]
    broker.clock.advance(2 * MINUTE_MS)
    at_once([NoLock(broker, broker.store, broker.clock, broker.redis) for _ in range(4)])
    return sorted({job.id for job in find_documents(broker.store, {"kind": "job"})} - set(taken))


def test_a_fire_whose_id_somebody_has_taken_makes_one_job_under_another(broker: InProcess) -> None:
    first, second = fired_where_its_ids_are_taken(broker)
    assert (first[:-16], second[:-16]) == ("tick.20260131T120100Z.", "tick.20260131T120200Z.")
    [shown] = broker.ask(broker.caller.make("list_schedules"))[0]["body"]["schedules"]
    assert shown["last_job_id"] == second
    [told] = broker.ask(broker.caller.make("get_job", job_id=second))
    assert (told["body"]["spec"]["payload"], told["body"]["spec"]["submitted_by"]) == (7, "schedule")


def test_where_no_other_id_is_tried_whoever_takes_its_id_suppresses_a_fire(
    broker: InProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The twin."""
    monkeypatch.setattr(fires, "_another_id", lambda name, _term, fire_ms: fires.job_id(name, fire_ms))
    assert fired_where_its_ids_are_taken(broker) == []


def of_the_request_id(name: str, fire_ms: int, request_id: str) -> str:
    digest = hashlib.sha256(f"{name} {fire_ms} {request_id}".encode()).hexdigest()[:16]
    return f"{fires.job_id(name, fire_ms)}.{digest}"


def fired_where_what_events_tell_is_taken(broker: InProcess) -> list[str]:
    """Jobs that a schedule has made, of which somebody has taken the ids that can be made of what events tell of it."""
    request = broker.caller.make("put_schedule", name="tick", cron="* * * * *", job={"payload": 7})
    fire_ms = broker.ask(request)[0]["body"]["next_ms"]
    told = broker.redis.xrange(STREAM)
    assert request.request_id in str(told)
    [shown] = broker.ask(broker.caller.make("list_schedules", name="tick"))[0]["body"]["schedules"]
    secret = str(broker.store.find({"kind": "schedule"}).documents[0].body["secret"])
    assert secret not in str(told) + str(shown)
    taken = [fires.job_id("tick", fire_ms), of_the_request_id("tick", fire_ms, request.request_id)]
    broker.ask(*(broker.caller.make("submit", job_id=each, payload="nothing") for each in taken))
    broker.clock.advance(MINUTE_MS)
    broker.sweep()
    return sorted({job.id for job in find_documents(broker.store, {"kind": "job"})} - set(taken))


def test_who_has_seen_a_schedule_being_set_can_t_work_out_the_other_id_of_its_jobs(broker: InProcess) -> None:
    assert [each[:-16] for each in fired_where_what_events_tell_is_taken(broker)] == ["tick.20260131T120100Z."]


def test_an_other_id_made_of_the_request_id_is_worked_out(broker: InProcess, monkeypatch: pytest.MonkeyPatch) -> None:
    """The twin."""

    def another_id(name: str, _term: Term, fire_ms: int) -> str:
        [schedule] = broker.store.find({"kind": "schedule"}).documents
        return of_the_request_id(name, fire_ms, str(schedule.body["request_id"]))

    monkeypatch.setattr(fires, "_another_id", another_id)
    assert fired_where_what_events_tell_is_taken(broker) == []


@pytest.mark.cosmos
def test_several_sweeps_make_each_job_once_on_cosmos(cosmos_url: str, redis_client: redis.Redis) -> None:
    store = connect(cosmos_url)
    broker = InProcess(store, redis_client)
    broker.clock.advance(NOON_MS - broker.clock.now_ms())
    put(broker, catch_up="all")
    broker.clock.advance(3 * MINUTE_MS)
    at_once([NoLock(broker, store, broker.clock, redis_client) for _ in range(4)])
    assert made(store) == ["120100Z", "120200Z", "120300Z"]
    assert {job.rev for job in find_documents(store, {"kind": "job"})} == {1}
    store.close()
