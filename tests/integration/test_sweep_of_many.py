"""Thousands of jobs may come due at once: a sweep writes many of them together, and tells of the first soon."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
import redis

from broker.client import Client
from datastore import Datastore, Expected, Patch, Unavailable
from datastore.interface import Ahead, UpdateResult, nothing_ahead
from tests.concurrency.race import read
from tests.in_process import InProcess
from tests.twins.forwarding import Forwarding
from tests.twins.unknown_commits import UnknownCommits

READY = "broker:ready:default:in:[]"
MANY = 600


class Commits(Forwarding):
    """Counts what is written at once, and how many jobs can be found in Redis as the last of them is written."""

    def __init__(self, inner: Datastore, connection: redis.Redis) -> None:
        super().__init__(inner)
        self.commits = 0
        self.offered = 0
        self._redis = connection
        self._in_batch = False

    def update_if_match(self, id: str, partition_key: str, expected: Expected, patch: Patch) -> UpdateResult:
        self.commits += not self._in_batch
        if id.startswith("job"):
            self.offered = self._redis.zcard(READY)
        return super().update_if_match(id, partition_key, expected, patch)

    @contextmanager
    def batch(self, ahead: Ahead = nothing_ahead) -> Iterator[None]:
        self.commits += 1
        self._in_batch = True
        with super().batch(ahead):
            yield
        self._in_batch = False


class RefusesTheGroupOf(Forwarding):
    """A group of writes with that of one job among them can't be written; each of them alone can, but for that one."""

    def __init__(self, inner: Datastore, job: str) -> None:
        super().__init__(inner)
        self._job = job
        self._spoilt = False

    def update_if_match(self, id: str, partition_key: str, expected: Expected, patch: Patch) -> UpdateResult:
        if id == self._job:
            self._spoilt = True
            raise Unavailable(f"{id} can't be written")
        return super().update_if_match(id, partition_key, expected, patch)

    @contextmanager
    def batch(self, ahead: Ahead = nothing_ahead) -> Iterator[None]:
        self._spoilt = False
        with super().batch(ahead):
            yield
            if self._spoilt:
                raise Unavailable("nothing of this batch was written")


def all_due_at_once(broker: InProcess) -> list[str]:
    jobs = [f"job-{number}" for number in range(MANY)]
    broker.submit(*jobs, not_before_ms=broker.clock.now_ms() + 1_000)
    broker.clock.advance(2_000)
    return jobs


def blocked_by_one_that_is_over(broker: InProcess) -> list[str]:
    jobs = [f"job-{number}" for number in range(MANY)]
    broker.submit("parent")
    broker.submit(*jobs, depends_on=["parent"])
    [granted] = broker.ask(broker.caller.make("claim", job_id="parent"))
    broker.redis.flushall()
    broker.ask(broker.caller.make("complete", job_id="parent", epoch=1, token=granted["body"]["token"]))
    return jobs


def held_by_a_start_that_is_over(broker: InProcess) -> list[str]:
    jobs = [f"job-{number}" for number in range(MANY)]
    broker.submit(*jobs)
    claim_all(broker)
    broker.caller.incarnation = "second"
    broker.clock.advance(1)
    broker.ask(broker.caller.make("register_factory", asked_ms=broker.clock.now_ms()))
    return jobs


def claim_all(broker: InProcess) -> None:
    held = 0
    while held < MANY:
        [granted] = broker.ask(broker.caller.make("claim", count=64))
        held += len(granted["body"]["grants"])


@pytest.mark.parametrize("come", [all_due_at_once, blocked_by_one_that_is_over, held_by_a_start_that_is_over])
def test_what_comes_due_at_once_is_written_together_and_the_first_are_offered_before_the_last_are_written(
    broker: InProcess, come: Callable[[InProcess], list[str]]
) -> None:
    come(broker)
    store = Commits(broker.store, broker.redis)
    sweeping = InProcess(store, broker.redis)
    sweeping.clock.advance(broker.clock.now_ms() - sweeping.clock.now_ms())
    sweeping.sweep()
    assert broker.redis.zcard(READY) == MANY
    assert store.commits < MANY / 10
    assert store.offered > 0


def test_runs_that_are_stuck_at_once_are_flagged_together(broker: InProcess) -> None:
    broker.submit(*(f"job-{number}" for number in range(MANY)), stuck_after_ms=1_000)
    claim_all(broker)
    store = Commits(broker.store, broker.redis)
    sweeping = InProcess(store, broker.redis)
    sweeping.clock.advance(broker.clock.now_ms() - sweeping.clock.now_ms() + 1_001)
    assert sweeping.sweep().stuck == MANY
    assert store.commits < MANY / 10


def test_one_that_can_not_be_written_holds_up_none_of_its_group(broker: InProcess) -> None:
    jobs = all_due_at_once(broker)
    sweeping = InProcess(RefusesTheGroupOf(broker.store, jobs[7]), broker.redis)
    sweeping.clock.advance(broker.clock.now_ms() - sweeping.clock.now_ms())
    sweeping.sweep()
    waiting = [job for job in jobs if read(broker.store, job).state == "scheduled"]
    assert waiting == [jobs[7]]


@pytest.mark.parametrize("committed", [True, False])
def test_what_came_due_is_told_once_though_nobody_knew_whether_its_group_was_written(
    broker: InProcess, redis_url: str, committed: bool
) -> None:
    jobs = all_due_at_once(broker)
    sweeping = InProcess(UnknownCommits(broker.store, committed, committed), broker.redis)
    sweeping.clock.advance(broker.clock.now_ms() - sweeping.clock.now_ms())
    sweeping.sweep()
    assert broker.redis.zcard(READY) == MANY
    with Client.connect(redis_url, factory_id="watcher") as watcher:
        told = [event.job_id for event in watcher.events() if event.event == "ready"]
    assert sorted(told) == sorted(jobs)
