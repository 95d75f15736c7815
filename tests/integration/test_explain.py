"""Explain: each reason is told as it is, in the words of a refusal and in those of a person."""

from typing import Any

import pytest

from broker.cli import explain_command
from tests.caller import Caller
from tests.in_process import InProcess
from tests.integration.explained import CASES, Case
from tests.starts import ask, hold, start, told


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
    lines = "\n".join(explain_command.job_lines(body, reply["server_now_ms"], case.ask.get("factory")))
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


def explained(broker: InProcess, **about: Any) -> tuple[dict[str, Any], str]:
    """Of `job`: who is interested in it, and what a person is told."""
    [reply] = broker.ask(broker.caller.make("explain", job_id="job", **about))
    lines = explain_command.job_lines(reply["body"], reply["server_now_ms"], about.get("factory"))
    return reply["body"].get("interest", {}), "\n".join(lines)


def named(fitting: list[dict[str, Any]]) -> list[str]:
    return [each["factory"] for each in fitting]


def test_of_a_job_that_was_handed_over_its_heir_alone_is_said_to_fit(broker: InProcess) -> None:
    giver, heir, other = (start(broker, "s1", name) for name in ("mac-1", "mac-9", "mac-3"))
    assert ask(broker, heir, "claim", offers=["gpu"])["answer"] == "none_available"
    broker.submit("job", requires=["gpu"])
    lease = hold(broker, giver, offers=["gpu"])
    ask(broker, giver, "hand_over", **lease, to="mac-9")
    other.send(other.make("claim", offers=["gpu"], wait_ms=60_000))
    broker.serve()
    interest, lines = explained(broker, factory="mac-9")
    assert (named(interest["fitting"]), interest["parked"]) == (["mac-9"], 0)
    assert "mac-9 fits, and last asked 0.0 s ago; nobody waits now\n      next: broker claim --factory mac-9" in lines
    assert hold(broker, heir, offers=["gpu"])["job_id"] == "job"


def test_a_job_that_was_handed_over_to_who_has_not_asked_does_not_starve(broker: InProcess) -> None:
    giver = start(broker, "s1", "mac-1")
    broker.submit("job", requires=["gpu"])
    ask(broker, giver, "hand_over", **hold(broker, giver, offers=["gpu"]), to="mac-9")
    [reply] = broker.ask(broker.caller.make("explain", job_id="job"))
    assert reply["body"]["reasons"] == ["reserved"]
    interest, lines = explained(broker, factory="mac-9", offers=["gpu"])
    assert interest["fitting"] == []
    assert "mac-9 can have it; nobody waits now\n      next: broker claim --factory mac-9 --queue default" in lines


def test_a_factory_whose_own_limit_is_reached_is_not_said_to_fit(broker: InProcess) -> None:
    full, free = (start(broker, "s1", name) for name in ("mac-7", "mac-8"))
    broker.ask(broker.caller.make("set_limit", limit="factory:mac-7", capacity=1))
    broker.submit("held", "job")
    hold(broker, full)
    interest, lines = explained(broker)
    assert (interest["fitting"], interest["limited"]) == ([], ["mac-7"])
    assert "mac-7 would fit, and its own limit is reached; nobody else asks" in lines
    assert told(ask(broker, full, "claim", job_id="job")) == ("not_claimable", "quota")
    assert ask(broker, free, "claim", offers=["gpu"])["answer"] == "granted"
    ask(broker, broker.caller, "revoke", job_id="job")
    interest, lines = explained(broker)
    assert (named(interest["fitting"]), interest["limited"]) == (["mac-8"], ["mac-7"])
    assert "next: broker claim --factory mac-8" in lines


def test_a_factory_that_can_have_the_job_is_told_so_whoever_asked_last(broker: InProcess) -> None:
    for caller in (start(broker, "s1", name) for name in ("mac-1", "mac-2")):
        assert ask(broker, caller, "claim")["answer"] == "none_available"
        broker.clock.advance(1_000)
    broker.submit("job")
    _, lines = explained(broker, factory="mac-1")
    assert "mac-1 fits, and last asked 2.0 s ago; nobody waits now\n      next: broker claim --factory mac-1" in lines


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
