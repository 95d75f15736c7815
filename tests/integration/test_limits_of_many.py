"""The slot of a limit may have a thousand entries: what concerns many of them at once is written once."""

from pathlib import Path
from typing import Any

import pytest
import redis

from broker.exclusion import read_slot
from broker.limits import limit_key
from broker.repository import leased_jobs
from datastore import Datastore, Expected, Patch, connect
from datastore.interface import UpdateResult
from tests.in_process import SKEW_MS, TTL_MS, InProcess
from tests.twins.forwarding import Forwarding

MANY = 128


class CountsSlotWrites(Forwarding):
    """How often any slot was written."""

    def __init__(self, inner: Datastore) -> None:
        super().__init__(inner)
        self.writes = 0

    def update_if_match(self, id: str, partition_key: str, expected: Expected, patch: Patch) -> UpdateResult:
        self.writes += id.startswith("slot:")
        return super().update_if_match(id, partition_key, expected, patch)


@pytest.fixture
def store(tmp_path: Path) -> CountsSlotWrites:
    return CountsSlotWrites(connect(f"sqlite:///{tmp_path}/jobs.db"))


@pytest.fixture
def broker(store: CountsSlotWrites, redis_client: redis.Redis) -> InProcess:
    return InProcess(store, redis_client)


def ask(broker: InProcess, op: str, **fields: Any) -> dict[str, Any]:
    [reply] = broker.ask(broker.caller.make(op, **fields))
    return dict(reply)


def many_run(broker: InProcess) -> None:
    broker.submit(*(f"job-{number}" for number in range(MANY)), concurrency=["gpu"])
    held = sum(len(ask(broker, "claim", count=64)["body"]["grants"]) for _ in range(MANY // 64))
    assert held == MANY


def used(broker: InProcess, limit: str) -> int:
    return len(read_slot(broker.store, limit_key(limit)).holders)


def test_all_that_run_as_a_limit_is_set_are_counted_by_one_write(broker: InProcess, store: CountsSlotWrites) -> None:
    many_run(broker)
    before = store.writes
    answer = ask(broker, "set_limit", limit="key:gpu", capacity=MANY)
    assert (answer["answer"], answer["body"]["used"]) == ("ok", MANY)
    assert store.writes - before <= 1
    assert {len(job.lease.limits) for job in leased_jobs(broker.store) if job.lease is not None} == {1}


def test_all_that_a_start_held_give_their_units_back_by_one_write_as_the_next_one_registers(
    broker: InProcess, store: CountsSlotWrites
) -> None:
    ask(broker, "set_limit", limit="key:gpu", capacity=MANY)
    many_run(broker)
    assert used(broker, "key:gpu") == MANY
    before = store.writes
    broker.caller.incarnation = "second"
    broker.clock.advance(1)
    answer = ask(broker, "register_factory", asked_ms=broker.clock.now_ms())
    assert (answer["answer"], len(answer["body"]["ended"])) == ("ok", MANY)
    assert used(broker, "key:gpu") == 0
    assert store.writes - before <= 1


def test_all_that_died_under_a_limit_give_their_units_back_by_few_writes(
    broker: InProcess, store: CountsSlotWrites
) -> None:
    ask(broker, "set_limit", limit="key:gpu", capacity=MANY)
    many_run(broker)
    before = store.writes
    broker.clock.advance(TTL_MS + SKEW_MS + 1)
    broker.sweep()
    assert (used(broker, "key:gpu"), list(leased_jobs(broker.store))) == (0, [])
    assert store.writes - before < MANY / 10
