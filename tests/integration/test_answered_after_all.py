"""What a copy of a request is told whose first copy had its effect, though nobody answered that one any more."""

from typing import Any

import pytest
import redis

from broker.messages import Envelope
from datastore import CreateResult, Datastore, Filter, Page, ReadResult, Throttled
from datastore.interface import Body
from datastore.memory import MemoryDatastore
from tests.in_process import InProcess
from tests.twins.forwarding import Forwarding

OPS = ("claim", "complete", "submit")


class Busy(Forwarding):
    """Answers nothing but that it has too much to do, while `on`."""

    def __init__(self, inner: Datastore) -> None:
        super().__init__(inner)
        self.on = False

    def read(self, id: str, partition_key: str) -> ReadResult:
        self._refuse()
        return super().read(id, partition_key)

    def create(self, id: str, partition_key: str, body: Body) -> CreateResult:
        self._refuse()
        return super().create(id, partition_key, body)

    def find(self, filter: Filter, limit: int = 100, cursor: str | None = None) -> Page:
        self._refuse()
        return super().find(filter, limit, cursor)

    def _refuse(self) -> None:
        if self.on:
            raise Throttled("429", retry_after_ms=10)


@pytest.fixture
def store() -> Busy:
    return Busy(MemoryDatastore())


@pytest.fixture
def broker(store: Busy, redis_client: redis.Redis) -> InProcess:
    return InProcess(store, redis_client)


def taken_and_settled_by_one_that_died(broker: InProcess, op: str) -> Envelope:
    """The request: it had its effect, and no answer."""
    broker.submit("a")
    body: dict[str, Any] = {"job_id": "a"} if op == "claim" else {}
    if op == "complete":
        grant = broker.ask(broker.caller.make("claim", job_id="a"))[0]["body"]
        body = {name: grant[name] for name in ("job_id", "epoch", "token")}
    request = broker.caller.make(op, deadline_ms=broker.clock.now_ms() + 5_000, **body)
    broker.caller.send(request)
    [(_, settled)] = broker.settle(broker.take("w1").entries, "w1")
    assert settled.answer is not None
    assert settled.answer.good
    broker.kill("w1")
    return request


@pytest.mark.parametrize("op", OPS)
@pytest.mark.parametrize("why", ["the store is busy", "its deadline is over"])
def test_what_was_taken_over_and_could_not_be_looked_at_is_not_called_undone(
    broker: InProcess, store: Busy, op: str, why: str
) -> None:
    request = taken_and_settled_by_one_that_died(broker, op)
    if why == "the store is busy":
        store.on = True
    else:
        broker.clock.advance(10_000)
    broker.take_over("w2")
    told = broker.caller.replies(request)[0]
    assert (told["answer"], told["retry"]) == ("outcome_unknown", "same_id")


@pytest.mark.parametrize("op", OPS)
def test_it_is_told_what_it_did_once_it_can_be_looked_at(broker: InProcess, op: str) -> None:
    request = taken_and_settled_by_one_that_died(broker, op)
    broker.take_over("w2")
    assert broker.caller.replies(request)[0]["answer"] == "replayed"


def test_a_first_copy_is_told_that_nothing_was_done(broker: InProcess, store: Busy) -> None:
    store.on = True
    assert broker.ask(broker.caller.make("claim", job_id="a"))[0]["answer"] == "throttled"
