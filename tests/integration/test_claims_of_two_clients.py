"""One claim sent by two clients of a factory: the same command run again, while the first is perhaps dead."""

import json
from typing import Any

import pytest
from msgspec import structs

from broker import batch, claim_next, presence, transitions
from broker.documents import Lease
from broker.messages import Claim
from broker.queues import intake_key
from broker.transitions import Claimant
from tests.caller import Caller
from tests.in_process import InProcess

WAIT_MS = 60_000


def the_same_again(claim: Claim, by: Caller, *, wait_ms: int = WAIT_MS) -> Claim:
    again = by.make("claim", request_id=claim.request_id, attempt=2, wait_ms=wait_ms)
    assert isinstance(again, Claim)
    return again


def waiting(broker: InProcess, caller: Caller) -> Claim:
    """A claim that waits, and whose client is never heard of again."""
    claim = caller.make("claim", wait_ms=WAIT_MS)
    assert isinstance(claim, Claim)
    caller.send(claim)
    broker.serve()
    return claim


def one_waits_and_another_asks(broker: InProcess) -> tuple[tuple[Caller, Claim], tuple[Caller, Claim]]:
    first, second = (Caller(broker.redis, "f", instance=name) for name in ("i1", "i2"))
    claim = waiting(broker, first)
    broker.clock.advance(10)
    again = the_same_again(claim, second)
    second.send(again)
    broker.serve("w2")
    return (first, claim), (second, again)


def test_the_second_client_of_a_claim_that_waits_gets_the_job(broker: InProcess) -> None:
    (first, claim), (second, again) = one_waits_and_another_asks(broker)
    assert broker.redis.hlen(claim_next.WAITING) == 1
    broker.submit("a", "b")
    assert second.replies(again, deadline_ms=1_000)[0]["answer"] == "granted"
    assert not first.has_reply(claim)
    assert len(broker.store.find({"kind": "job", "state": "leased"}).documents) == 1


def test_the_second_client_of_a_claim_that_waits_is_told_the_end_of_its_own_wait(broker: InProcess) -> None:
    _, (second, again) = one_waits_and_another_asks(broker)
    broker.clock.advance(WAIT_MS - 1)
    assert broker.sweep().waits_ended == 0
    broker.clock.advance(1)
    assert broker.sweep().waits_ended == 1
    assert second.replies(again, deadline_ms=1_000)[0]["answer"] == "none_available"


def test_a_copy_that_was_woken_does_not_take_the_place_of_the_client_that_asked_since(broker: InProcess) -> None:
    second, again = one_asks_as_the_first_is_woken(broker)
    assert second.replies(again, deadline_ms=1_000)[0]["answer"] == "granted"


def test_did_a_copy_that_was_woken_count_as_the_newest_it_would_take_the_place_too(
    broker: InProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The twin of the test above.
    monkeypatch.setattr(claim_next, "waited", lambda _claim: False)
    second, again = one_asks_as_the_first_is_woken(broker)
    assert not second.has_reply(again)


def one_asks_as_the_first_is_woken(broker: InProcess) -> tuple[Caller, Claim]:
    """The second client, after a job came."""
    first = Caller(broker.redis, "f", instance="i1")
    claim = waiting(broker, first)
    [record] = broker.redis.hvals(claim_next.WAITING)
    second = Caller(broker.redis, "f", instance="i2")
    again = the_same_again(claim, second)
    second.send(again)
    broker.serve()
    broker.redis.lpush(intake_key("claims"), json.loads(record)["envelope"])
    broker.serve()
    broker.submit("a")
    return second, again


def both_copies_in_one_batch(broker: InProcess) -> tuple[Caller, Claim]:
    """The second client, which asked while the first one's woken copy was on its way; both were settled together."""
    first, second = (Caller(broker.redis, "f", instance=name) for name in ("i1", "i2"))
    claim = waiting(broker, first)
    broker.caller.send(broker.caller.make("submit", job_id="a"))
    broker.finish(broker.settle(broker.take().entries))  # which wakes the first
    again = the_same_again(claim, second)
    second.send(again, wire="intake")
    broker.serve()
    return second, again


def test_of_two_clients_copies_in_one_batch_the_one_that_asked_since_the_other_was_woken_is_answered(
    broker: InProcess,
) -> None:
    second, again = both_copies_in_one_batch(broker)
    assert second.replies(again, deadline_ms=1_000)[0]["answer"] == "granted"


def test_were_the_first_in_the_batch_answered_the_second_would_hear_nothing(
    broker: InProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The twin of the test above.
    monkeypatch.setattr(batch, "_takes_the_place_of", lambda _claim, _earlier: False)
    second, again = both_copies_in_one_batch(broker)
    assert not second.has_reply(again)


def two_clients_in_one_batch(broker: InProcess, *, wait_ms: int) -> tuple[Caller, Claim]:
    """The second client; no worker had read the first one's request before it sent its own."""
    first, second = (Caller(broker.redis, "f", instance=name) for name in ("i1", "i2"))
    claim = first.make("claim", wait_ms=wait_ms)
    assert isinstance(claim, Claim)
    first.send(claim)
    again = the_same_again(claim, second, wait_ms=wait_ms)
    second.send(again)
    broker.serve()
    return second, again


@pytest.mark.parametrize("wait_ms", [0, WAIT_MS])
def test_of_two_clients_whose_copies_lie_in_one_batch_the_last_one_is_answered(broker: InProcess, wait_ms: int) -> None:
    if not wait_ms:
        broker.submit("a")
    second, again = two_clients_in_one_batch(broker, wait_ms=wait_ms)
    if wait_ms:
        broker.submit("a")
    assert second.replies(again, deadline_ms=1_000)[0]["answer"] == "granted"


@pytest.mark.parametrize("wait_ms", [0, WAIT_MS])
def test_were_the_first_of_two_clients_in_a_batch_answered_the_last_would_hear_nothing(
    broker: InProcess, monkeypatch: pytest.MonkeyPatch, wait_ms: int
) -> None:
    # The twin of the test above.
    monkeypatch.setattr(batch, "_takes_the_place_of", lambda _claim, _earlier: False)
    broker.submit("a")
    second, again = two_clients_in_one_batch(broker, wait_ms=wait_ms)
    assert not second.has_reply(again)


def told_to_the_second(broker: InProcess, *, and_the_first_again: bool = False) -> tuple[Caller, dict[str, Any]]:
    """The second client and its lease, after the first one's unread grant was looked after."""
    first, second = (Caller(broker.redis, "f", instance=name) for name in ("i1", "i2"))
    claim = waiting(broker, first)
    [record] = broker.redis.hvals(claim_next.WAITING)
    broker.submit("a")
    again = the_same_again(claim, second)
    second.send(again)
    broker.serve()
    if and_the_first_again:
        broker.redis.lpush(intake_key("claims"), json.loads(record)["envelope"])
        broker.serve()
    reply = second.replies(again)[0]
    assert reply["answer"] == "replayed"
    broker.clock.advance(presence.READ_WITHIN_MS)
    assert presence.take_back_unread(broker.redis, broker.context.entropy, now_ms=broker.clock.now_ms()) >= 1
    broker.serve()
    return second, {name: reply["body"][name] for name in ("job_id", "epoch", "token")}


def renewed(broker: InProcess, caller: Caller, lease: dict[str, Any]) -> str:
    request = caller.make("renew", **lease)
    caller.send(request)
    broker.serve()
    return str(caller.replies(request)[0]["answer"])


def hears_of_a_cancel(broker: InProcess, caller: Caller) -> bool:
    broker.ask(broker.caller.make("cancel", job_id="a"))
    caller.collect()
    return [notice["job_id"] for notice in caller.notices] == ["a"]


def test_a_grant_told_to_another_client_is_not_taken_back_for_the_one_that_did_not_read_it(broker: InProcess) -> None:
    second, lease = told_to_the_second(broker)
    assert renewed(broker, second, lease) == "renewed"
    assert hears_of_a_cancel(broker, second)


def test_did_the_lease_not_say_who_was_told_it_would_be_taken_from_the_second(
    broker: InProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The twin of the test above.
    monkeypatch.setattr(transitions, "told_again", lambda _lease, _who: {})
    second, lease = told_to_the_second(broker)
    assert renewed(broker, second, lease) == "lease_lost"


def test_a_copy_that_was_woken_before_the_second_came_and_is_settled_after_it_takes_nothing_back(
    broker: InProcess,
) -> None:
    second, lease = told_to_the_second(broker, and_the_first_again=True)
    assert renewed(broker, second, lease) == "renewed"
    assert hears_of_a_cancel(broker, second)


def test_did_a_copy_that_was_woken_count_as_the_newest_another_would_hear_of_a_cancel(
    broker: InProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The twin of the test above.
    told_again = transitions.told_again

    def whoever_comes(lease: Lease, who: Claimant) -> dict[str, Any]:
        return told_again(lease, structs.replace(who, waited=False))

    monkeypatch.setattr(transitions, "told_again", whoever_comes)
    second, _ = told_to_the_second(broker, and_the_first_again=True)
    assert not hears_of_a_cancel(broker, second)
