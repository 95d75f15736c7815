"""What one sweep leaves for the next, so that nobody waits for it who matters more."""

import pytest
import redis

from datastore import Datastore, Filter, Page
from tests.in_process import InProcess
from tests.twins.counts_reads import CountsReads
from tests.twins.forwarding import Forwarding


class LosesRedis(Forwarding):
    """Redis loses everything as the second page of ready jobs is read."""

    def __init__(self, inner: Datastore, connection: redis.Redis) -> None:
        super().__init__(inner)
        self._redis = connection
        self._left = 2

    def find(self, filter: Filter, limit: int = 100, cursor: str | None = None) -> Page:
        if filter.get("state") == "ready" and self._left:
            self._left -= 1
            if not self._left:
                self._redis.flushall()
        return super().find(filter, limit, cursor)


def test_of_many_blocked_jobs_a_sweep_looks_at_some_and_the_next_one_goes_on_there(
    broker: InProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("workers.sweep.PARENTS_READ", 20)
    monkeypatch.setattr("workers.sweep.BLOCKED_PAGE", 4)
    parents = [f"parent-{number}" for number in range(5)]
    children = [f"child-{number:02}" for number in range(12)]
    broker.submit(*children, depends_on=parents, on_parent_failure="cancel")
    reads = CountsReads(broker.store)
    counted = InProcess(reads, broker.redis)

    def parents_read() -> int:
        reads.reads.clear()
        counted.sweep()
        return sum(reads.reads[parent] for parent in parents)

    assert parents_read() == 60, "the index was not there: all at once"
    assert [parents_read() for _ in range(4)] == [20, 20, 20, 20]
    broker.redis.flushall()
    assert parents_read() == 60


def test_where_redis_was_lost_between_two_parts_every_ready_job_can_be_found_again_after_one_sweep(
    broker: InProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("workers.sweep.READY_PAGES", 1)
    monkeypatch.setattr("broker.repository.PAGE_DOCUMENTS", 4)
    jobs = [f"job-{number:02}" for number in range(12)]
    broker.submit(*jobs)
    broker.sweep()
    broker.sweep()  # stands behind the first page of them
    broker.redis.flushall()
    broker.sweep()
    granted = {broker.ask(broker.caller.make("claim"))[0]["body"].get("job_id") for _ in jobs}
    assert granted == set(jobs)


def test_so_it_is_where_redis_was_lost_within_a_part(broker: InProcess, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("workers.sweep.READY_PAGES", 2)
    monkeypatch.setattr("broker.repository.PAGE_DOCUMENTS", 4)
    jobs = [f"job-{number:02}" for number in range(24)]
    broker.submit(*jobs)
    broker.sweep()
    InProcess(LosesRedis(broker.store, broker.redis), broker.redis).sweep()
    broker.sweep()
    granted = {broker.ask(broker.caller.make("claim"))[0]["body"].get("job_id") for _ in jobs}
    assert granted == set(jobs)
