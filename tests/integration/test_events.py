"""The event stream: what a watcher sees, resumes after, and is told it has missed."""

import asyncio
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis

from broker import telling
from broker.client import AsyncClient, BrokerUnavailable, Client, InvalidRequest
from broker.events import STREAM, Event
from datastore import connect
from tests.in_process import SKEW_MS, TTL_MS, InProcess
from tests.processes import wait_for


@pytest.fixture
def broker(anywhere: InProcess) -> InProcess:
    """On a store of each kind."""
    return anywhere


@pytest.fixture
def watcher(redis_url: str) -> Iterator[Client]:
    """Somebody who only watches."""
    with Client.connect(redis_url, factory_id="watcher") as client:
        yield client


def _life(broker: InProcess, job_id: str = "job") -> dict[str, Any]:
    """Submitted, claimed, refused to another, renewed, completed, and a late word of the same holder."""
    broker.submit(job_id)
    fence = _claim(broker, job_id)
    broker.ask(broker.caller.make("claim", job_id=job_id))
    broker.ask(broker.caller.make("renew", **fence))
    broker.ask(broker.caller.make("complete", **fence, request_id=f"end-{job_id}"))
    broker.ask(broker.caller.make("fail", **fence))
    return fence


def _claim(broker: InProcess, job_id: str) -> dict[str, Any]:
    [grant] = broker.ask(broker.caller.make("claim", job_id=job_id))
    assert grant["answer"] == "granted"
    return {name: grant["body"][name] for name in ("job_id", "epoch", "token")}


LIFE = ["submitted", "claimed", "lost", "renewed", "completed", "refused_stale"]


def _names(events: Any) -> list[str]:
    return [event.event for event in events]


def test_a_life_is_told_in_order_with_who_and_by_which_request(broker: InProcess, watcher: Client) -> None:
    fence = _life(broker)
    told = list(watcher.events())
    assert _names(told) == LIFE
    assert {(event.job_id, event.factory_id) for event in told} == {("job", "factory")}
    assert [event.epoch for event in told] == [0, 1, 1, 1, 1, 1]
    completed = told[LIFE.index("completed")]
    assert (completed.request_id, completed.state, completed.renewals) == ("end-job", "succeeded", 1)
    assert told[LIFE.index("lost")].holder == "factory"
    assert all(event.request_id for event in told)
    assert fence["token"].encode() not in b"".join(str(entry).encode() for entry in broker.redis.xrange(STREAM) or ())


def test_of_leases_renewed_together_each_is_told_by_itself(broker: InProcess, watcher: Client) -> None:
    broker.submit("mine", "lost")
    mine, lost = _claim(broker, "mine"), _claim(broker, "lost")
    broker.ask(broker.caller.make("revoke", job_id="lost"))
    broker.ask(broker.caller.make("renew_many", leases=[mine, lost]))
    renewed, refused = list(watcher.events())[-2:]
    assert (renewed.event, renewed.job_id, renewed.renewals) == ("renewed", "mine", 1)
    assert (refused.event, refused.job_id, refused.epoch, refused.reason) == ("refused_stale", "lost", 1, "revoked")


def test_what_an_operator_changes_for_the_fleet_is_told_with_who_and_why(broker: InProcess, watcher: Client) -> None:
    schedule = {"name": "nightly", "cron": "0 2 * * *", "job": {}}
    until_ms = broker.clock.now_ms() + 60_000
    asked: list[tuple[str, dict[str, Any]]] = [
        ("pause_queue", {"queue": "builds", "reason": "deploy"}),
        ("resume_queue", {"queue": "builds"}),
        ("set_limit", {"limit": "key:db", "capacity": 3, "rate": {"count": 30, "per_ms": 60_000}}),
        ("remove_limit", {"limit": "key:db"}),
        ("register_factory", {"capacity": 4}),
        ("drain_factory", {"factory": "mac-1", "reason": "update", "until_ms": until_ms}),
        ("resume_factory", {"factory": "mac-1"}),
        ("put_schedule", schedule),
        ("put_schedule", schedule),  # it exists: nothing was changed
        ("change_schedule", {"name": "nightly", "to": "paused"}),
        ("change_schedule", {"name": "nightly", "to": "removed"}),
        ("remove_factory", {"factory": "mac-1"}),
    ]
    for op, body in asked:
        broker.ask(broker.caller.make(op, **body))
    told = [event for event in watcher.events() if not event.job_id]
    assert [(event.event, event.subject, event.reason) for event in told] == [
        ("queue_paused", "queue builds", "deploy"),
        ("queue_resumed", "queue builds", None),
        ("limit_set", "limit key:db", "3 at once, 30 per 60000 ms"),
        ("limit_removed", "limit key:db", None),
        ("factory_registered", "factory factory", None),
        ("factory_draining", "factory mac-1", "update"),
        ("factory_resumed", "factory mac-1", None),
        ("schedule_set", "schedule nightly", None),
        ("schedule_paused", "schedule nightly", None),
        ("schedule_removed", "schedule nightly", None),
        ("factory_removed", "factory mac-1", None),
    ]
    assert not [event for event in told if "job_id" in event.plain()], "what does not apply is left out"
    [draining] = [event for event in watcher.events(factory_id="mac-1") if event.event == "factory_draining"]
    assert (draining.by, draining.until_ms) == ("factory", until_ms)
    assert not [event for event in watcher.events(job_id="job") if event.subject]


def test_what_time_does_is_told_by_the_sweep(broker: InProcess, watcher: Client) -> None:
    broker.submit("job")
    _claim(broker, "job")
    broker.clock.advance(TTL_MS + SKEW_MS + 1)
    broker.sweep()
    expired = list(watcher.events())[-1]
    assert (expired.event, expired.factory_id, expired.epoch, expired.state) == ("expired", "factory", 1, "ready")
    assert expired.at_ms == broker.clock.now_ms()


def test_a_watcher_goes_on_after_any_event_and_misses_none(broker: InProcess, watcher: Client) -> None:
    broker.submit(*(f"job-{number}" for number in range(20)))  # several in one entry
    told = list(watcher.events())
    assert len(told) == 20
    for position, event in enumerate(told):
        assert list(watcher.events(since=event.cursor)) == told[position + 1 :]


def test_events_are_chosen_by_job_and_by_factory(broker: InProcess, watcher: Client) -> None:
    _life(broker, "a")
    _life(broker, "b")
    assert {event.job_id for event in watcher.events(job_id="a")} == {"a"}
    assert len(list(watcher.events(factory_id="factory"))) == 2 * len(LIFE)
    assert list(watcher.events(factory_id="nobody")) == []


def test_a_follower_is_told_as_it_happens(broker: InProcess, watcher: Client) -> None:
    _life(broker, "before")
    seen: list[Event] = []

    def follow() -> None:
        for event in watcher.events(since="now", follow=True):
            seen.append(event)
            if event.event == "refused_stale":
                return

    thread = threading.Thread(target=follow)
    thread.start()
    _wait_for_reader(broker)
    _life(broker, "after")
    thread.join(10)
    assert _names(seen) == LIFE
    assert {event.job_id for event in seen} == {"after"}


def test_the_asyncio_client_tells_the_same(broker: InProcess, watcher: Client, redis_url: str) -> None:
    _life(broker)

    async def collect(**options: Any) -> list[Event]:
        async with AsyncClient.connect(redis_url, factory_id="watcher") as client:
            found: list[Event] = []
            async for event in client.events(**options):
                found.append(event)
                if len(found) == len(LIFE):
                    break
            return found

    assert asyncio.run(collect()) == list(watcher.events())
    assert asyncio.run(collect(follow=True, job_id="job")) == list(watcher.events())


def test_a_cursor_that_the_stream_no_longer_reaches_is_told(broker: InProcess, watcher: Client) -> None:
    _life(broker, "a")
    cursor = next(iter(watcher.events())).cursor
    broker.redis.delete(STREAM)
    assert _names(watcher.events(since=cursor)) == ["missed"]
    _life(broker, "b")
    assert _names(watcher.events(since=cursor)) == ["missed", *LIFE]


def test_the_stream_is_bounded(on_sqlite: InProcess, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(telling, "ENTRIES_MAX", 100)
    on_sqlite.submit("job")
    fence = _claim(on_sqlite, "job")
    for _ in range(600):
        on_sqlite.ask(on_sqlite.caller.make("renew", **fence))
    assert on_sqlite.redis.xlen(STREAM) < 400  # about: whole nodes of the stream are dropped


def test_the_stream_takes_no_more_of_redis_than_its_bound_says(redis_client: redis.Redis) -> None:
    name = "n" * 128
    said = Event(event="refused_stale", job_id=name, at_ms=1, factory_id=name, holder=name, reason="\x01" * 200)
    together = Event(event="renewed", job_id="", at_ms=1, leases=[(name, 1, 1, 1)] * telling.EVENT_LEASES_MAX)
    for events in ([said] * 64, [together] * 4):
        redis_client.delete(STREAM)
        while redis_client.xlen(STREAM) < telling.ENTRIES_MAX:
            with redis_client.pipeline(transaction=False) as pipe:
                for _ in range(50):
                    telling.publish(pipe, events)
                pipe.execute()
        assert 40_000_000 < (redis_client.memory_usage(STREAM, samples=0) or 0) < 85_000_000


def test_what_is_no_event_is_passed_over(broker: InProcess, watcher: Client) -> None:
    for fields in ({"x": "y"}, {"e": "not JSON"}, {"e": '{"a":1}'}):
        broker.redis.xadd(STREAM, fields)  # type: ignore[arg-type]  # redis-py narrows dict keys
    _life(broker)
    assert _names(watcher.events()) == LIFE


def test_a_reader_that_is_refused_is_told_so(broker: InProcess, watcher: Client) -> None:
    broker.redis.set(STREAM, "x")
    with pytest.raises(BrokerUnavailable, match="WRONGTYPE"):
        list(watcher.events())


def test_a_cursor_that_is_none_is_refused_at_once(watcher: Client) -> None:
    with pytest.raises(InvalidRequest, match="not a cursor"):
        watcher.events(since="yesterday")


def test_a_reader_needs_one_right_only(broker: InProcess, redis_client: redis.Redis, redis_url: str) -> None:
    _life(broker)
    rights = ["auth", "hello", "ping", "time", "client|setname", "client|setinfo"]
    redis_client.acl_setuser(
        "reader",
        enabled=True,
        reset=True,
        passwords=["+secret"],
        commands=[f"+{right}" for right in rights],
        selectors=[("+blpop +lpop", "~broker:reply:reader:*"), ("+xread", f"~{STREAM}")],
    )
    try:
        with Client.connect(f"{_as(redis_url, 'reader')}", factory_id="reader") as client:
            told = list(client.events())
            assert _names(told) == LIFE
            assert _names(client.events(since=told[2].cursor)) == LIFE[3:]
    finally:
        redis_client.acl_deluser("reader")


def _as(url: str, user: str) -> str:
    scheme, _, rest = url.partition("://")
    return f"{scheme}://{user}:secret@{rest.rpartition('@')[2]}"


def _wait_for_reader(broker: InProcess) -> None:
    wait_for(lambda: any(each["cmd"] == "xread" for each in broker.redis.client_list()), "somebody reads the stream")


# Run history.


@pytest.mark.parametrize("url", ["memory://", "sqlite:///{}/runs.db"])
def test_a_run_keeps_its_renewals_its_holder_and_its_reason(
    url: str, redis_client: redis.Redis, tmp_path: Path
) -> None:
    store = connect(url.format(tmp_path))
    broker = InProcess(store, redis_client)
    broker.submit("job")
    fence = _claim(broker, "job")
    broker.ask(broker.caller.make("renew", **fence), broker.caller.make("renew", **fence))
    [reply] = broker.ask(broker.caller.make("list_runs", job_id="job"))
    assert (reply["body"]["runs"][0]["renewals"], reply["body"]["runs"][0].get("outcome")) == (2, None)
    broker.ask(broker.caller.make("release", **fence, reason="low disk"))
    _claim(broker, "job")
    broker.clock.advance(TTL_MS + SKEW_MS + 1)
    broker.sweep()
    [reply] = broker.ask(broker.caller.make("list_runs", job_id="job"))
    first, second = reply["body"]["runs"]
    assert (first["factory_id"], first["renewals"], first["outcome"], first["error"]) == (
        "factory",
        2,
        "released",
        "low disk",
    )
    assert (second["epoch"], second["renewals"], second["outcome"]) == (2, 0, "expired")
    store.close()
