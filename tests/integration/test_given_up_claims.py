"""A claim that was on its way as its caller gave it up: what it gets is given back before the caller is gone."""

import pytest

from broker import claim_next
from broker.messages import Request
from tests.in_process import InProcess

pytestmark = pytest.mark.redis


def asked_again_without_a_wait(broker: InProcess, claim: Request) -> Request:
    again = broker.caller.make("claim", request_id=claim.request_id, attempt=2)
    broker.caller.send(again)
    return again


@pytest.mark.parametrize("parked", [True, False], ids=["it is parked", "both come in one batch"])
def test_a_claim_repeated_without_a_wait_ends_its_wait(broker: InProcess, parked: bool) -> None:
    claim = broker.caller.make("claim", wait_ms=60_000)
    broker.caller.send(claim)
    if parked:
        broker.serve()
        assert broker.redis.hlen(claim_next.WAITING) == 1
    asked_again_without_a_wait(broker, claim)
    broker.serve()
    assert broker.caller.replies(claim, deadline_ms=1_000)[0]["answer"] == "none_available"
    assert not broker.redis.exists("broker:waiting", "broker:waiting:ends")
    broker.submit("a")
    broker.serve()
    assert not broker.caller.has_reply(claim)
    assert not broker.store.find({"kind": "job", "state": "leased"}).documents


def test_a_claim_repeated_without_a_wait_is_told_of_the_lease_it_got(broker: InProcess) -> None:
    broker.submit("a")
    claim = broker.caller.make("claim", wait_ms=60_000)
    broker.caller.send(claim)
    asked_again_without_a_wait(broker, claim)
    broker.serve()
    assert broker.caller.replies(claim, deadline_ms=1_000)[0]["body"]["job_id"] == "a"
    assert broker.redis.hlen(claim_next.WAITING) == 0
