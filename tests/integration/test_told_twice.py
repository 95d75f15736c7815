"""A waiting claim that its client has sent twice: what it read of the one answer counts, whatever lies of the other."""

from typing import Any

import pytest
from msgspec import structs

from broker import presence, transitions
from broker.documents import Lease
from broker.messages import Request
from broker.transitions import Claimant
from tests.caller import Caller, Reply
from tests.in_process import InProcess
from workers.taking import Hand

WAIT_MS = 60_000


@pytest.fixture
def caller(broker: InProcess) -> Caller:
    return Caller(broker.redis, "f", instance="i1")


def granted_after_a_wait(broker: InProcess, caller: Caller) -> Request:
    """The claim; its answer lies on the channel."""
    claim = caller.make("claim", wait_ms=WAIT_MS)
    caller.send(claim)
    broker.serve()
    broker.submit("a")
    return claim


def take_back(broker: InProcess) -> int:
    broker.clock.advance(presence.READ_WITHIN_MS)
    return presence.take_back_unread(broker.redis, broker.context.entropy, now_ms=broker.clock.now_ms())


def renewed(broker: InProcess, caller: Caller, grant: Reply) -> str:
    renewal = caller.make("renew", **{name: grant["body"][name] for name in ("job_id", "epoch", "token")})
    caller.send(renewal)
    broker.serve()
    return str(caller.replies(renewal)[0]["answer"])


def read_and_then_told_again(broker: InProcess, caller: Caller) -> tuple[Reply, int]:
    """The grant that was read, and how many were taken back while nobody read what the second copy was told."""
    claim = granted_after_a_wait(broker, caller)
    [grant] = caller.replies(claim)
    broker.clock.advance(1)
    caller.send(claim.model_copy(update={"attempt": 2}))
    broker.serve()
    taken = take_back(broker)
    broker.serve()
    return grant, taken


def test_a_grant_that_was_read_stays_though_nobody_reads_what_a_second_copy_is_told(
    broker: InProcess, caller: Caller
) -> None:
    grant, taken = read_and_then_told_again(broker, caller)
    assert (grant["answer"], taken) == ("granted", 0)
    assert renewed(broker, caller, grant) == "renewed"


def told_again_as_it_is_taken_back(broker: InProcess, caller: Caller) -> Reply:
    """What the second copy is told, which a worker had in hand as the first answer was found unread."""
    claim = granted_after_a_wait(broker, caller)
    again = claim.model_copy(update={"attempt": 2})
    caller.send(again)
    hand = broker.take("w1")
    assert take_back(broker) == 1
    broker.finish(broker.settle(hand.entries, "w1"), "w1")
    [told] = caller.replies(again)
    broker.serve("w2")
    return told


def test_a_grant_that_is_told_again_is_not_taken_back_for_an_earlier_answer(broker: InProcess, caller: Caller) -> None:
    told = told_again_as_it_is_taken_back(broker, caller)
    assert told["answer"] == "replayed"
    assert renewed(broker, caller, told) == "renewed"


def test_did_the_lease_not_say_that_its_client_asked_again_it_would_be_taken_back(
    broker: InProcess, caller: Caller, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The twin of the test above.
    def only_who(lease: Lease, who: Claimant) -> dict[str, Any]:
        return {"lease": structs.replace(lease, instance=who.instance)}

    monkeypatch.setattr(transitions, "told_again", only_who)
    told = told_again_as_it_is_taken_back(broker, caller)
    assert told["answer"] == "replayed"
    assert renewed(broker, caller, told) == "lease_lost"


def woken(broker: InProcess, caller: Caller) -> tuple[Request, Hand]:
    """A claim that has waited, and is in a worker's hand now that there is a job."""
    claim = caller.make("claim", wait_ms=WAIT_MS)
    caller.send(claim)
    broker.serve()
    broker.caller.send(broker.caller.make("submit", job_id="a"))
    broker.finish(broker.settle(broker.take().entries))
    return claim, broker.take("w1")


def test_a_lost_worker_that_tells_a_waiting_claim_again_does_not_keep_the_job_for_one_that_died(
    broker: InProcess, caller: Caller
) -> None:
    _, hand = woken(broker, caller)
    broker.settle(hand.entries, "w1")  # granted, and killed before it answers
    broker.kill("w1")
    broker.take_over("w2")
    assert take_back(broker) == 1
    broker.serve("w2")
    job = broker.store.find({"kind": "job"}).documents[0].body
    assert (job["state"], job["epoch"]) == ("ready", 1)


def read_and_then_told_by_another_worker(broker: InProcess, caller: Caller) -> tuple[Reply, int]:
    """The grant that was read, of a worker that was lost before the end of its batch; how many were taken back while
    nobody read what another one told of it.
    """
    claim, hand = woken(broker, caller)
    [slot] = broker.redis.keys("broker:inflight:w1:*")
    in_flight = broker.redis.dump(slot) or b""
    broker.finish(broker.settle(hand.entries, "w1"), "w1")
    broker.redis.restore(slot, 0, in_flight)
    broker.kill("w1")
    [grant] = caller.replies(claim)
    broker.clock.advance(1)
    broker.take_over("w2")
    taken = take_back(broker)
    broker.serve("w2")
    return grant, taken


def test_a_grant_that_was_read_stays_though_nobody_reads_what_another_worker_tells_of_it(
    broker: InProcess, caller: Caller
) -> None:
    grant, taken = read_and_then_told_by_another_worker(broker, caller)
    assert (grant["answer"], taken) == ("granted", 0)
    assert renewed(broker, caller, grant) == "renewed"


def test_were_each_answer_to_it_to_be_read_it_would_be_taken_from_its_holder(
    broker: InProcess, caller: Caller, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The twin of the test above.
    monkeypatch.setattr(presence, "_UNLESS_TOLD", "redis.call('ZADD', KEYS[1], ARGV[1], ARGV[2])")
    grant, taken = read_and_then_told_by_another_worker(broker, caller)
    assert (grant["answer"], taken) == ("granted", 1)
    assert renewed(broker, caller, grant) == "lease_lost"
