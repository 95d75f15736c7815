"""Redis keys of a wrong type: whatever is found where a list should be, the worker lives on and recovers."""

from collections.abc import Callable, Mapping

import pytest

from broker.queues import Wire
from tests.caller import Caller
from tests.fleet import Fleet
from tests.processes import wait_for
from workers.taking import DEAD, WORKERS

LISTS = ("rq:queue:claims", "rq:queue:leases", "broker:in:claims", "broker:in:jobs")
KEYS = (
    *LISTS,
    "broker:reply:victim:x",
    DEAD,
    WORKERS,
    "broker:waiting",
    "broker:waiting:ends",
    "broker:ready:default:sets",
    "broker:ready:default:in:[]",
    "broker:parked:default:sets",
    "broker:parked:default:in:[]",
    "broker:events",
    "broker:asked",
)


@pytest.mark.parametrize("key", KEYS)
def test_a_worker_survives_a_key_of_another_type_and_serves_again_once_it_is_gone(fleet: Fleet, key: str) -> None:
    worker = fleet.start_worker({"BROKER_LOG_LEVEL": "ERROR"})
    caller, victim = Caller(fleet.redis, "caller"), Caller(fleet.redis, "victim")
    caller.submit("before")
    fleet.redis.delete(key)
    wrong: Mapping[bool, Callable[[], object]] = {
        True: lambda: fleet.redis.set(key, "x"),
        False: lambda: fleet.redis.hset(key, "field", "x"),
    }
    wrong[key != DEAD]()
    wire: Wire = "intake" if key.startswith("rq:") else "rq"  # nobody can push onto the broken list itself
    victim.send(victim.make("get_job", job_id="before"), wire=wire)
    victim.send(victim.make("claim", wait_ms=60_000, queue="empty"), wire=wire)
    fleet.redis.rpush("broker:in:leases", "poison")
    if key != WORKERS:  # a worker that can't say that it lives takes nothing: it would be taken over from
        wait_for(lambda: not fleet.redis.llen("broker:in:leases"), "the worker has met it")
    if key in LISTS:
        assert caller.ask("get_job", job_id="before", wire=wire)["answer"] == "ok", "the other lists are served"
    fleet.redis.delete(key)
    assert caller.ask("submit", job_id="after")["answer"] == "ok"
    assert caller.ask("claim", job_id="after")["answer"] == "granted"
    assert worker.poll() is None
    wait_for(lambda: not fleet.redis.keys("broker:inflight:*"), "nothing is left in flight")
