"""Explain: each reason is told as it is, in the words of a refusal and in those of a person."""

from typing import Any

import pytest

from broker.cli import explain_command
from tests.caller import Caller
from tests.in_process import InProcess
from tests.integration.explained import CASES, Case


@pytest.fixture
def broker(anywhere: InProcess) -> InProcess:
    """Every test here is for each of the stores."""
    return anywhere


@pytest.mark.parametrize("case", CASES, ids=lambda case: str(case.name))
def test_each_reason_is_told_with_who_and_until_when(broker: InProcess, case: Case) -> None:
    case.arrange(broker)
    before = broker.store.read("job", "job")
    [reply] = broker.ask(broker.caller.make("explain", **case.ask))
    body = reply["body"]
    assert (reply["answer"], tuple(body["reasons"])) == ("ok", case.reasons)
    assert body["claimable"] is not bool(case.reasons)
    first = body["obstacles"][0] if case.reasons else {}
    assert {name: first.get(name) for name in case.detail} == case.detail
    lines = "\n".join(explain_command.job_lines(body, reply["server_now_ms"]))
    assert case.says in lines
    assert "token" not in str(reply)
    assert broker.store.read("job", "job") == before, "an explanation changes nothing"


@pytest.mark.parametrize("case", [each for each in CASES if each.refused], ids=lambda case: str(case.name))
def test_a_claim_is_granted_or_refused_as_explained(broker: InProcess, case: Case) -> None:
    case.arrange(broker)
    offers = ["os=mac"] if "requirements" not in case.reasons else []
    [reply] = broker.ask(broker.caller.make("claim", job_id="job", offers=offers))
    if not case.reasons:
        assert reply["answer"] in ("granted", "conflict"), reply
        return
    assert reply["answer"] == "not_claimable"
    assert tuple(reply["body"]["reasons"]) == case.reasons


def test_a_factory_is_told_what_it_holds_and_which_ready_jobs_it_cannot_have(broker: InProcess) -> None:
    broker.submit("mine", priority=1)
    broker.submit("free")
    broker.submit("gpu", requires=["gpu"])
    broker.submit("locked", locks=["l"])
    broker.submit("locker", locks=["l"])
    broker.submit("elsewhere", queue="other", requires=["gpu"])
    broker.ask(broker.caller.make("claim", offers=["os=mac"]))
    broker.clock.advance(1)
    broker.ask(broker.caller.make("claim", job_id="locker", offers=["os=linux"]))
    [reply] = broker.ask(broker.caller.make("explain", factory="factory"))
    body = reply["body"]
    assert {lease["job_id"] for lease in body["holds"]} == {"mine", "locker"}
    assert {job["job_id"]: job["reasons"] for job in body["refused"]} == {
        "gpu": ["requirements"],
        "locked": ["lock_busy"],
    }
    assert (body["looked_at"], body["fits"], body["queues"]) == (3, 1, ["default"])
    assert body["offers"] == ["os=linux"]


def test_a_start_that_is_over_is_told_so_and_what_came_after_it(broker: InProcess) -> None:
    broker.submit("job")
    old = broker.caller
    new = Caller(old.redis, old.factory, incarnation="boot-2")
    for each in (old, new):
        broker.clock.advance(1)
        assert broker.ask(each.make("register_factory"))[0]["answer"] == "ok"
    explained: list[dict[str, Any]] = [{"job_id": "job"}, {}]
    for about in explained:
        [reply] = broker.ask(old.make("explain", factory=old.factory, **about))
        assert reply["body"]["reasons"] == ["restarted"], "as its claims are refused"
        [obstacle] = reply["body"]["obstacles"]
        assert (obstacle["start"], obstacle["incarnation"]) == (old.incarnation, "boot-2")
        assert broker.ask(new.make("explain", factory=old.factory, **about))[0]["body"]["reasons"] == []
    [reply] = broker.ask(old.make("explain", job_id="job", factory=old.factory))
    lines = "\n".join(explain_command.job_lines(reply["body"], reply["server_now_ms"]))
    assert (
        f"start {old.incarnation} of factory {old.factory} is over, and its claims are refused: start boot-2" in lines
    )
    assert "--incarnation boot-2" in lines
    assert broker.ask(old.make("claim", job_id="job"))[0]["reason"] == "restarted"
    assert broker.ask(new.make("claim", job_id="job"))[0]["answer"] == "granted"


def test_what_a_factory_offers_can_be_told(broker: InProcess) -> None:
    broker.submit("gpu", requires=["gpu"])
    [reply] = broker.ask(broker.caller.make("explain", factory="new", offers=["gpu"]))
    assert (reply["body"]["fits"], reply["body"]["refused"]) == (1, [])


def test_who_has_not_asked_for_long_does_not_count(broker: InProcess) -> None:
    broker.ask(broker.caller.make("claim", offers=["gpu"]))
    broker.clock.advance(900_001)
    broker.sweep()
    broker.submit("job", requires=["gpu"])
    [reply] = broker.ask(broker.caller.make("explain", job_id="job"))
    assert reply["body"]["obstacles"][0]["starving"] is True


def test_a_job_that_is_not_there_is_not_explained(broker: InProcess) -> None:
    [reply] = broker.ask(broker.caller.make("explain", job_id="nowhere"))
    assert reply["answer"] == "not_found"
