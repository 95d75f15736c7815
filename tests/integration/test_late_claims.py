"""A claim that asks for whatever is next, and is late by the time it is tried: its job is for somebody else."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
from msgspec import structs

from broker import aftermath, settle
from broker.answers import Answer
from broker.clock import ManualClock
from broker.settlement import Context, Settlement
from datastore import Datastore
from datastore.interface import Ahead, ReadResult, nothing_ahead
from tests.caller import Caller
from tests.in_process import InProcess
from tests.twins.forwarding import Forwarding

SLOW_MS = 1_000


class SlowToBegin(Forwarding):
    """Another process has the turn to write for a second."""

    def __init__(self, inner: Datastore, clock: ManualClock) -> None:
        super().__init__(inner)
        self.clock = clock

    @contextmanager
    def batch(self, ahead: Ahead = nothing_ahead) -> Iterator[None]:
        self.clock.advance(SLOW_MS)
        with self.inner.batch(ahead):
            yield


class SlowToRead(Forwarding):
    """The first look at the job takes a second."""

    def __init__(self, inner: Datastore, clock: ManualClock) -> None:
        super().__init__(inner)
        self.clock = clock
        self.slow_ms = SLOW_MS

    def read(self, id: str, partition_key: str) -> ReadResult:
        if id == "a":
            self.clock.advance(self.slow_ms)
            self.slow_ms = 0
        return self.inner.read(id, partition_key)


Slow = Callable[[Datastore, ManualClock], Datastore]


def claimed_next_after_a_late_one(broker: InProcess, slow: Slow) -> str:
    """What the second claim is told."""
    store, broker.context = broker.context.store, on(broker.context, slow(broker.store, broker.clock))
    broker.submit("a")
    deadline_ms = broker.clock.now_ms() + SLOW_MS // 2
    assert broker.ask(broker.caller.make("claim", deadline_ms=deadline_ms))[0]["answer"] == "request_expired"
    broker.context = on(broker.context, store)
    return str(broker.ask(broker.caller.make("claim"))[0]["answer"])


def on(context: Context, store: Datastore) -> Context:
    return structs.replace(context, store=store)


SLOW = pytest.mark.parametrize("slow", [SlowToBegin, SlowToRead])


@SLOW
def test_the_job_of_a_claim_that_came_too_late_is_offered_to_the_next(broker: InProcess, slow: Slow) -> None:
    assert claimed_next_after_a_late_one(broker, slow) == "granted"


@SLOW
def test_were_it_only_refused_nobody_would_be_offered_it_before_a_sweep(
    broker: InProcess, slow: Slow, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The twin of the test above.
    def refused(_context: Context, answer: Answer, _proposed: object) -> Settlement:
        return Settlement(answer)

    monkeypatch.setattr(settle, "_offered_again", refused)
    assert claimed_next_after_a_late_one(broker, slow) == "none_available"


def has_woken_another(broker: InProcess, *, attempt: int) -> bool:
    """Whether a claim that began to wait while a late one had the only job in hand is granted it then."""
    broker.context = on(broker.context, SlowToRead(broker.store, broker.clock))
    broker.submit("a")
    late = broker.caller.make("claim", deadline_ms=broker.clock.now_ms() + SLOW_MS // 2, attempt=attempt)
    broker.caller.send(late)
    settled = broker.settle(broker.take("w1").entries, "w1")
    other = Caller(broker.redis, "other")
    waits = other.make("claim", wait_ms=30_000)
    other.send(waits)
    broker.serve("w2")
    assert not other.has_reply(waits)
    broker.finish(settled, "w1")
    broker.serve("w2")
    return other.has_reply(waits)


AGAIN = pytest.mark.parametrize("attempt", [1, 2], ids=["sent once", "sent again"])


@AGAIN
def test_who_waits_is_woken_for_the_job_of_a_claim_that_came_too_late(broker: InProcess, attempt: int) -> None:
    assert has_woken_another(broker, attempt=attempt)


@AGAIN
def test_were_nothing_given_back_who_waits_would_wait_for_the_sweep(
    broker: InProcess, monkeypatch: pytest.MonkeyPatch, attempt: int
) -> None:
    # The twin of the test above.
    monkeypatch.setattr(aftermath, "_GIVES_BACK", frozenset())
    assert not has_woken_another(broker, attempt=attempt)
