"""A lock may be shared by a thousand leases, and a job may need 256 slots: what one batch spends on them is bounded."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest
import redis

from broker import batch, slots
from broker.exclusion import PROBES_MAX, read_slot
from broker.slot_work import WORK_MAX, SlotWork
from broker.slots import CONFIRM_WITHIN_MS, HOLDERS_MAX, SLOTS_MAX, Holder, Mode, slot_id
from datastore import Datastore, Expected, Patch, ReadResult, connect
from datastore.interface import UpdateResult
from tests.in_process import InProcess
from tests.twins.forwarding import Forwarding

DEEP = tuple(f"{number:02}/a/b/c@shared" for number in range(64))
"""256 slots."""
MANY = 32


class CountsSlots(Forwarding):
    """How often any slot was written, its entries as `SlotWork` counts them, and how many jobs of holders were read."""

    def __init__(self, inner: Datastore) -> None:
        super().__init__(inner)
        self.writes = self.entries = self.job_reads = 0

    def read(self, id: str, partition_key: str) -> ReadResult:
        self.job_reads += id.startswith("holder-")
        return super().read(id, partition_key)

    def update_if_match(self, id: str, partition_key: str, expected: Expected, patch: Patch) -> UpdateResult:
        if id.startswith("slot:") and isinstance(holders := patch["holders"], Sequence):
            self.writes += 1
            self.entries += 16 + len(holders)
        return super().update_if_match(id, partition_key, expected, patch)


class NeverSpent(SlotWork):
    """The broken twin: it counts, and there is always time for one more."""

    @property
    def spent(self) -> bool:
        return False


@pytest.fixture
def store(tmp_path: Path) -> CountsSlots:
    return CountsSlots(connect(f"sqlite:///{tmp_path}/jobs.db"))


@pytest.fixture
def broker(store: CountsSlots, redis_client: redis.Redis) -> InProcess:
    return InProcess(store, redis_client)


def claim(broker: InProcess, **fields: Any) -> Any:
    return broker.ask(broker.caller.make("claim", **fields))[0]


def fences(grants: Sequence[Any]) -> list[dict[str, Any]]:
    return [{name: grant[name] for name in ("job_id", "epoch", "token")} for grant in grants]


def held_by_many(broker: InProcess, key: str, count: int, mode: Mode, *, ended: int = 0) -> None:
    """Entries of leases that stand, as far as reads show, and before them some of claims that came to nothing."""
    now_ms = broker.clock.now_ms()
    holders = [
        Holder(
            job_id=f"holder-{number}",
            epoch=1,
            request_id="r",
            mode=mode,
            taken_ms=now_ms - (CONFIRM_WITHIN_MS + 1 if number < ended else 0),
            confirmed=number >= ended,
        )
        for number in range(count)
    ]
    id = slot_id(key)
    broker.store.create(id, id, {"kind": "slot", "key": key, "holders": msgspec.to_builtins(holders)})


def deep_jobs(broker: InProcess) -> list[str]:
    jobs = [f"job-{number}" for number in range(MANY)]
    broker.submit(*jobs, locks=DEEP)
    return jobs


def test_a_claim_for_many_gets_the_jobs_whose_slots_there_is_time_for_and_leaves_the_others(
    broker: InProcess, store: CountsSlots
) -> None:
    jobs = deep_jobs(broker)
    first, second = broker.ask(broker.caller.make("claim", count=64), broker.caller.make("claim", job_id=jobs[-1]))
    assert first["answer"] == "granted"
    assert 8 <= len(first["body"]["grants"]) < MANY
    assert store.entries <= WORK_MAX + 2 * SLOTS_MAX * MANY, "more than one claim went beyond it"
    assert (second["answer"], second["reason"], second["retry"]) == ("throttled", "overloaded", "later")
    assert second["retry_after_ms"] >= 1_000
    rest = claim(broker, count=1)
    assert rest["answer"] == "granted"
    assert rest["body"]["grants"][0]["job_id"] in set(jobs) - {grant["job_id"] for grant in first["body"]["grants"]}


def test_the_twin_that_has_always_time_takes_all_at_once(
    broker: InProcess, store: CountsSlots, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batch, "SlotWork", NeverSpent)
    jobs = deep_jobs(broker)
    assert len(claim(broker, count=64)["body"]["grants"]) == len(jobs)
    assert store.entries > WORK_MAX + 2 * SLOTS_MAX * MANY


def test_who_waits_gets_a_job_that_a_claim_for_many_had_no_time_for(broker: InProcess) -> None:
    deep_jobs(broker)
    many, waiting = broker.caller.make("claim", count=64), broker.caller.make("claim", wait_ms=60_000)
    broker.caller.send(many)
    settled = broker.settle(broker.take().entries)
    broker.caller.send(waiting)
    broker.serve("w2")
    assert not broker.caller.has_reply(waiting), "there is a job: this tests nothing"
    broker.finish(settled)
    broker.serve("w2")
    assert broker.caller.replies(waiting, deadline_ms=1_000)[0]["answer"] == "granted"


@pytest.mark.parametrize("lock", ["data@shared", "data/set", "data/set@shared"])
def test_a_lock_that_a_thousand_share_admits_no_more(broker: InProcess, lock: str) -> None:
    broker.submit("one-more", locks=[lock])
    mode = Mode.SHARED if lock == "data@shared" else Mode.INTENT_SHARED
    held_by_many(broker, "data", HOLDERS_MAX, mode)
    refused = claim(broker, job_id="one-more")
    assert (refused["answer"], refused["reason"]) == ("not_claimable", "lock_busy")
    assert len(refused["body"]["obstacles"][0]["holders"]) <= PROBES_MAX


def test_the_twin_without_a_bound_admits_one_more(broker: InProcess, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slots, "HOLDERS_MAX", HOLDERS_MAX + 1)
    broker.submit("one-more", locks=["data@shared"])
    held_by_many(broker, "data", HOLDERS_MAX, Mode.SHARED)
    assert claim(broker, job_id="one-more")["answer"] == "granted"


def test_a_full_lock_admits_one_more_in_the_place_of_one_whose_lease_is_over(broker: InProcess) -> None:
    broker.submit("one-more", locks=["data@shared"])
    held_by_many(broker, "data", HOLDERS_MAX, Mode.SHARED, ended=HOLDERS_MAX)
    assert claim(broker, job_id="one-more")["answer"] == "granted"
    assert len(read_slot(broker.store, "data").holders) <= HOLDERS_MAX


def test_who_wants_a_lock_alone_looks_at_few_of_those_who_share_it(broker: InProcess, store: CountsSlots) -> None:
    broker.submit("alone", locks=["data"])
    held_by_many(broker, "data", HOLDERS_MAX, Mode.SHARED)
    refused = claim(broker, job_id="alone")
    assert (refused["answer"], refused["reason"]) == ("not_claimable", "lock_busy")
    assert store.job_reads <= 4 * PROBES_MAX


def test_who_wants_a_lock_alone_gets_it_once_all_who_shared_it_are_over(broker: InProcess) -> None:
    broker.submit("alone", locks=["data"])
    held_by_many(broker, "data", 64, Mode.SHARED, ended=64)
    assert claim(broker, job_id="alone")["answer"] == "granted"
    assert [holder.job_id for holder in read_slot(broker.store, "data").holders] == ["alone"]


def test_leases_that_end_in_one_batch_leave_each_slot_with_one_write(broker: InProcess, store: CountsSlots) -> None:
    broker.submit(*(f"job-{number}" for number in range(16)), locks=["repo/a@shared", "repo/b@shared"])
    grants = claim(broker, count=16)["body"]["grants"]
    before = store.writes
    replies = broker.ask(*(broker.caller.make("complete", **fence) for fence in fences(grants)))
    assert {reply["answer"] for reply in replies} == {"ok"}
    assert store.writes - before == 3
    assert not any(read_slot(broker.store, key).holders for key in ("repo", "repo/a", "repo/b"))


@pytest.mark.parametrize("limit", [1, 32])
def test_who_comes_in_the_batch_in_which_a_lease_ends_finds_its_place_free(broker: InProcess, limit: int) -> None:
    broker.ask(broker.caller.make("set_limit", limit="key:gpu", capacity=limit))
    broker.submit(*(f"job-{number}" for number in range(limit)), "next", concurrency=["gpu"], queue="q")
    grants = [claim(broker, job_id=f"job-{number}")["body"] for number in range(limit)]
    assert claim(broker, job_id="next")["reason"] == "quota"
    ends = broker.caller.make("complete", **fences(grants)[0])
    ended, granted = broker.ask(ends, broker.caller.make("claim", job_id="next"))
    assert (ended["answer"], granted["answer"]) == ("ok", "granted")
