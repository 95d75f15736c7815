"""A family may be of thousands: its members go on with their parents, and nobody else waits for all of them."""

import signal
import threading
from pathlib import Path

import pytest
import redis

from broker.client import Client
from broker.families import PORTION
from broker.queues import QUEUES
from broker.repository import find_documents
from broker.settings import load
from datastore import Datastore, Filter, connect
from datastore.memory import MemoryDatastore
from tests.in_process import InProcess
from tests.processes import wait_for
from tests.twins.counts_groups import CountsGroups
from tests.twins.unknown_commits import UnknownCommits
from workers import waiters
from workers.claim_worker import ServeLoop
from workers.runtime import open_runtime
from workers.shift import Shift

CHILDREN = 8
GRANDCHILDREN = 3 * PORTION


@pytest.fixture(params=["memory", "sqlite"])
def broker(request: pytest.FixtureRequest, redis_client: redis.Redis, tmp_path: Path) -> InProcess:
    store = MemoryDatastore() if request.param == "memory" else connect(f"sqlite:///{tmp_path}/jobs.db")
    return InProcess(store, redis_client)


@pytest.fixture
def shift(broker: InProcess) -> Shift:
    return Shift(broker.context, broker.redis, "w1", QUEUES, load())


def count(store: Datastore, state: str) -> int:
    wanted: Filter = {"kind": "job", "state": state}
    return sum(1 for _ in find_documents(store, wanted))


def have_family(broker: InProcess) -> None:
    broker.submit("root")
    broker.submit(*(f"c{child}" for child in range(CHILDREN)), depends_on=["root"], on_parent_failure="cancel")
    for child in range(CHILDREN):
        names = [f"c{child}-{number}" for number in range(GRANDCHILDREN)]
        broker.submit(*names, depends_on=[f"c{child}"], on_parent_failure="cancel")


def test_requests_are_served_while_a_large_family_is_cancelled(broker: InProcess, shift: Shift) -> None:
    have_family(broker)
    broker.submit("other")
    broker.caller.send(broker.caller.make("cancel", job_id="root"))
    assert shift.serve(), "it comes back for the rest of the family"
    asked = broker.caller.make("get_job", job_id="other")
    broker.caller.send(asked)
    shift.serve()
    assert broker.caller.replies(asked, deadline_ms=1_000)[0]["answer"] == "ok"
    assert count(broker.store, "blocked") > CHILDREN * GRANDCHILDREN / 2, "that request waited for a portion or two"


def test_all_of_a_large_family_is_cancelled_without_a_sweep(broker: InProcess, shift: Shift) -> None:
    have_family(broker)
    broker.caller.send(broker.caller.make("cancel", job_id="root"))
    while shift.serve():
        pass
    assert (count(broker.store, "blocked"), count(broker.store, "cancelled")) == (0, 1 + CHILDREN * (1 + GRANDCHILDREN))


def test_every_child_of_one_parent_is_free_once_it_has_succeeded(broker: InProcess, shift: Shift) -> None:
    broker.submit("parent")
    broker.submit(*(f"child-{number}" for number in range(10 * PORTION)), depends_on=["parent"])
    [lease] = broker.ask(broker.caller.make("claim", job_id="parent"))
    fence = {"job_id": "parent", "epoch": 1, "token": lease["body"]["token"]}
    broker.caller.send(broker.caller.make("complete", **fence))
    while shift.serve():
        pass
    assert (count(broker.store, "blocked"), count(broker.store, "ready")) == (0, 10 * PORTION)


def test_no_write_is_begun_for_those_of_a_family_who_have_no_children(broker: InProcess) -> None:
    store = CountsGroups(broker.store)
    broker.submit("parent")
    broker.submit(
        *(f"child-{number}" for number in range(4 * PORTION)), depends_on=["parent"], on_parent_failure="cancel"
    )
    serving = InProcess(store, broker.redis)
    shift = Shift(serving.context, broker.redis, "w1", QUEUES, load())
    broker.caller.send(broker.caller.make("cancel", job_id="parent"))
    while shift.serve():
        pass
    assert count(broker.store, "cancelled") == 1 + 4 * PORTION
    assert store.groups <= 1 + 4 + 1, "that of the request, four portions, and a look whether there are more"


def test_children_who_wait_for_others_too_are_not_looked_at_for_ever(broker: InProcess, shift: Shift) -> None:
    broker.submit("parent", "never")
    broker.submit(*(f"child-{number}" for number in range(3 * PORTION)), depends_on=["parent", "never"])
    [lease] = broker.ask(broker.caller.make("claim", job_id="parent"))
    broker.caller.send(broker.caller.make("complete", job_id="parent", epoch=1, token=lease["body"]["token"]))
    rounds = 0
    while shift.serve():
        rounds += 1
    assert rounds < 5
    assert count(broker.store, "blocked") == 3 * PORTION


def test_the_family_that_a_dead_worker_has_left_goes_on_though_nobody_asks_for_anything(
    redis_client: redis.Redis, redis_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(waiters, "BLOCK_S", 300)
    monkeypatch.setattr(waiters, "SILENT_MS", 600_000)
    settings = load(redis_url=redis_url, datastore_url=f"sqlite:///{tmp_path}/jobs.db")
    runtime = open_runtime(settings)
    broker = InProcess(runtime.context.store, redis_client)
    broker.submit("parent")
    broker.submit(*(f"child-{n}" for n in range(3 * PORTION)), depends_on=["parent"], on_parent_failure="cancel")
    broker.caller.send(broker.caller.make("cancel", job_id="parent"))
    broker.take("dead")
    broker.kill("dead")
    loop = ServeLoop(runtime, "w1", QUEUES)
    serving = threading.Thread(target=lambda: loop.run(burst=False), daemon=True)
    serving.start()
    wait_for(lambda: count(broker.store, "cancelled") == 1 + 3 * PORTION, "all of the family is cancelled")
    loop.request_stop(signal.SIGTERM, None)
    serving.join()
    runtime.close()


def test_members_are_told_of_and_theirs_go_on_though_nobody_knew_whether_their_group_was_written(
    broker: InProcess, redis_url: str
) -> None:
    broker.submit("parent")
    broker.submit("child", depends_on=["parent"], on_parent_failure="cancel")
    broker.submit("grandchild", depends_on=["child"], on_parent_failure="cancel")
    # The group of the cancel itself, then that of the child.
    serving = InProcess(UnknownCommits(broker.store, None, True), broker.redis)
    shift = Shift(serving.context, broker.redis, "w1", QUEUES, load())
    broker.caller.send(broker.caller.make("cancel", job_id="parent"))
    while shift.serve():
        pass
    assert count(broker.store, "cancelled") == 3
    with Client.connect(redis_url, factory_id="watcher") as watcher:
        told = [event.job_id for event in watcher.events() if event.event == "cancelled"]
    assert told == ["parent", "child", "grandchild"]
