"""Whoever submits a job may name any parent: a crowd of others' children holds up nobody's child for long."""

from pathlib import Path

import pytest
import redis

from broker.families import PORTION, Descent, children_key
from broker.index import names
from broker.queues import QUEUES
from broker.settings import load
from datastore import ReadResult, Unavailable, connect
from datastore.memory import MemoryDatastore
from tests.concurrency.race import read
from tests.in_process import InProcess
from tests.twins.counts_groups import CountsGroups
from tests.twins.counts_reads import CountsReads
from tests.twins.forwarding import Forwarding
from workers.shift import Shift

CROWD = 5 * PORTION


@pytest.fixture(params=["memory", "sqlite"])
def broker(request: pytest.FixtureRequest, redis_client: redis.Redis, tmp_path: Path) -> InProcess:
    store = MemoryDatastore() if request.param == "memory" else connect(f"sqlite:///{tmp_path}/jobs.db")
    return InProcess(store, redis_client)


def state(broker: InProcess, job: str) -> str:
    return str(read(broker.store, job).state)


def send_complete(broker: InProcess, job: str) -> None:
    [lease] = broker.ask(broker.caller.make("claim", job_id=job))
    broker.caller.send(broker.caller.make("complete", job_id=job, epoch=1, token=lease["body"]["token"]))


def have_a_crowded_parent(broker: InProcess, policy: str = "block") -> None:
    """Most of its children are others' jobs, which wait for what does not end, too."""
    live = [f"live-{number}" for number in range(9)]
    broker.submit("parent", *live)
    crowd = [f"crowd-{number}" for number in range(CROWD)]
    broker.submit(*crowd, depends_on=[*live, "parent", "never"], on_parent_failure=policy)
    broker.submit("victim", depends_on=["parent"])


def serve(broker: InProcess) -> None:
    shift = Shift(broker.context, broker.redis, "w1", QUEUES, load())
    while shift.serve():
        pass


class LooksAtASample(Descent):
    """Looks at some of a large family, which say nothing of the others."""

    def _find(self, connection: redis.Redis) -> None:
        for parent in list(self._parents):
            del self._parents[parent]
            members = names(each for each in connection.smembers(children_key(parent)) if isinstance(each, bytes))
            self._children |= {child: [parent] for child in members[:PORTION]}


@pytest.mark.parametrize("policy", ["block", "ignore", "cancel"])
def test_a_child_is_free_at_once_however_many_others_wait_for_its_parent_and_for_ever(
    broker: InProcess, policy: str
) -> None:
    have_a_crowded_parent(broker, policy)
    send_complete(broker, "parent")
    store = CountsReads(broker.store)
    serve(InProcess(store, broker.redis))
    assert state(broker, "victim") == "ready"
    of_parents = sum(times for job, times in store.reads.items() if job.startswith(("live", "never")))
    assert of_parents < CROWD / 10, "in each portion one: what all of the crowd wait for"


def test_where_only_a_sample_is_looked_at_it_is_not(broker: InProcess, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("workers.shift.Descent", LooksAtASample)
    have_a_crowded_parent(broker)
    send_complete(broker, "parent")
    serve(broker)
    assert state(broker, "victim") == "blocked"


def test_no_write_is_begun_for_children_who_wait_for_others_too(broker: InProcess) -> None:
    have_a_crowded_parent(broker)
    send_complete(broker, "parent")
    store = CountsGroups(broker.store)
    serve(InProcess(store, broker.redis))
    assert store.groups == 2, "that of the request, and that which has freed the victim"


def test_a_portion_makes_so_many_reads_and_no_child_of_it_is_left_out(
    broker: InProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("broker.families.READS", 20)
    broker.submit("parent")
    children = [f"child-{number}" for number in range(12)]
    for child in children:
        others = [f"{child}-{number}" for number in range(4)]
        broker.submit(*others)
        broker.submit(child, depends_on=["parent", *others])
        for other in others:
            send_complete(broker, other)
    send_complete(broker, "parent")
    broker.settle(broker.take().entries)
    descent, store = Descent(), CountsReads(broker.store)
    counted = InProcess(store, broker.redis)
    descent.add(["parent"])
    portions = 0
    while descent:
        store.reads.clear()
        descent.go_on(counted.context, broker.redis, now_ms=broker.clock.now_ms())
        assert store.reads.total() < 20 + 1 + 5, "those of the last child come on top"
        portions += 1
    assert portions == 3
    assert {state(broker, child) for child in children} == {"ready"}


def test_a_small_family_waits_for_no_more_than_a_portion_of_a_large_one(broker: InProcess) -> None:
    have_a_crowded_parent(broker)
    broker.submit("small")
    broker.submit("child", depends_on=["small"])
    send_complete(broker, "small")
    broker.settle(broker.take().entries)
    descent = Descent()
    descent.add(["parent"])
    descent.go_on(broker.context, broker.redis, now_ms=broker.clock.now_ms())
    descent.add(["small"])
    for _ in range(2):
        descent.go_on(broker.context, broker.redis, now_ms=broker.clock.now_ms())
    assert state(broker, "child") == "ready"
    assert descent, "most of the large one is still to be looked at"


@pytest.mark.parametrize("hint", ["the hint", "no hint"])
@pytest.mark.parametrize("portions", [0, 1, 3])
def test_what_a_worker_that_died_half_way_has_left_the_sweep_finds(broker: InProcess, portions: int, hint: str) -> None:
    children = [f"child-{number}" for number in range(CROWD)]
    broker.submit("parent")
    broker.submit(*children, depends_on=["parent"])
    send_complete(broker, "parent")
    broker.settle(broker.take().entries)
    descent = Descent()
    descent.add(["parent"])
    for _ in range(portions):
        descent.go_on(broker.context, broker.redis, now_ms=broker.clock.now_ms())
    if hint == "no hint":
        broker.redis.delete(children_key("parent"))
    assert broker.sweep().unblocked == CROWD - portions * PORTION
    assert {state(broker, child) for child in children} == {"ready"}


class CannotRead(Forwarding):
    """One document can't be read."""

    def read(self, id: str, partition_key: str) -> ReadResult:
        if id == "b":
            raise Unavailable(id)
        return super().read(id, partition_key)


def test_a_child_that_cannot_be_read_and_one_that_is_none_hold_up_no_other(broker: InProcess) -> None:
    broker.submit("parent", "another")
    broker.submit("a", "b", "c", depends_on=["parent"])
    broker.submit("d", depends_on=["another"], on_parent_failure="cancel")
    broker.redis.sadd(children_key("parent"), "nobody", b"\xff", "d")
    send_complete(broker, "parent")
    serve(InProcess(CannotRead(broker.store), broker.redis))
    assert [state(broker, job) for job in "abcd"] == ["ready", "blocked", "ready", "blocked"]
    assert broker.sweep().unblocked == 1
    assert [state(broker, job) for job in "abcd"] == ["ready", "ready", "ready", "blocked"]


def test_siblings_of_a_batch_are_noted_together_and_each_as_its_last_change_leaves_it(broker: InProcess) -> None:
    parents, children = ["one", "two"], [f"child-{number}" for number in range(32)]
    submit = [broker.caller.make("submit", job_id=child, depends_on=parents) for child in children]
    broker.redis.config_resetstat()
    broker.ask(*submit, broker.caller.make("cancel", job_id="child-7"))
    calls = broker.redis.info("commandstats")
    assert [calls[f"cmdstat_{name}"]["calls"] for name in ("sadd", "expire", "srem")] == [2, 2, 2]
    left = {child.encode() for child in children if child != "child-7"}
    assert [broker.redis.smembers(children_key(parent)) for parent in parents] == [left, left]
    broker.ask(*(broker.caller.make("cancel", job_id=child) for child in children))
    assert broker.redis.exists(*map(children_key, parents)) == 0
