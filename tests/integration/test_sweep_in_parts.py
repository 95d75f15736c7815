"""What one sweep leaves for the next, so that nobody waits for it who matters more."""

from collections import Counter
from typing import Any

import pytest
import redis
from msgspec import structs

from broker.families import children_key
from broker.settings import load
from datastore import Datastore, Filter, Page
from tests.concurrency.race import read
from tests.in_process import SKEW_MS, TTL_MS, InProcess
from tests.twins.counts_reads import CountsReads
from tests.twins.forwarding import Forwarding
from workers.blocked import LOOK_MS
from workers.sweep import Sweep


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


CHILDREN = [f"child-{number:02}" for number in range(12)]
PARENTS = [f"parent-{number}" for number in range(5)]


class Looks:
    """What sweeps of one process read of parents; its clock moves on with each read, as on a store that is slow."""

    def __init__(self, broker: InProcess, *, read_ms: int = 0) -> None:
        self.store = CountsReads(broker.store)
        context = structs.replace(broker.context, store=self.store)
        self._sweep = Sweep(context, broker.redis, load(), steady_ms=lambda: self.store.reads.total() * read_ms)
        self._clock = broker.clock

    def sweep(self) -> Counter[str]:
        """How often each parent was read by one sweep."""
        before = self.store.reads.copy()
        self._sweep.pass_over(self._clock.now_ms())
        read = self.store.reads - before
        return Counter({job: times for job, times in read.items() if "parent" in job})


def of_own(child: str) -> list[str]:
    """Parents that no other child has."""
    return [f"{child}-{parent}" for parent in PARENTS]


def have_children_of_their_own_parents(broker: InProcess) -> None:
    for child in CHILDREN:  # a lost one behind the others would cancel it: all are read
        broker.submit(child, depends_on=of_own(child), on_parent_failure="cancel")
    broker.sweep()  # Redis has its index by now


def test_of_many_blocked_jobs_a_sweep_looks_at_some_and_the_next_one_goes_on_there(
    broker: InProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("workers.blocked.PARENTS_READ", 18)
    monkeypatch.setattr("workers.blocked.PAGE", 8)
    have_children_of_their_own_parents(broker)
    looks = Looks(broker)
    read = [looks.sweep() for _ in range(6)]
    assert [each.total() for each in read] == [20, 20, 20, 20, 20, 20], "what a job has begun it has done with"
    once = Counter(parent for child in CHILDREN for parent in of_own(child))
    assert sum(read[:3], Counter()) == sum(read[3:], Counter()) == once, "each in its turn, then all again"


@pytest.mark.parametrize(("read_ms", "at_once"), [(0, 12), (LOOK_MS // 20, 4), (LOOK_MS // 5, 1), (9 * LOOK_MS, 1)])
def test_on_a_slow_store_a_sweep_looks_at_as_many_as_it_has_time_for(
    broker: InProcess, read_ms: int, at_once: int
) -> None:
    have_children_of_their_own_parents(broker)
    looks = Looks(broker, read_ms=read_ms)
    portions = [looks.sweep() for _ in range(len(CHILDREN) // at_once)]
    assert [each.total() for each in portions] == [at_once * len(PARENTS)] * len(portions)
    assert set().union(*portions) == {parent for child in CHILDREN for parent in of_own(child)}


def test_of_a_sweep_all_siblings_share_what_was_read_of_their_parents(broker: InProcess) -> None:
    broker.submit(*PARENTS)
    broker.submit(*CHILDREN, depends_on=PARENTS, on_parent_failure="cancel")
    broker.submit("another", depends_on=PARENTS[::-1])
    broker.sweep()
    looks = Looks(broker)
    for _ in range(3):
        assert looks.sweep() == Counter(PARENTS), "anew in each sweep: they may have ended since"


def test_a_sweep_that_found_redis_empty_writes_every_hint_though_it_looks_at_some_only(
    broker: InProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("workers.blocked.PARENTS_READ", 18)
    have_children_of_their_own_parents(broker)
    looks = Looks(broker)
    looks.sweep()
    broker.redis.flushall()
    assert looks.sweep().total() == 20
    hints = {
        child: {len(broker.redis.smembers(children_key(parent))) for parent in of_own(child)} for child in CHILDREN
    }
    assert hints == {child: {1} for child in CHILDREN}
    for parent in of_own(CHILDREN[0]):
        broker.submit(parent)
        broker.ask(broker.caller.make("complete", job_id=parent, **granted(broker, parent)))
    assert read(broker.store, CHILDREN[0]).state == "ready"


@pytest.mark.parametrize("ends", ["cancelled", "failed"])
def test_the_family_of_a_job_that_a_sweep_ends_goes_on_with_it_whoever_is_blocked_besides(
    broker: InProcess, monkeypatch: pytest.MonkeyPatch, ends: str
) -> None:
    monkeypatch.setattr("workers.blocked.PARENTS_READ", 1)
    have_children_of_their_own_parents(broker)  # they come first, and a sweep looks at one of them
    broker.submit("parent", max_expiries=1)
    broker.submit("so", depends_on=["parent"], on_parent_failure="cancel")
    broker.submit("then", depends_on=["so"], on_parent_failure="cancel")
    broker.submit("through", depends_on=["parent"], on_parent_failure="ignore")
    granted(broker, "parent")
    if ends == "cancelled":
        broker.ask(broker.caller.make("cancel", job_id="parent"))
    broker.clock.advance(TTL_MS + SKEW_MS + 1)
    assert Looks(broker).sweep()
    states = [str(read(broker.store, job).state) for job in ("parent", "so", "then", "through")]
    assert states == [ends, "cancelled", "cancelled", "ready"]


def test_without_a_look_at_families_it_waits_for_its_turn(broker: InProcess, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("workers.sweep.FAMILIES_MS", 0)  # the twin: all of the families is left to the next sweep
    with pytest.raises(AssertionError):
        test_the_family_of_a_job_that_a_sweep_ends_goes_on_with_it_whoever_is_blocked_besides(
            broker, monkeypatch, "failed"
        )
    assert read(broker.store, "so").state == "blocked"


def granted(broker: InProcess, job: str) -> dict[str, Any]:
    """The fence of a lease."""
    [reply] = broker.ask(broker.caller.make("claim", job_id=job))
    return {name: reply["body"][name] for name in ("epoch", "token")}


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
