"""Redis keys of a wrong type: whatever is found where a list should be, the worker lives on and recovers.

A hint of the wrong type is cleared away by whoever meets it, a worker or a sweep; nobody has to come and help.
"""

from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
import redis

from broker import lock_waits, owed
from broker.queues import Wire
from tests.caller import Caller
from tests.commands import Commands
from tests.fleet import Fleet
from tests.home import Home
from tests.in_process import SKEW_MS, TTL_MS, InProcess
from tests.processes import wait_for
from workers import wrong_types
from workers.fleet_status import look
from workers.taking import DEAD, WORKERS

LISTS = ("rq:queue:claims", "rq:queue:leases", "broker:in:claims", "broker:in:jobs")
HINTS = (
    "broker:reply:victim:x",
    WORKERS,
    "broker:waiting",
    "broker:waiting:ends",
    "broker:ready:default:sets",
    "broker:ready:default:in:[]",
    "broker:parked:default:sets",
    "broker:parked:default:in:[]",
    "broker:events",
    "broker:asked",
    "broker:seen",
    "broker:unread",
)


@pytest.mark.parametrize("key", [*LISTS, DEAD, *HINTS])
def test_a_worker_survives_a_key_of_another_type_and_serves_again(fleet: Fleet, key: str) -> None:
    worker = fleet.start_worker({"BROKER_LOG_LEVEL": "ERROR"})
    caller, victim = Caller(fleet.redis, "caller"), Caller(fleet.redis, "victim")
    caller.submit("before")
    fleet.redis.sadd("broker:parked:default:sets", "[]")  # as if claims had waited
    fleet.redis.delete(key)
    wrong: Mapping[bool, Callable[[], object]] = {
        True: lambda: fleet.redis.set(key, "x"),
        False: lambda: fleet.redis.hset(key, "field", "x"),
    }
    wrong[key != DEAD]()
    wire: Wire = "intake" if key.startswith("rq:") else "rq"  # nobody can push onto the broken list itself
    victim.send(victim.make("get_job", job_id="before"), wire=wire)
    victim.send(victim.make("claim", wait_ms=60_000, queue="empty"), wire=wire)
    victim.send(victim.make("submit", job_id="meanwhile"), wire=wire)
    fleet.redis.rpush("broker:in:leases", "poison")
    wait_for(lambda: not fleet.redis.llen("broker:in:leases"), "the worker has met it")
    if key in LISTS:
        assert caller.ask("get_job", job_id="before", wire=wire)["answer"] == "ok", "the other lists are served"
    if key in HINTS:
        wait_for(lambda: fleet.redis.type(key) != b"string", "the worker clears it away")
    else:
        fleet.redis.delete(key)
    assert caller.ask("submit", job_id="after")["answer"] == "ok"
    assert caller.ask("claim", job_id="after")["answer"] == "granted"
    assert worker.poll() is None
    wait_for(lambda: not fleet.redis.keys("broker:inflight:*"), "nothing is left in flight")


@pytest.mark.parametrize("key", ["rq:workers", "rq:workers:claims"])
def test_a_worker_starts_past_a_registry_of_rqs_of_another_type(fleet: Fleet, key: str) -> None:
    fleet.redis.set(key, "x")
    fleet.start_worker()
    assert Caller(fleet.redis).ask("submit", job_id="job")["answer"] == "ok"
    assert fleet.redis.smembers(key)


UNREADABLE = ("rq:workers:jobs", "broker:in:jobs", "broker:inflight:w1:rq7", "rq:worker:w2", DEAD, "broker:waiting")


@pytest.mark.parametrize("key", [*UNREADABLE, WORKERS])
def test_the_status_goes_on_past_a_key_of_another_type_and_names_it(redis_client: redis.Redis, key: str) -> None:
    redis_client.zadd(WORKERS, {"w1": 0})
    redis_client.sadd("rq:workers:leases", "rq:worker:w2", "rq:worker:w3")
    redis_client.hset("rq:worker:w3", "birth", "today")
    redis_client.rpush("broker:in:claims", "request")
    redis_client.delete(key)
    redis_client.set(key, "x")
    serving = look(redis_client)
    assert serving.unreadable == (key,)
    assert serving.stock == {"w3": ("leases",)}
    assert serving.queues["claims"] == {"rq": 0, "intake": 1}
    assert list(serving.workers) == ([] if key == WORKERS else ["w1"])


def test_the_command_line_tells_a_key_of_another_type_from_a_right_that_is_lacking(
    redis_url: str, redis_client: redis.Redis, commands: Commands, tmp_path: Path
) -> None:
    redis_client.set(DEAD, "x")
    home = Home(tmp_path, {"BROKER_REDIS_URL": redis_url}, run=commands.run)
    status, _, err = home.run("refused")
    assert (status, "not of the broker's type" in err, "delete that key" in err) == (1, True, True)
    assert "acl" not in err
    assert home.json("status")[1]["unreadable"] == [DEAD]
    assert f"unreadable {DEAD} (" in home.run("status")[1]


def busy(broker: InProcess) -> None:
    """What a sweep has to do with every kind of hint: jobs come back, and claims wait for them."""
    now_ms = broker.clock.now_ms()
    broker.submit("lane", fairness_key="tenant", priority=1)
    broker.submit("locked-1", "locked-2", locks=["lock"])
    broker.submit("parent", "plain")
    broker.submit("child", depends_on=["parent"])
    broker.submit("later", not_before_ms=now_ms + 1_000)
    granted = broker.ask(*(broker.caller.make("claim", job_id=job) for job in ("locked-1", "parent", "plain")))
    broker.ask(broker.caller.make("claim", job_id="locked-2"))
    fence = {name: granted[2]["body"][name] for name in ("job_id", "epoch", "token")}
    broker.caller.send(*(broker.caller.make("claim", wait_ms=wait_ms, queue="empty") for wait_ms in (500, 50_000)))
    broker.serve()
    broker.redis.zadd(owed.OWED, {"parent": 1})
    broker.redis.sadd("broker:parked:default:sets", "[]")
    broker.clock.advance(TTL_MS + SKEW_MS + 1)
    assert broker.ask(broker.caller.make("hand_over", to="heir", **fence))[0]["answer"] == "ok"


OF_A_SWEEP = (
    *(hint for hint in HINTS if hint not in ("broker:reply:victim:x", "broker:unread", WORKERS)),
    "broker:parked:empty:sets",
    "broker:parked:empty:in:[]",
    "broker:lane:broker:ready:default:in:[]~1~tenant",
    "broker:ready:default:in:heir:[]",
    "broker:children:parent",
    "broker:owed",
    "broker:waits:times",
    lock_waits.waits_key("lock"),
)


@pytest.mark.parametrize("key", OF_A_SWEEP)
def test_a_sweep_does_its_work_past_a_hint_of_another_type(broker: InProcess, key: str) -> None:
    busy(broker)
    broker.redis.delete(key)
    broker.redis.set(key, "x")
    broker.sweep()
    assert broker.redis.type(key) != b"string"
    assert not broker.store.find({"kind": "job", "state": "leased"}).documents
    replies = broker.ask(*(broker.caller.make("claim") for _ in range(6)))
    assert {reply["body"].get("job_id") for reply in replies} >= {"lane", "parent", "later"}


def test_what_is_no_hint_is_left_alone(redis_client: redis.Redis) -> None:
    kept = ("broker:in:claims", "broker:inflight:w:intake", DEAD, "broker:once:x", "rq:queue:claims", "another:waiting")
    for key in kept:
        redis_client.hset(key, "field", "x")
    for key in OF_A_SWEEP:
        redis_client.set(key, "x")
    assert wrong_types.clear(redis_client) == len(OF_A_SWEEP)
    assert redis_client.exists(*kept) == len(kept)


def test_no_hint_of_a_busy_broker_is_taken_for_one_of_another_type(broker: InProcess) -> None:
    busy(broker)
    broker.sweep()
    assert wrong_types.clear(broker.redis) == 0
