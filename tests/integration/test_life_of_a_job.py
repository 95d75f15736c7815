"""What becomes of a job by itself: parents, keys, deadlines of runs, runs that make no progress."""

from typing import Any

import pytest

from broker import aftermath
from tests.caller import Reply
from tests.concurrency.race import read, runs_of
from tests.in_process import TTL_MS, InProcess


@pytest.fixture
def broker(anywhere: InProcess) -> InProcess:
    """Every test here is for each of the stores."""
    return anywhere


def hold(broker: InProcess, job: str) -> dict[str, Any]:
    [reply] = broker.ask(broker.caller.make("claim", job_id=job))
    assert reply["answer"] == "granted", reply
    return {name: reply["body"][name] for name in ("job_id", "epoch", "token")}


def end(broker: InProcess, job: str, op: str = "complete", **fields: Any) -> None:
    assert broker.ask(broker.caller.make(op, **hold(broker, job), **fields))[0]["answer"] == "ok"


def state(broker: InProcess, job: str) -> str:
    return read(broker.store, job).state.value


def submit(broker: InProcess, job: str, **fields: Any) -> Reply:
    return broker.ask(broker.caller.make("submit", job_id=job, **fields))[0]


def test_a_child_is_free_as_its_last_parent_succeeds_without_a_sweep(broker: InProcess) -> None:
    broker.submit("p1", "p2")
    broker.submit("child", depends_on=["p1", "p2"])
    end(broker, "p1")
    assert state(broker, "child") == "blocked"
    end(broker, "p2")
    assert broker.ask(broker.caller.make("claim"))[0]["body"]["job_id"] == "child"


def test_a_child_of_parents_that_have_succeeded_already_is_free_at_once(broker: InProcess) -> None:
    broker.submit("parent")
    end(broker, "parent")
    broker.submit("child", depends_on=["parent"])
    assert state(broker, "child") == "ready"


def test_a_parent_that_ends_between_the_write_and_the_hint_of_its_child_frees_it(broker: InProcess) -> None:
    broker.submit("parent")
    lease = hold(broker, "parent")
    broker.caller.send(broker.caller.make("submit", job_id="child", depends_on=["parent"]))
    half_done = broker.settle(broker.take("w1").entries, "w1")
    broker.ask(broker.caller.make("complete", **lease), worker="w2")
    assert state(broker, "child") == "blocked"  # nobody knew of it yet
    broker.finish(half_done, "w1")
    assert state(broker, "child") == "ready"


def test_without_the_look_at_new_children_such_a_child_stays_blocked(
    broker: InProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The twin of the test above: only children that were known as their parent ended are looked at.
    monkeypatch.setattr(aftermath, "look_at_new", lambda *_, **__: [])
    with pytest.raises(AssertionError):
        test_a_parent_that_ends_between_the_write_and_the_hint_of_its_child_frees_it(broker)
    assert state(broker, "child") == "blocked"


def test_a_child_waits_for_a_parent_that_is_submitted_later(broker: InProcess) -> None:
    broker.submit("child", depends_on=["parent"])
    broker.sweep()
    assert broker.ask(broker.caller.make("get_job", job_id="child"))[0]["body"]["parents"] == {"parent": None}
    broker.submit("parent")
    end(broker, "parent")
    assert state(broker, "child") == "ready"


@pytest.mark.parametrize(("policy", "expected"), [("block", "blocked"), ("cancel", "cancelled"), ("ignore", "ready")])
@pytest.mark.parametrize("how", ["fail", "cancel"])
def test_a_parent_that_ends_badly_does_what_the_child_says(
    broker: InProcess, policy: str, expected: str, how: str
) -> None:
    broker.submit("parent", max_failures=1)
    broker.submit("child", depends_on=["parent"], on_parent_failure=policy)
    if how == "fail":
        end(broker, "parent", "fail", error="broke")
    else:
        broker.ask(broker.caller.make("cancel", job_id="parent"))
    assert state(broker, "child") == expected
    if policy == "cancel":
        assert "parent" in (read(broker.store, "child").why or "")


def test_a_blocked_child_goes_on_once_its_failed_parent_is_redriven_and_succeeds(broker: InProcess) -> None:
    broker.submit("parent", max_failures=1)
    broker.submit("child", depends_on=["parent"])
    end(broker, "parent", "fail")
    broker.ask(broker.caller.make("redrive", job_id="parent"))
    end(broker, "parent")
    assert state(broker, "child") == "ready"


def test_cancelling_goes_down_the_generations_at_once(broker: InProcess) -> None:
    broker.submit("a")
    for parent, child in (("a", "b"), ("b", "c"), ("c", "d")):
        broker.submit(child, depends_on=[parent], on_parent_failure="cancel")
    broker.ask(broker.caller.make("cancel", job_id="a"))
    assert [state(broker, job) for job in "abcd"] == ["cancelled"] * 4


def test_a_running_child_of_a_cancelled_parent_is_left_alone(broker: InProcess) -> None:
    broker.submit("parent")
    end(broker, "parent")
    broker.submit("child", depends_on=["parent"], on_parent_failure="cancel")
    lease = hold(broker, "child")
    broker.sweep()
    assert broker.ask(broker.caller.make("complete", **lease))[0]["answer"] == "ok"


def test_jobs_that_depend_on_each_other_stay_blocked_and_can_be_cancelled(broker: InProcess) -> None:
    broker.submit("a", depends_on=["b"])
    broker.submit("b", depends_on=["a"], on_parent_failure="cancel")
    broker.sweep()
    assert [state(broker, job) for job in "ab"] == ["blocked", "blocked"]
    broker.ask(broker.caller.make("cancel", job_id="a"))
    assert [state(broker, job) for job in "ab"] == ["cancelled", "cancelled"]


def test_children_are_found_without_any_hint_by_the_sweep(broker: InProcess) -> None:
    broker.submit("parent", "other")
    broker.submit("child", depends_on=["parent"])
    broker.submit("later", depends_on=["other"])
    broker.redis.flushall()
    end(broker, "parent")
    assert state(broker, "child") == "blocked"
    assert broker.sweep().unblocked == 1
    assert state(broker, "child") == "ready"
    end(broker, "other")  # its hint is there again
    assert state(broker, "later") == "ready"


def test_a_unique_key_admits_one_job_until_that_is_over(broker: InProcess) -> None:
    broker.submit("a", unique={"key": "k"})
    refused = submit(broker, "b", unique={"key": "k"})
    assert (refused["answer"], refused["reason"], refused["body"]["job_id"]) == ("conflict", "not_unique", "a")
    lease = hold(broker, "a")
    assert submit(broker, "b", unique={"key": "k"})["reason"] == "not_unique"
    assert submit(broker, "c", unique={"key": "another"})["answer"] == "ok"
    broker.ask(broker.caller.make("complete", **lease))
    assert submit(broker, "b", unique={"key": "k"})["answer"] == "ok"


def test_joining_gives_the_job_that_has_the_key(broker: InProcess) -> None:
    broker.submit("a", unique={"key": "k", "policy": "join"})
    joined = submit(broker, "b", unique={"key": "k", "policy": "join"})
    assert (joined["answer"], joined["body"]["job_id"], joined["body"]["joined"]) == ("ok", "a", True)
    assert broker.ask(broker.caller.make("get_job", job_id="b"))[0]["answer"] == "not_found"


def test_a_listing_says_what_a_stored_document_leaves_out(broker: InProcess) -> None:
    broker.submit("a")
    lease = hold(broker, "a")
    held = broker.ask(broker.caller.make("get_job", job_id="a"))[0]["body"]["job"]
    assert (held["counters"], held["recent_requests"]) == ({"failures": 0, "expiries": 0, "releases": 0}, [])
    assert (held["requires"], held["locks"], held["depends_on"]) == ([], [], [])
    assert (held["lease"]["renewals"], held["lease"]["run_deadline_ms"], held["lease"]["stuck_ms"]) == (0, None, None)
    assert {"token", "instance"}.isdisjoint(held["lease"]), "what is its holder's own is told to nobody"
    assert broker.ask(broker.caller.make("complete", **lease))[0]["answer"] == "ok"
    over = broker.ask(broker.caller.make("get_job", job_id="a"))[0]["body"]["job"]
    [run] = broker.ask(broker.caller.make("list_runs", job_id="a"))[0]["body"]["runs"]
    for end in (over["last_end"], run):
        assert (end["outcome"], end["renewals"], end["result"], end["error"]) == ("succeeded", 0, None, None)


def test_replacing_cancels_a_job_that_waits_and_leaves_one_that_runs(broker: InProcess) -> None:
    broker.submit("a", unique={"key": "k", "policy": "replace"})
    broker.submit("b", unique={"key": "k", "policy": "replace"})
    assert (state(broker, "a"), read(broker.store, "a").why) == ("cancelled", "replaced by b")
    hold(broker, "b")
    assert submit(broker, "c", unique={"key": "k", "policy": "replace"})["reason"] == "not_unique"
    assert state(broker, "b") == "leased"


def test_a_job_that_is_over_must_get_its_key_back_to_be_redriven(broker: InProcess) -> None:
    broker.submit("a", unique={"key": "k"}, max_failures=1)
    end(broker, "a", "fail")
    broker.submit("b", unique={"key": "k"})
    redrive = broker.caller.make("redrive", job_id="a")
    refused = broker.ask(redrive)[0]
    assert (refused["reason"], refused["body"]["job_id"]) == ("not_unique", "b")
    end(broker, "b")
    assert broker.ask(broker.caller.make("redrive", job_id="a"))[0]["answer"] == "ok"
    assert submit(broker, "c", unique={"key": "k"})["body"]["job_id"] == "a"


def test_a_submission_sent_again_is_a_replay_whatever_has_its_key_now(broker: InProcess) -> None:
    request = broker.caller.make("submit", job_id="a", unique={"key": "k"})
    broker.ask(request)
    assert broker.ask(request)[0]["answer"] == "replayed"
    end(broker, "a")
    broker.submit("b", unique={"key": "k"})
    assert broker.ask(request)[0]["answer"] == "replayed"
    assert state(broker, "b") == "ready"


def test_a_newer_job_supersedes_older_ones_that_wait_but_none_that_runs(broker: InProcess) -> None:
    for job in ("a", "b", "c"):
        broker.submit(job, supersedes="k")
        broker.clock.advance(1)
        if job == "a":
            hold(broker, "a")
    assert [state(broker, job) for job in "abc"] == ["leased", "cancelled", "ready"]
    assert read(broker.store, "b").why == "superseded by c"


def test_a_superseded_job_that_fails_is_not_tried_again_beside_the_newer_one(broker: InProcess) -> None:
    broker.submit("a", supersedes="k")
    lease = hold(broker, "a")
    broker.clock.advance(1)
    broker.submit("b", supersedes="k")
    assert broker.ask(broker.caller.make("fail", **lease, error="broke"))[0]["body"]["state"] == "cancelled"
    assert [state(broker, job) for job in "ab"] == ["cancelled", "ready"]
    assert read(broker.store, "a").why == "superseded by b"
    assert [run.outcome for run in runs_of(broker.store, "a")] == ["failed"]
    broker.ask(broker.caller.make("redrive", job_id="a"))
    assert state(broker, "a") == "ready", "an operator may want both"


def test_a_superseded_job_that_completes_has_succeeded(broker: InProcess) -> None:
    broker.submit("a", supersedes="k")
    lease = hold(broker, "a")
    broker.clock.advance(1)
    broker.submit("b", supersedes="k")
    broker.ask(broker.caller.make("complete", **lease))
    assert [state(broker, job) for job in "ab"] == ["succeeded", "ready"]


def test_a_run_past_its_own_deadline_fails_by_the_sweep_and_is_tried_again(broker: InProcess) -> None:
    broker.submit("a", run_timeout_ms=30_000)
    lease = hold(broker, "a")
    broker.clock.advance(30_000)
    broker.sweep()
    assert state(broker, "a") == "leased"
    broker.clock.advance(1)
    broker.sweep()
    assert (state(broker, "a"), read(broker.store, "a").counters.failures) == ("scheduled", 1)
    assert [run.outcome for run in runs_of(broker.store, "a")] == ["timed_out"]
    late = broker.ask(broker.caller.make("complete", **lease))[0]
    assert (late["answer"], late["reason"]) == ("lease_lost", "timed_out")


def test_a_renewal_past_the_deadline_of_its_run_is_told_that_it_lost(broker: InProcess) -> None:
    broker.submit("a", run_timeout_ms=30_000, max_failures=1)
    lease = hold(broker, "a")
    for _ in range(3):
        broker.clock.advance(10_000)
        assert broker.ask(broker.caller.make("renew", **lease))[0]["answer"] == "renewed"
    broker.clock.advance(1)
    lost = broker.ask(broker.caller.make("renew", **lease))[0]
    assert (lost["answer"], lost["reason"]) == ("lease_lost", "timed_out")
    assert state(broker, "a") == "failed"


def renewed_for(broker: InProcess, lease: dict[str, Any], times: int) -> None:
    for _ in range(times):
        broker.clock.advance(TTL_MS // 3)
        broker.ask(broker.caller.make("renew", **lease))
        broker.sweep()


def test_a_run_that_renews_without_progress_is_flagged_until_it_makes_some(broker: InProcess) -> None:
    broker.submit("a", stuck_after_ms=TTL_MS)
    lease = hold(broker, "a")
    began = broker.clock.now_ms()
    renewed_for(broker, lease, 3)
    assert read(broker.store, "a").lease is not None
    renewed_for(broker, lease, 1)
    flagged = read(broker.store, "a").lease
    assert flagged is not None
    assert flagged.stuck_ms == began
    broker.ask(broker.caller.make("progress", **lease, progress=1))
    again = read(broker.store, "a").lease
    assert again is not None
    assert again.stuck_ms is None
    renewed_for(broker, lease, 4)
    assert broker.ask(broker.caller.make("complete", **lease))[0]["answer"] == "ok"


def test_a_stuck_run_is_revoked_where_the_job_says_so_and_counts_as_a_failure(broker: InProcess) -> None:
    broker.submit("a", stuck_after_ms=TTL_MS, on_stuck="revoke")
    lease = hold(broker, "a")
    renewed_for(broker, lease, 4)
    assert (state(broker, "a"), read(broker.store, "a").counters.failures) == ("scheduled", 1)
    [run] = runs_of(broker.store, "a")
    assert (run.outcome, "no progress" in (run.error or "")) == ("revoked", True)
    lost = broker.ask(broker.caller.make("renew", **lease))[0]
    assert (lost["answer"], lost["reason"]) == ("lease_lost", "revoked")
