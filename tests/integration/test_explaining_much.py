"""Explain: however much there is to look at, one explanation keeps nobody waiting for long, and says what it omits."""

from pathlib import Path
from typing import Any, cast

import msgspec
import pytest
import redis

from broker import demand, occupancy
from broker.explain import ABLE_LOOK_MAX, FITTING_MAX, QUEUES_MAX
from broker.occupancy import HOLDERS_TOLD_MAX, LOCKS_TOLD_MAX
from broker.slots import HOLDERS_MAX, Holder, Mode, slot_id
from datastore import Datastore, ReadResult, connect
from tests.in_process import InProcess
from tests.twins.forwarding import Forwarding

JOBS = 40


class CountsReads(Forwarding):
    """How often slots were read, and jobs of holders."""

    def __init__(self, inner: Datastore) -> None:
        super().__init__(inner)
        self.slots = self.holders = 0

    def read(self, id: str, partition_key: str) -> ReadResult:
        self.slots += id.startswith("slot:")
        self.holders += id.startswith("holder-")
        return super().read(id, partition_key)


@pytest.fixture
def store(tmp_path: Path) -> CountsReads:
    return CountsReads(connect(f"sqlite:///{tmp_path}/jobs.db"))


@pytest.fixture
def broker(store: CountsReads, redis_client: redis.Redis) -> InProcess:
    return InProcess(store, redis_client)


def explained(broker: InProcess, **fields: Any) -> dict[str, Any]:
    [reply] = broker.ask(broker.caller.make("explain", **fields))
    assert reply["answer"] == "ok", reply
    return dict(reply["body"])


def deep(prefix: str = "") -> list[str]:
    """Locks that need 256 slots."""
    return [f"{prefix}{number:02}/a/b/c" for number in range(64)]


def held_by_many(broker: InProcess, key: str, count: int) -> None:
    holders = [
        Holder(job_id=f"holder-{number}", epoch=1, request_id="r", mode=Mode.SHARED, taken_ms=1, confirmed=True)
        for number in range(count)
    ]
    id = slot_id(key)
    broker.store.create(id, id, {"kind": "slot", "key": key, "holders": msgspec.to_builtins(holders)})


def asked(broker: InProcess, count: int, *, offers: int) -> None:
    now_ms = broker.clock.now_ms()
    for number in range(count):
        said = [f"{each:02}-{number:05}=" + "v" * 50 for each in range(offers)]
        broker.redis.zadd(demand.ASKED, {"\n".join(("evil", "none", *said)): now_ms + number / count})


def test_each_slot_is_read_once_for_however_many_jobs(broker: InProcess, store: CountsReads) -> None:
    broker.submit(*(f"job-{number}" for number in range(JOBS)), locks=deep())
    body = explained(broker, factory="f", queue="default")
    assert (body["looked_at"], body["fits"], body["more"]) == (JOBS, JOBS, False)
    assert store.slots == 256


def test_jobs_for_whose_slots_there_is_no_time_are_said_to_be_left_out(broker: InProcess, store: CountsReads) -> None:
    for number in range(JOBS):
        broker.submit(f"job-{number}", locks=deep(f"{number}-"))
    body = explained(broker, factory="f", queue="default")
    assert body["more"] is True
    assert 8 <= body["looked_at"] < JOBS
    assert store.slots == 256 * body["looked_at"]


def test_the_twin_that_has_always_time_reads_all(
    broker: InProcess, store: CountsReads, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(occupancy, "LOOKS_MAX", 1 << 40)
    for number in range(JOBS):
        broker.submit(f"job-{number}", locks=deep(f"{number}-"))
    assert explained(broker, factory="f", queue="default")["looked_at"] == JOBS
    assert store.slots == 256 * JOBS


def test_of_many_busy_locks_some_are_named_and_of_their_holders_some_looked_at(
    broker: InProcess, store: CountsReads
) -> None:
    broker.submit("job", "other", locks=[f"{number:02}" for number in range(64)])
    for number in range(64):
        held_by_many(broker, f"{number:02}", HOLDERS_MAX if number == 0 else 20)
    body = explained(broker, job_id="job")
    assert body["reasons"] == ["lock_busy"] * LOCKS_TOLD_MAX
    assert {len(met["holders"]) for met in body["obstacles"]} == {HOLDERS_TOLD_MAX}
    assert store.holders <= (LOCKS_TOLD_MAX + 1) * HOLDERS_TOLD_MAX
    store.holders = 0
    refused = explained(broker, factory="f", queue="default")["refused"]
    assert [len(each["reasons"]) for each in refused] == [LOCKS_TOLD_MAX] * 2
    assert store.holders <= (LOCKS_TOLD_MAX + 1) * HOLDERS_TOLD_MAX, "those of the first job serve the second"


@pytest.mark.parametrize(("capacity", "looked_at"), [(0, ABLE_LOOK_MAX), (1, FITTING_MAX)])
def test_of_many_factories_that_fit_the_own_limits_of_some_are_looked_at(
    broker: InProcess, store: CountsReads, capacity: int, looked_at: int
) -> None:
    many = 2 * ABLE_LOOK_MAX
    for number in range(many):
        broker.ask(broker.caller.make("set_limit", limit=f"factory:mac-{number}", capacity=capacity))
        broker.redis.zadd(demand.ASKED, {f"mac-{number}\ndefault": broker.clock.now_ms()})
    broker.submit("job")
    store.slots = 0
    assert explained(broker, job_id="job")["interest"]["asked"] == many
    assert store.slots == looked_at


def test_the_queues_that_a_factory_has_asked_for_last_are_looked_at(broker: InProcess) -> None:
    for number in range(QUEUES_MAX + 8):
        broker.clock.advance(1)
        broker.ask(broker.caller.make("claim", queue=f"q-{number:03}"))
    body = explained(broker, factory="factory")
    assert body["queues"] == [f"q-{number:03}" for number in range(8, QUEUES_MAX + 8)]
    assert body["more"] is True


def test_who_asked_is_read_once_for_all_explanations_of_a_batch_and_no_further_than_there_is_time(
    broker: InProcess,
) -> None:
    broker.submit("job", requires=["gpu"])
    asked(broker, 600, offers=64)
    before = reads_of_askers(broker)
    replies = broker.ask(*(broker.caller.make("explain", job_id="job", factory="f") for _ in range(8)))
    assert all(reply["body"]["interest"]["more"] is True for reply in replies)
    assert reads_of_askers(broker) - before <= demand.READ_BYTES_MAX // (demand.PAGE * 4_000) + 2


def test_an_explanation_that_has_looked_at_all_who_asked_does_not_speak_of_more(broker: InProcess) -> None:
    broker.submit("job", requires=["gpu"])
    asked(broker, 600, offers=1)
    assert "more" not in explained(broker, job_id="job")["interest"]


@pytest.mark.parametrize(("offers", "all_stay"), [(1, True), (64, False)])
def test_who_asked_takes_a_bounded_place(broker: InProcess, offers: int, all_stay: bool) -> None:
    count = demand.FEW + 200
    asked(broker, count, offers=offers)
    broker.sweep()
    left = cast(list[bytes], broker.redis.zrange(demand.ASKED, 0, -1))
    assert (len(left) == count) is all_stay
    assert sum(map(len, left)) <= demand.ASKED_BYTES_MAX
    assert f"{count - 1:05}".encode() in left[-1], "the latest stay"


def reads_of_askers(broker: InProcess) -> int:
    stats = broker.redis.info("commandstats")
    return int(stats.get("cmdstat_zrevrange", {"calls": 0})["calls"])
