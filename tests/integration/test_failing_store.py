"""A store that fails at any of its operations, in any way, gets every request answered and stops no worker."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import redis

from datastore import Datastore, DatastoreError, Denied, Expected, Filter, OutcomeUnknown, Page, Throttled, Unavailable
from datastore.interface import Ahead, Body, CreateResult, Patch, ReadResult, UpdateResult, nothing_ahead
from datastore.memory import MemoryDatastore
from tests.in_process import InProcess
from tests.twins.forwarding import Forwarding

FAILURES: dict[str, DatastoreError] = {
    "throttled": Throttled("scripted", retry_after_ms=5),
    "unavailable": Unavailable("scripted"),
    "denied": Denied("scripted"),
    "unknown": OutcomeUnknown("scripted"),
}
EVERYTHING = ("read", "create", "update", "find", "begin")


class Failing(Forwarding):
    """Raises `failure` at the operations named in `bad`."""

    def __init__(self, inner: Datastore) -> None:
        super().__init__(inner)
        self.bad: tuple[str, ...] = ()
        self.failure: DatastoreError = FAILURES["unavailable"]

    def read(self, id: str, partition_key: str) -> ReadResult:
        self._meet("read")
        return self.inner.read(id, partition_key)

    def create(self, id: str, partition_key: str, body: Body) -> CreateResult:
        self._meet("create")
        return self.inner.create(id, partition_key, body)

    def update_if_match(self, id: str, partition_key: str, expected: Expected, patch: Patch) -> UpdateResult:
        self._meet("update")
        return self.inner.update_if_match(id, partition_key, expected, patch)

    def find(self, filter: Filter, limit: int = 100, cursor: str | None = None) -> Page:
        self._meet("find")
        return self.inner.find(filter, limit, cursor)

    @contextmanager
    def batch(self, ahead: Ahead = nothing_ahead) -> Iterator[None]:
        self._meet("begin")
        with self.inner.batch(ahead):
            yield
        self._meet("commit")

    def _meet(self, operation: str) -> None:
        if operation in self.bad:
            raise self.failure


@pytest.mark.parametrize("failure", ["throttled", "unavailable", "denied"])
@pytest.mark.parametrize("bad", ["update", "begin"])
def test_a_job_whose_claim_was_certainly_not_written_is_offered_to_the_next_one_at_once(
    redis_client: redis.Redis, bad: str, failure: str
) -> None:
    store = Failing(MemoryDatastore())
    broker = InProcess(store, redis_client)
    broker.submit("a")
    store.bad, store.failure = (bad,), FAILURES[failure]
    assert broker.ask(broker.caller.make("claim"))[0]["answer"] == "throttled"
    store.bad = ()
    assert broker.ask(broker.caller.make("claim"))[0]["body"]["job_id"] == "a"


@pytest.mark.parametrize("failure", FAILURES)
@pytest.mark.parametrize("bad", [*((each,) for each in (*EVERYTHING, "commit")), EVERYTHING], ids="+".join)
def test_every_request_is_answered_while_the_store_fails(
    redis_client: redis.Redis, bad: tuple[str, ...], failure: str
) -> None:
    store = Failing(MemoryDatastore())
    broker = InProcess(store, redis_client)
    broker.submit("a", "b", "c", "d")
    [granted] = broker.ask(broker.caller.make("claim", job_id="a"))
    lease = {name: granted["body"][name] for name in ("job_id", "epoch", "token")}
    make = broker.caller.make
    store.bad, store.failure = bad, FAILURES[failure]
    requests = [
        make("submit", job_id="n"),
        make("claim", job_id="b"),
        make("claim"),
        make("claim", attempt=2),
        make("claim", job_id="b", attempt=2),
        make("renew", **lease),
        make("progress", **lease, progress=1),
        make("complete", **lease),
        make("cancel", job_id="c"),
        make("hold", job_id="d"),
        make("explain", job_id="a"),
        make("list_jobs"),
        make("list_queues"),
        make("list_limits"),
        make("list_factories"),
        make("pause_queue", queue="default"),
    ]
    for request in requests:  # each in a batch of its own, and then all in one
        broker.ask(request)
    broker.ask(*(request.model_copy(update={"attempt": 3}) for request in requests))
    store.bad = ()
    assert broker.ask(make("get_job", job_id="a"))[0]["answer"] == "ok"
