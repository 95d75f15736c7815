"""Attacks that were found by trying: what one factory can do to another by knowing, or guessing, its request ids."""

import json
from typing import Any

import pytest
import redis

from broker.answers import Reason
from broker.claim_next import WAITING
from broker.door import Unauthorized
from broker.signing import Role
from datastore import connect
from tests.caller import Caller, Reply
from tests.in_process import InProcess
from tests.integration.test_signed_attacks import Scene
from tests.unit.test_signing import Gate, envelope, signed

pytestmark = pytest.mark.redis


class Two:
    """A factory, and one that knows its request ids."""

    def __init__(self, connection: redis.Redis) -> None:
        self.broker = InProcess(connect("memory://"), connection)
        self.factory, self.thief = Caller(connection, "mac-1"), Caller(connection, "mac-2")

    def ask(self, caller: Caller, op: str, **fields: Any) -> Reply:
        request = caller.make(op, **fields)
        caller.send(request)
        self.broker.serve()
        return caller.replies(request, deadline_ms=1_000)[0]


@pytest.fixture
def two(redis_client: redis.Redis) -> Two:
    return Two(redis_client)


def test_a_submission_under_anothers_request_id_does_not_take_its_place(two: Two) -> None:
    # A request id that can be guessed, such as the commit that CI builds.
    assert two.ask(two.thief, "submit", request_id="c0ffee", payload="evil")["answer"] == "ok"
    reply = two.ask(two.factory, "submit", request_id="c0ffee", payload="good")
    assert (reply["answer"], reply["reason"]) == ("conflict", "exists"), "never `replayed`: nothing of it is stored"


@pytest.mark.parametrize("attempt", [1, 2])
def test_a_claim_under_anothers_request_id_gets_neither_its_job_nor_its_token(two: Two, attempt: int) -> None:
    two.broker.submit("job")
    granted = two.ask(two.factory, "claim", request_id="next")
    reply = two.ask(two.thief, "claim", request_id="next", attempt=attempt)
    assert (reply["answer"], reply["body"]) == ("none_available", {})
    again = two.ask(two.factory, "claim", request_id="next", attempt=2)
    assert (again["answer"], again["body"]["token"]) == ("replayed", granted["body"]["token"])


def test_a_parked_claim_does_not_keep_the_answer_from_another_with_the_same_request_id(two: Two) -> None:
    thief = two.thief.make("claim", request_id="next", wait_ms=30_000)
    factory = two.factory.make("claim", request_id="next", wait_ms=30_000)
    two.thief.send(thief)
    two.broker.serve()
    two.factory.send(factory)
    two.broker.serve()
    two.broker.submit("one", "two")
    two.broker.serve()
    jobs = {caller.replies(request, deadline_ms=1_000)[0]["body"]["job_id"] for caller, request in
            ((two.thief, thief), (two.factory, factory))}  # fmt: skip
    assert jobs == {"one", "two"}


@pytest.mark.parametrize("op", ["list_jobs", "list_schedules", "list_factories"])
@pytest.mark.parametrize("cursor", ["x", "[]", '["a"]', '["a", 1]', '["\\ud800", "a"]', "[" * 4_000])
def test_a_cursor_that_is_none_is_invalid_and_no_mistake_of_ours(two: Two, op: str, cursor: str) -> None:
    reply = two.ask(two.thief, op, cursor=cursor)
    assert (reply["answer"], reply["retry"], reply["reason"]) == ("invalid", "final", "malformed")
    assert "unknown cursor" in reply["body"]["detail"]


def test_a_factory_does_not_cancel_by_submitting_what_it_may_not_cancel_by_asking() -> None:
    gate = Gate()
    key = gate.key(role=Role.FACTORY)
    for body in ({"unique": {"key": "deploy", "policy": "replace"}}, {"supersedes": "branch:main"}):
        with pytest.raises(Unauthorized) as refused:
            gate.admit(signed(key, envelope("submit", body=body)))
        assert refused.value.answer.reason is Reason.NOT_PERMITTED
        assert "a submission that cancels other jobs" in str(refused.value)
        assert gate.admit(signed(gate.key(role=Role.SUBMITTER), envelope("submit", body=body)))
    assert gate.admit(signed(key, envelope("submit", body={"unique": {"key": "deploy", "policy": "join"}})))


def test_a_signed_claim_that_waits_is_found_again_when_its_factory_registers(redis_client: redis.Redis) -> None:
    # What waits is read by the broker itself here; a signature before it must not stop the worker.
    scene = Scene(redis_client, gullible=False)
    scene.push(scene.message("claim", wait_ms=30_000))
    assert redis_client.hlen(WAITING) == 1
    assert scene.say("register_factory", offers=["gpu"]) is not None
    scene.broker.serve()
    assert redis_client.hlen(WAITING) == 1
    [record] = redis_client.hvals(WAITING)
    assert json.loads(record)["envelope"].startswith(f"s1 @{scene.holder.id} ")
