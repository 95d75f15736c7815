"""Documents of one limit, lock, factory, schedule or job that make no sense: they concern nobody else."""

from collections.abc import Mapping
from typing import Any

import pytest

from broker.limits import limit_key
from broker.quotas import rate_id
from broker.slots import slot_id
from datastore import UNSET, Expected, Ok
from tests.in_process import InProcess


@pytest.fixture
def broker(anywhere: InProcess) -> InProcess:
    """Every test here is for each of the stores."""
    return anywhere


def spoil(broker: InProcess, id: str, **wrong: Any) -> None:
    """Write into a document what none of ours would."""
    found = broker.store.read(id, id)
    assert isinstance(found, Ok)
    written = broker.store.update_if_match(id, id, Expected(etag=found.document.etag), {**wrong, "write_id": "spoilt"})
    assert isinstance(written, Ok)


def ask(broker: InProcess, op: str, **body: Any) -> Mapping[str, Any]:
    return broker.ask(broker.caller.make(op, **body))[0]


QUEUE, KEY = "queue:default", "key:k"
WRONG_COUNTS: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    "the units of a queue": (slot_id(limit_key(QUEUE)), {"holders": None}),
    "the units of a key": (slot_id(limit_key(KEY)), {"holders": [{"job_id": "x"}]}),
    "the starts of a queue": (rate_id(QUEUE), {"moments": "x"}),
    "the starts of a key": (rate_id(KEY), {"moments": [None]}),
    "a lock": (slot_id("lock"), {"holders": {}}),
}


@pytest.mark.parametrize("case", WRONG_COUNTS)
def test_a_count_that_makes_no_sense_concerns_no_request_that_needs_it_not(broker: InProcess, case: str) -> None:
    for limit in (QUEUE, KEY):
        ask(broker, "set_limit", limit=limit, capacity=9, rate={"count": 9, "per_ms": 1_000})
    broker.submit("first", "second", concurrency=["k"], locks=["lock"])
    granted = ask(broker, "claim", job_id="first")["body"]
    lease = {name: granted[name] for name in ("job_id", "epoch", "token")}
    assert ask(broker, "complete", **lease)["answer"] == "ok"
    broker.submit("elsewhere", queue="other")
    id, wrong = WRONG_COUNTS[case]
    spoil(broker, id, **wrong)
    make = broker.caller.make
    answers = broker.ask(make("claim"), make("claim", job_id="second"), make("claim", queue="other"))
    assert answers[0]["answer"] != "outcome_unknown"
    assert (answers[1]["answer"], answers[1]["reason"]) == ("invalid", "corrupt")
    assert answers[2]["answer"] == "granted"


@pytest.mark.parametrize("case", ["the units of a queue", "the units of a key"])
def test_limits_are_listed_past_one_whose_count_makes_no_sense(broker: InProcess, case: str) -> None:
    for limit in (QUEUE, KEY, "queue:other"):
        ask(broker, "set_limit", limit=limit, capacity=9)
    broker.submit("first", concurrency=["k"])
    assert ask(broker, "claim", job_id="first")["answer"] == "granted"
    id, wrong = WRONG_COUNTS[case]
    spoil(broker, id, **wrong)
    listed = ask(broker, "list_limits")
    used = {each["limit"]: each["used"] for each in listed["body"]["limits"]}
    assert sorted(used.values(), key=str) == [0, 1, None]


def test_a_factory_that_makes_no_sense_hides_no_other_from_a_listing(broker: InProcess) -> None:
    for factory in ("a", "b", "c"):
        ask(broker, "drain_factory", factory=factory)
    spoil(broker, "factory:b", drain="x")
    listed = ask(broker, "list_factories")
    assert [each["factory"] for each in listed["body"]["factories"]] == ["a", "c"]


def test_a_schedule_that_makes_no_sense_hides_no_other_from_a_listing(broker: InProcess) -> None:
    for name in ("a", "b", "c"):
        ask(broker, "put_schedule", name=name, cron="* * * * *", tz="UTC", job={})
    spoil(broker, "schedule:b", catch_up="x")
    listed = ask(broker, "list_schedules")
    assert [each["name"] for each in listed["body"]["schedules"]] == ["a", "c"]
    assert ask(broker, "list_schedules", name="b")["answer"] == "invalid"


def test_what_makes_no_sense_hides_nothing_else_of_what_a_factory_is_told(broker: InProcess) -> None:
    broker.submit("held-1", "held-2", "held-3")
    for job in ("held-1", "held-2", "held-3"):
        ask(broker, "claim", job_id=job)
    broker.submit("a", "b", "c", requires=["gpu"])
    broker.submit("locked", locks=["lock"])
    granted = ask(broker, "claim", job_id="locked")["body"]
    ask(broker, "release", **{name: granted[name] for name in ("job_id", "epoch", "token")})
    spoil(broker, "held-2", priority="x")
    spoil(broker, "b", locks=5)
    spoil(broker, slot_id("lock"), holders=5)
    told = ask(broker, "explain", factory=broker.caller.factory)["body"]
    assert [each["job_id"] for each in told["holds"]] == ["held-1", "held-3"]
    assert {each["job_id"]: each["reasons"] for each in told["refused"]} == {
        "a": ["requirements"],
        "c": ["requirements"],
        "locked": ["corrupt"],
    }


def test_a_job_is_explained_though_a_factory_that_could_run_it_makes_no_sense(broker: InProcess) -> None:
    ask(broker, "claim", offers=["gpu"])
    ask(broker, "drain_factory", factory=broker.caller.factory)
    broker.submit("job", requires=["gpu"])
    spoil(broker, f"factory:{broker.caller.factory}", drain="x")
    told = ask(broker, "explain", job_id="job")
    assert told["body"]["interest"]["fitting"][0]["factory"] == broker.caller.factory


BEYOND = 10**400
"""More than a float, and so a score in Redis, can be."""


@pytest.mark.parametrize(
    "wrong",
    [
        {"priority": BEYOND},
        {"created_ms": BEYOND},
        {"ready_ms": -BEYOND},
        {"reserved": {"factory_id": "f", "by": "g", "until_ms": BEYOND}},
    ],
    ids=lambda wrong: next(iter(wrong)),
)
def test_a_job_that_can_have_no_place_keeps_no_other_from_its_own(
    on_sqlite: InProcess, wrong: Mapping[str, Any]
) -> None:
    broker = on_sqlite  # Cosmos DB takes no such number
    broker.submit("a", "b", "c")
    spoil(broker, "b", **wrong)
    broker.redis.flushall()
    broker.sweep()
    granted = [ask(broker, "claim")["body"].get("job_id") for _ in range(2)]
    assert sorted(map(str, granted)) == ["a", "c"]


def test_a_job_that_makes_no_sense_keeps_no_newer_one_of_its_superseding_key_out(broker: InProcess) -> None:
    broker.submit("old", supersedes="k")
    spoil(broker, "old", epoch="x")
    for name in ("newer", "newest"):
        broker.clock.advance(1)
        broker.submit(name, supersedes="k")
    states = {name: ask(broker, "explain", job_id=name)["body"]["state"] for name in ("newer", "newest")}
    assert states == {"newer": "cancelled", "newest": "ready"}


@pytest.mark.parametrize("wrong", [{"priority": "high"}, {"lease": 5}, {"counters": []}, {"updated_ms": "now"}])
def test_a_job_that_makes_no_sense_hides_no_other_from_a_listing(broker: InProcess, wrong: Mapping[str, Any]) -> None:
    broker.submit("a", "b", "c")
    spoil(broker, "b", **wrong)
    listed = [ask(broker, "list_jobs", limit=1)["body"]]
    while listed[-1]["cursor"] is not None:
        listed.append(ask(broker, "list_jobs", limit=1, cursor=listed[-1]["cursor"])["body"])
    assert [job["id"] for page in listed for job in page["jobs"]] == ["a", "c"]


@pytest.mark.parametrize("wrong", [{"epoch": "one"}, {"epoch": None}, {"started_ms": "x"}, {"outcome": "vanished"}])
def test_a_run_that_makes_no_sense_hides_no_other_from_a_listing(broker: InProcess, wrong: Mapping[str, Any]) -> None:
    broker.submit("a")
    for _ in range(3):
        granted = ask(broker, "claim", job_id="a")["body"]
        lease = {name: granted[name] for name in ("job_id", "epoch", "token")}
        assert ask(broker, "release", **lease)["answer"] == "ok"
    found = broker.store.read("a:run:1", "a")
    assert isinstance(found, Ok)
    spoilt = {**wrong, "write_id": "spoilt"}
    assert isinstance(broker.store.update_if_match("a:run:1", "a", Expected(etag=found.document.etag), spoilt), Ok)
    listed = ask(broker, "list_runs", job_id="a")
    assert listed["answer"] == "ok"
    assert [run["epoch"] for run in listed["body"]["runs"]] == [2, 3]


def test_a_job_that_leaves_out_what_has_a_default_is_listed_with_it(broker: InProcess) -> None:
    broker.submit("whole", "bare")
    [whole] = [job for job in ask(broker, "list_jobs")["body"]["jobs"] if job["id"] == "whole"]
    left_out = ("priority", "epoch", "updated_ms", "created_ms", "max_failures", "max_expiries", "counters")
    spoil(broker, "bare", **dict.fromkeys(left_out, UNSET))
    [bare] = [job for job in ask(broker, "list_jobs")["body"]["jobs"] if job["id"] == "bare"]
    assert [bare[name] for name in left_out] == [0, 0, 0, 0, 3, 5, {"failures": 0, "expiries": 0, "releases": 0}]
    assert bare.keys() == whole.keys()
