"""Hints that nobody of ours has written: what makes no sense is passed over and cleared away, and all live on."""

import dataclasses
import itertools
import signal
import threading
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
import redis

from broker import index, lock_waits, owed, parked_sets
from broker.claim_next import answer_key, claim_id, end_waits, mark_key
from broker.families import children_key
from broker.messages import Claim
from broker.queues import QUEUES
from broker.settings import load
from datastore import connect
from tests.caller import Caller
from tests.fleet import Fleet
from tests.in_process import InProcess
from tests.processes import wait_for
from workers import left_behind
from workers.claim_worker import ServeLoop
from workers.runtime import open_runtime
from workers.taking import WORKERS

pytestmark = pytest.mark.redis

READY, PARKED = "broker:ready:default", "broker:parked:default"
NO_TEXT = b"\xff"
NO_TEXT_WITHIN = b'{"job_id":"' + NO_TEXT + b'"}'


def a_set(prefix: str, name: bytes) -> Callable[[redis.Redis], object]:
    """A set of terms of this name, with a member."""

    def write(client: redis.Redis) -> None:
        client.sadd(f"{prefix}:sets", name)
        client.zadd(prefix.encode() + b":in:" + name, {"x": 1})

    return write


def an_entry(entry: bytes) -> Callable[[redis.Redis], object]:
    """An entry before all others of the jobs that require nothing."""

    def write(client: redis.Redis) -> None:
        client.sadd(f"{READY}:sets", "[]")
        client.zadd(f"{READY}:in:[]", {entry: -1e15})

    return write


POISON: Mapping[str, Callable[[redis.Redis], object]] = {
    **{
        f"{prefix}, a set named {name!r}"[:60]: a_set(prefix, name)
        for prefix in (READY, PARKED)
        for name in (b"garbage", b"5", b"[5]", b'{"a":1}', b'[["a"],{"b":"c"}]', b"[" * 90_000, b'"a"', NO_TEXT)
    },
    "parked claims with preferences": a_set(PARKED, b'[["a"],{"b":1}]'),
    "an entry that looks like a lane": an_entry(b"~garbage"),
    "a lane of a priority beyond numbers": an_entry(b"~" + b"9" * 400 + b"~x"),
    "an entry that is no text": an_entry(NO_TEXT),
    "an entry without a name": an_entry(b""),
    "an entry with a name that no job may have": an_entry(b"/?#\\"),
    "an entry with a long name": an_entry(b"x" * 3_000),
    "a lane that is no text": an_entry(b"~0~" + NO_TEXT),
    "sets of another type": lambda client: client.set("broker:ready:other:sets", "x"),
    "members of another type": lambda client: (
        client.sadd(f"{READY}:sets", '["a"]'),
        client.set(f'{READY}:in:["a"]', "x"),
    ),
    "a job that owes a run and is no text": lambda client: client.zadd(owed.OWED, {NO_TEXT: 1}),
    "a slot that is no text": lambda client: client.zadd(lock_waits.TIMES, {NO_TEXT: 1}),
    "jobs that wait for a slot": lambda client: (
        client.zadd(lock_waits.TIMES, {"lock": 1}),
        client.zadd(
            lock_waits.waits_key("lock"),
            dict.fromkeys((b"garbage", b"{}", b'{"places":[]}', NO_TEXT, NO_TEXT_WITHIN), 1),
        ),
    ),
    "a job that waits for a slot, in a place beyond numbers": lambda client: (
        client.zadd(lock_waits.TIMES, {"lock": 1}),
        client.zadd(
            lock_waits.waits_key("lock"),
            {'{"places":[{"job_id":"garbage","queue":"default","terms":"[]","score":1' + "0" * 400 + "}]}": 1},
        ),
    ),
    "an in-flight list of another type": lambda client: (
        client.set("broker:inflight:dead:intake", "x"),
        client.zadd(WORKERS, {"dead": 1}),
    ),
    "children that are none": lambda client: client.sadd("broker:children:one", NO_TEXT, b"", b"/?#", b"x" * 3_000),
    "one who asked and is no text": lambda client: client.zadd("broker:asked", {NO_TEXT: 4e12, b"x": 4e12}),
}


@pytest.mark.parametrize("case", POISON)
def test_nobody_is_stopped_by_a_hint_that_makes_no_sense(anywhere: InProcess, case: str) -> None:
    broker = anywhere
    POISON[case](broker.redis)
    for job in ("one", "two", "three"):
        broker.submit(job)
        [granted] = broker.ask(broker.caller.make("claim"))
        assert (granted["answer"], granted["body"]["job_id"]) == ("granted", job)
        assert broker.ask(broker.caller.make("explain", job_id=job))[0]["answer"] == "ok"
        fence = {name: granted["body"][name] for name in ("job_id", "epoch", "token")}
        assert broker.ask(broker.caller.make("complete", **fence))[0]["answer"] == "ok"
        end_waits(broker.redis, broker.clock.now_ms())
        left_behind.take_over(broker.redis, "w9", dead_after_ms=60_000, at_most=64)
        broker.sweep()
    assert not [key for key in broker.redis.keys("*") if NO_TEXT in key or b"garbage" in key], "it was cleared away"


@pytest.mark.parametrize("remembered", [NO_TEXT, b"", b" ", b"garbage", b"x" * 2_000])
def test_what_makes_no_sense_of_one_claim_concerns_no_other_in_its_batch(
    redis_client: redis.Redis, remembered: bytes
) -> None:
    broker = InProcess(connect("memory://"), redis_client)
    broker.submit("one", "two")
    claim, other = broker.caller.make("claim"), broker.caller.make("claim", job_id="two")
    assert type(claim) is Claim
    redis_client.set(answer_key(claim_id(claim)), remembered)
    told, granted = broker.ask(claim, other)
    assert told["answer"] in ("granted", "request_expired")
    assert granted["answer"] == "granted"


def test_a_mark_with_more_jobs_than_a_claim_can_be_proposed_stops_nobody(redis_client: redis.Redis) -> None:
    broker = InProcess(connect("memory://"), redis_client)
    broker.submit("one", "two")
    claim, other = broker.caller.make("claim"), broker.caller.make("claim")
    assert type(claim) is Claim
    redis_client.set(mark_key(claim_id(claim)), "w1" + " x" * 10_000)
    assert [reply["answer"] for reply in broker.ask(claim, other)] == ["granted", "granted"]


def test_children_that_are_no_text_hold_up_no_others(redis_client: redis.Redis) -> None:
    broker = InProcess(connect("memory://"), redis_client)
    broker.submit("parent")
    broker.submit("child", depends_on=["parent"])
    redis_client.sadd(children_key("parent"), NO_TEXT)
    [granted] = broker.ask(broker.caller.make("claim", job_id="parent"))
    lease = {name: granted["body"][name] for name in ("job_id", "epoch", "token")}
    assert broker.ask(broker.caller.make("complete", **lease))[0]["answer"] == "ok"
    assert broker.ask(broker.caller.make("claim"))[0]["body"]["job_id"] == "child"


def test_what_looks_like_a_set_of_terms_is_cleared_away_and_real_ones_stay(redis_client: redis.Redis) -> None:
    broker = InProcess(connect("memory://"), redis_client)
    broker.submit("job", requires=["gpu"], prefers={"fast": 3})
    broker.caller.send(broker.caller.make("claim", offers=["cpu"], wait_ms=30_000))
    broker.serve()
    real = {key: redis_client.smembers(key) for key in (f"{READY}:sets", f"{PARKED}:sets")}
    for prefix in (READY, PARKED):
        a_set(prefix, b"garbage")(redis_client)
    index.tidy(redis_client)
    parked_sets.tidy(redis_client)
    assert {key: redis_client.smembers(key) for key in real} == real
    assert all(real.values())


def test_a_worker_and_a_sweep_live_on(fleet: Fleet) -> None:
    worker = fleet.start_worker({"BROKER_LOG_LEVEL": "ERROR", "BROKER_TAKEOVER_MS": "2000"})
    for poison in POISON.values():
        poison(fleet.redis)
    sweep = fleet.start_sweep({"BROKER_SWEEP_INTERVAL_MS": "100", "BROKER_LOG_LEVEL": "ERROR"})
    caller = Caller(fleet.redis, "caller")
    caller.submit("job")
    assert caller.ask("claim", offers=["a"])["answer"] == "granted"
    wait_for(lambda: fleet.redis.smembers(f"{READY}:sets") <= {b"[]"}, "the sweep has cleared it away")
    assert (worker.poll(), sweep.poll()) == (None, None)


def test_a_worker_outlives_a_mistake_of_its_own_and_tells_of_it(
    redis_client: redis.Redis, redis_url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    passed = itertools.count(1)

    def stumbling(point: str) -> None:
        if point == "taken" and next(passed) == 1:
            raise RuntimeError("scripted")

    settings = load(redis_url=redis_url, datastore_url=f"sqlite:///{tmp_path}/jobs.db")
    runtime = dataclasses.replace(open_runtime(settings), at=stumbling)
    loop = ServeLoop(runtime, "w1", QUEUES)
    serving = threading.Thread(target=lambda: loop.run(burst=False), daemon=True)
    serving.start()
    caller = Caller(redis_client)
    caller.submit("job")
    assert caller.ask("claim", job_id="job")["answer"] == "granted"
    wait_for(lambda: not redis_client.keys("broker:inflight:*"), "nothing is left in flight")
    loop.request_stop(signal.SIGTERM, None)
    serving.join()
    runtime.close()
    told = capsys.readouterr()
    assert "serving_failed" in told.out + told.err, "wherever the tests before have had the log go"
