"""A job that fits stands behind many that nobody can have now: a claim goes on to it, or is told to come again."""

from typing import Any

import pytest

from broker.batch import CANDIDATES_MAX, TRIES_MS
from datastore.interface import ReadResult
from tests.caller import Reply
from tests.in_process import InProcess
from tests.twins.forwarding import Forwarding

MANY = 5 * CANDIDATES_MAX
"""Jobs of a busy lock, all of them before the one that is free."""


@pytest.fixture
def broker(broker: InProcess) -> InProcess:
    broker.submit("holder", locks=["repo"])
    assert claim(broker)["body"]["job_id"] == "holder"
    broker.submit(*(f"busy-{number}" for number in range(MANY)), locks=["repo"], priority=1)
    broker.submit("free")
    return broker


def claim(broker: InProcess, **fields: Any) -> Reply:
    return broker.ask(broker.caller.make("claim", **fields))[0]


class Slow(Forwarding):
    """A store that takes its time to read a job; the clock of a broker moves on."""

    broker: InProcess

    def read(self, id: str, partition_key: str) -> ReadResult:
        self.broker.clock.advance(TRIES_MS // CANDIDATES_MAX if id.startswith("busy-") else 0)
        return super().read(id, partition_key)


@pytest.fixture
def slow(broker: InProcess) -> InProcess:
    """The same broker on a store that is slow."""
    store = Slow(broker.store)
    store.broker = InProcess(store, broker.redis)
    store.broker.clock = broker.clock
    return store.broker


def test_a_claim_gets_the_job_that_stands_behind_many_of_a_busy_lock(broker: InProcess) -> None:
    assert claim(broker)["body"]["job_id"] == "free"


def test_a_claim_of_several_gets_it_too(broker: InProcess) -> None:
    assert [grant["job_id"] for grant in claim(broker, count=3)["body"]["grants"]] == ["free"]


def test_one_that_has_no_time_for_all_is_told_to_come_again_and_not_that_there_is_nothing(slow: InProcess) -> None:
    answers = []
    while (reply := claim(slow))["answer"] != "granted":
        answers.append((reply["answer"], reply["reason"], reply["retry"]))
    assert reply["body"]["job_id"] == "free"
    assert set(answers) == {("throttled", "overloaded", "later")}


def test_one_that_waits_goes_on_by_itself(slow: InProcess) -> None:
    assert claim(slow, wait_ms=60_000)["body"]["job_id"] == "free"


def test_others_wait_no_longer_for_a_claim_that_meets_many_than_it_may_take(slow: InProcess) -> None:
    began_ms = slow.clock.now_ms()
    claim(slow)
    assert slow.clock.now_ms() - began_ms < 2 * TRIES_MS


def test_one_that_meets_them_all_and_finds_nothing_is_told_so(broker: InProcess) -> None:
    assert claim(broker, count=1)["body"]["grants"][0]["job_id"] == "free"
    broker.submit(*(f"more-{number}" for number in range(MANY)), locks=["repo"])
    assert claim(broker)["answer"] == "none_available"
