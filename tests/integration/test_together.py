"""Features met together: what a claim is answered, what `explain` says, and that nothing is stuck afterwards."""

from typing import Any

import pytest

from broker.cli import explain_command
from tests.concurrency.race import read
from tests.in_process import SKEW_MS, TTL_MS, InProcess


@pytest.fixture
def broker(anywhere: InProcess) -> InProcess:
    """Every test here is for each of the stores."""
    return anywhere


class Factory:
    """One factory, by its name."""

    def __init__(self, broker: InProcess, name: str) -> None:
        self._broker = broker
        self.name = name

    def ask(self, op: str, **body: Any) -> Any:
        request = self._broker.caller.make(op, **body).model_copy(update={"factory_id": self.name, "instance": "y"})
        self._broker.caller.send(request)
        self._broker.serve()
        own = type(self._broker.caller)(self._broker.redis, self.name, instance="y")
        return own.replies(request, deadline_ms=1_000)[0]

    def hold(self, job_id: str) -> dict[str, Any]:
        grant = self.ask("claim", job_id=job_id)
        assert grant["answer"] == "granted", grant
        return {name: grant["body"][name] for name in ("job_id", "epoch", "token")}

    def refused(self, job_id: str) -> tuple[str, ...]:
        """Why it can't have the job; empty where it can, and has it now."""
        answer = self.ask("claim", job_id=job_id)
        return tuple(answer["body"].get("reasons", [] if answer["answer"] == "granted" else [answer["answer"]]))


def ask(broker: InProcess, op: str, **body: Any) -> Any:
    return broker.ask(broker.caller.make(op, **body))[0]


def why(broker: InProcess, job_id: str, **asking: Any) -> tuple[tuple[str, ...], str]:
    """The reasons, and the lines for a person."""
    reply = ask(broker, "explain", job_id=job_id, **asking)
    return tuple(reply["body"]["reasons"]), "\n".join(explain_command.job_lines(reply["body"], reply["server_now_ms"]))


def state(broker: InProcess, job_id: str) -> str:
    return read(broker.store, job_id).state.value


def test_a_drained_factory_keeps_its_path_lock_and_its_job_while_a_child_is_cancelled(broker: InProcess) -> None:
    mac = Factory(broker, "mac-1")
    broker.submit("parent", locks=["repo:web/src"])
    broker.submit("child", depends_on=["parent"], on_parent_failure="cancel")
    broker.submit("grandchild", depends_on=["child"], on_parent_failure="cancel")
    broker.submit("rival", locks=["repo:web/src/app"])
    fence = mac.hold("parent")
    ask(broker, "drain_factory", factory="mac-1", reason="update")
    ask(broker, "cancel", job_id="child", reason="not needed")
    assert why(broker, "child") == (
        ("terminal",),
        "job child is cancelled in queue default; it can't be claimed now:\n"
        "  - over: cancelled: not needed\n"
        "      next: start it again: broker redrive child",
    )
    assert "its parent child was cancelled" in why(broker, "grandchild")[1]
    assert why(broker, "rival")[0] == ("lock_busy",)
    assert "repo:web/src is taken by job parent on mac-1, for another" in why(broker, "rival")[1]
    assert why(broker, "rival", factory="mac-1")[0] == ("draining", "lock_busy")
    assert mac.refused("rival") == ("draining",)
    assert Factory(broker, "mac-2").refused("rival") == ("lock_busy",)
    renewed = mac.ask("renew", **fence)
    assert (renewed["answer"], renewed["body"]["directives"]) == ("renewed", ["drain"])
    assert mac.ask("complete", **fence)["answer"] == "ok"
    assert state(broker, "child") == "cancelled"
    assert Factory(broker, "mac-2").refused("rival") == ()


def test_a_superseded_job_in_a_paused_queue_is_over_and_the_newer_one_waits_for_the_queue(broker: InProcess) -> None:
    broker.submit("old", supersedes="k")
    ask(broker, "pause_queue", queue="default", reason="deploy")
    broker.clock.advance(1)
    broker.submit("new", supersedes="k")
    assert why(broker, "old")[0] == ("terminal", "paused")
    assert "over: cancelled: superseded by new" in why(broker, "old")[1]
    assert why(broker, "new")[0] == ("paused",)
    assert Factory(broker, "f").refused("new") == ("paused",)
    ask(broker, "redrive", job_id="old")
    ask(broker, "resume_queue", queue="default")
    assert [ask(broker, "claim")["body"].get("job_id") for _ in range(3)] == ["new", "old", None], "redriven on purpose"


@pytest.mark.parametrize("swept", [False, True])
def test_a_dead_holder_of_a_full_key_is_not_replaced_while_its_queue_is_paused(broker: InProcess, swept: bool) -> None:
    dead, taker = Factory(broker, "dead"), Factory(broker, "taker")
    ask(broker, "set_limit", limit="key:db", capacity=1)
    broker.submit("first", "second", concurrency=["db"])
    fence = dead.hold("first")
    assert why(broker, "second")[0] == ("quota",)
    assert "1 of 1 in use by job first on dead, for another 1 min 0 s" in why(broker, "second")[1]
    ask(broker, "pause_queue", queue="default", reason="deploy")
    assert why(broker, "second")[0] == ("paused", "quota")
    broker.clock.advance(TTL_MS + SKEW_MS + 1)
    if swept:
        broker.sweep()
    assert why(broker, "first")[0] == ("paused",), "its own dead lease is not in its way"
    # Until the lease is reaped or taken over the key is its own still; then it is free.
    assert why(broker, "second")[0] == (("paused",) if swept else ("paused", "quota"))
    assert taker.refused("first") == ("paused",)
    ask(broker, "resume_queue", queue="default")
    assert taker.hold("first")["epoch"] == 2
    assert why(broker, "second")[0] == ("quota",)
    assert "by job first on taker" in why(broker, "second")[1]
    late = dead.ask("complete", **fence)
    assert (late["answer"], late["body"]["holder"], late["body"]["epoch"]) == ("lease_lost", "taker", 2)
    assert read(broker.store, "first").counters.expiries == 1


def test_nothing_is_handed_over_to_a_factory_that_drains_and_one_that_drains_later_is_named(broker: InProcess) -> None:
    giver, heir, other = (Factory(broker, name) for name in ("giver", "heir", "other"))
    broker.submit("job", locks=["l"])
    fence = giver.hold("job")
    ask(broker, "drain_factory", factory="heir", reason="closing")
    refused = giver.ask("hand_over", **fence, to="heir")
    assert (refused["answer"], refused["reason"], refused["body"]["why"]) == ("not_claimable", "draining", "closing")
    assert why(broker, "job")[0] == ("leased",)
    assert giver.ask("renew", **fence)["answer"] == "renewed", "it holds it still"
    ask(broker, "resume_factory", factory="heir")
    assert giver.ask("hand_over", **fence, to="heir")["answer"] == "ok"
    assert "which drains" not in why(broker, "job")[1]
    ask(broker, "drain_factory", factory="heir")
    reasons, lines = why(broker, "job")
    assert reasons == ("reserved",)
    assert "kept for factory heir, to which giver handed it over, and which drains" in lines
    assert "broker factory resume heir" in lines
    assert why(broker, "job", factory="heir")[0] == ("draining",)
    assert (heir.refused("job"), other.refused("job")) == (("draining",), ("reserved",))
    broker.clock.advance(TTL_MS + 1)
    assert other.refused("job") == (), "after one ttl it is anybody's, the lock with it"


def test_a_unique_job_that_joins_one_that_is_held_waits_with_it(broker: InProcess) -> None:
    broker.submit("first", unique={"key": "k", "policy": "join"})
    ask(broker, "hold", job_id="first", reason="broken tests")
    joined = ask(broker, "submit", job_id="second", unique={"key": "k", "policy": "join"})
    assert (joined["answer"], joined["body"]["job_id"], joined["body"]["joined"]) == ("ok", "first", True)
    assert why(broker, "first")[0] == ("held",)
    assert '"broken tests"' in why(broker, "first")[1]
    assert ask(broker, "explain", job_id="second")["answer"] == "not_found"
    assert ask(broker, "claim")["answer"] == "none_available"
    ask(broker, "lift", job_id="first")
    assert ask(broker, "claim")["body"]["job_id"] == "first"


def test_only_a_factory_that_drains_offers_what_a_job_requires(broker: InProcess) -> None:
    gpu = Factory(broker, "gpu-1")
    gpu.ask("claim", offers=["gpu"])
    broker.submit("job", requires=["gpu"])
    broker.submit("plain")
    assert why(broker, "job")[0] == ()
    ask(broker, "drain_factory", factory="gpu-1")
    reasons, lines = why(broker, "job")
    assert reasons == ("requirements",)
    assert "starving: requires gpu, which only factories that drain offer: gpu-1" in lines
    assert "gpu-1 would fit, and drains; nobody else asks" in why(broker, "plain")[1]
    ask(broker, "resume_factory", factory="gpu-1")
    assert why(broker, "job")[0] == ()


def test_a_stuck_run_that_is_revoked_gives_its_lock_and_its_unit_to_who_waits(broker: InProcess) -> None:
    slow, waiting = Factory(broker, "slow"), broker.caller
    ask(broker, "set_limit", limit="key:db", capacity=1)
    shared: dict[str, Any] = {"locks": ["repo:web"], "concurrency": ["db"]}
    broker.submit("stuck", stuck_after_ms=TTL_MS, on_stuck="revoke", max_failures=1, **shared)
    fence = slow.hold("stuck")
    broker.submit("next", **shared)
    claim = waiting.make("claim", wait_ms=60_000)
    for _ in range(3):
        broker.clock.advance(TTL_MS // 3)
        assert slow.ask("renew", **fence)["answer"] == "renewed"
        broker.sweep()
    assert set(why(broker, "next")[0]) == {"lock_busy", "quota"}
    waiting.send(claim)
    broker.serve()
    assert not waiting.has_reply(claim)
    broker.clock.advance(TTL_MS // 3)
    slow.ask("renew", **fence)
    broker.sweep()
    broker.serve()
    assert waiting.replies(claim, deadline_ms=1_000)[0]["body"]["job_id"] == "next"
    assert "no progress" in why(broker, "stuck")[1]


def test_a_schedule_fires_into_a_paused_queue_and_its_job_waits_there(broker: InProcess) -> None:
    ask(broker, "pause_queue", queue="nightly")
    ask(broker, "put_schedule", name="clean", cron="* * * * *", job={"queue": "nightly", "supersedes": "clean"})
    for _ in range(2):
        broker.clock.advance(60_000)
        broker.sweep()
    older, newer = (job["id"] for job in ask(broker, "list_jobs", queue="nightly")["body"]["jobs"])
    assert why(broker, older)[0] == ("terminal", "paused")
    assert why(broker, newer)[0] == ("paused",)
    ask(broker, "change_schedule", name="clean", to="removed")
    ask(broker, "resume_queue", queue="nightly")
    assert ask(broker, "claim", queue="nightly")["body"]["job_id"] == newer


def test_a_running_job_with_everything_on_it_is_cancelled_and_leaves_nothing_behind(broker: InProcess) -> None:
    mac, other = Factory(broker, "mac-1"), Factory(broker, "mac-2")
    for limit in ("queue:default", "key:db", "factory:mac-1"):
        ask(broker, "set_limit", limit=limit, capacity=1)
    shared: dict[str, Any] = {"locks": ["repo:web", "data@shared"], "concurrency": ["db"]}
    broker.submit("job", unique={"key": "k"}, **shared)
    broker.submit("child", depends_on=["job"], on_parent_failure="ignore", **shared)
    broker.submit("rival", **shared)
    fence = mac.hold("job")
    assert set(why(broker, "rival")[0]) == {"lock_busy", "quota"}
    ask(broker, "cancel", job_id="job", reason="typo")
    reasons, lines = why(broker, "job")
    assert reasons == ("leased",)
    assert 'asked to stop: "typo", which is enforced in 30 s' in lines
    assert mac.ask("renew", **fence)["body"]["directives"] == ["cancel"]
    assert why(broker, "child")[0][0] == "blocked"
    mac.ask("release", **fence, reason="stopped as asked")
    assert state(broker, "job") == "cancelled"
    assert 'over: cancelled on mac-1, 0.0 s ago: "typo"' in why(broker, "job")[1]
    assert state(broker, "child") == "ready", "it runs whatever its parent does"
    assert why(broker, "rival")[0] == ()
    first = other.hold("rival")
    assert other.ask("complete", **first)["answer"] == "ok"
    assert other.refused("child") == ()
    assert ask(broker, "submit", job_id="again", unique={"key": "k"})["answer"] == "ok"
