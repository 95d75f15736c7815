"""Documents of one limit, lock, factory, schedule or job that make no sense: they concern nobody else."""

from collections.abc import Mapping
from typing import Any

import pytest

from broker.limits import limit_key
from broker.quotas import rate_id
from broker.slots import slot_id
from datastore import Expected, Ok
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
