"""Each operation on a store: what it reads beside the job, what it hands to its rule, and what is stored afterwards."""

from typing import Any

import pytest

from broker import coordinator, parents
from broker.answers import Answer, Reason, Word
from broker.claiming import now_free
from broker.controls import FLEET_ID, Controls
from broker.coordinator import Context
from broker.documents import State
from broker.entropy import SeededEntropy
from broker.fence import Fence
from broker.transitions import Claimant, Rules
from datastore import Unavailable
from datastore.interface import Page, ReadResult
from datastore.memory import MemoryDatastore
from tests.twins.forwarding import Forwarding
from tests.unit.desk import NOW, TTL, Desk


class Unreadable(Forwarding):
    """Fails to read one document."""

    def __init__(self, inner: MemoryDatastore, unreadable: str) -> None:
        super().__init__(inner)
        self._unreadable = unreadable

    def read(self, id: str, partition_key: str) -> ReadResult:
        if id == self._unreadable:
            raise Unavailable("scripted")
        return super().read(id, partition_key)


@pytest.fixture
def desk() -> Desk:
    return Desk()


def test_a_renewal_hands_on_ttl_pause_and_drain(desk: Desk) -> None:
    desk.submit(queue="builds")
    fence = desk.claim()
    desk.ask("pause_queue", queue="builds")
    desk.ask("drain_factory", factory="f")
    answer = coordinator.renew(desk.with_controls(), "job", fence, now_ms=NOW + 5, ttl_ms=9_000).answer
    assert (answer.word, answer.body["ttl_ms"], answer.body["directives"]) == ("renewed", 9_000, ["pause", "drain"])
    plain = coordinator.renew(desk.context, "job", fence, now_ms=NOW + 6).answer
    assert plain.body["directives"] == ["drain"], "outside a batch nobody reads the queue's control"


@pytest.mark.parametrize("unreadable", [FLEET_ID, "factory:f"])
def test_a_renewal_goes_on_where_what_it_would_be_told_cannot_be_read(desk: Desk, unreadable: str) -> None:
    desk.submit()
    fence = desk.claim()
    store = Unreadable(desk.store, unreadable)
    context = Context(store, Rules(), SeededEntropy(9), lambda _ms: None, controls=Controls(store))
    answer = coordinator.renew(context, "job", fence, now_ms=NOW).answer
    assert (answer.word, answer.body["directives"]) == ("renewed", [])


def test_a_renewal_of_a_run_that_took_too_long_ends_it(desk: Desk) -> None:
    desk.submit(run_timeout_ms=1_000)
    fence = desk.claim()
    settled = coordinator.renew(desk.context, "job", fence, now_ms=NOW + 1_001)
    assert settled.answer == Answer(Word.LEASE_LOST, Reason.TIMED_OUT, {"job_id": "job", "epoch": 1})
    assert desk.job().state is State.SCHEDULED
    assert NOW + 1_001 <= (desk.job().not_before_ms or 0) < NOW + 1_001 + Rules().backoff_base_ms
    assert desk.run().outcome == "timed_out"
    assert [change.after.state for change in settled.changes] == ["scheduled"]


def test_a_stranger_learns_nothing_of_a_run_that_took_too_long(desk: Desk) -> None:
    desk.submit(run_timeout_ms=1_000)
    desk.claim()
    stranger = Fence("g", 1, "b" * 32, "x")
    assert coordinator.renew(desk.context, "job", stranger, now_ms=NOW + 1_001).answer.reason == "superseded"
    assert desk.job().state is State.LEASED


def test_fail_hands_on_error_result_and_whether_to_try_again(desk: Desk) -> None:
    desk.submit()
    fence = desk.claim()
    answer = coordinator.fail(desk.context, "job", fence, now_ms=NOW, error="broke", result={"n": 1}).answer
    assert (answer.word, answer.body["state"]) == ("ok", "scheduled")
    assert (desk.run().error, desk.run().result) == ("broke", {"n": 1})
    again = desk.claim(now_ms=NOW + Rules().backoff_base_ms)
    coordinator.fail(desk.context, "job", again, now_ms=NOW, retryable=False)
    assert (desk.job().state, desk.run(2).error) == ("failed", "")


@pytest.mark.parametrize(("unread_by", "word"), [("x", "ok"), ("y", "conflict")])
def test_a_grant_that_is_taken_back_is_that_of_the_client_which_did_not_read_it(
    desk: Desk, unread_by: str, word: str
) -> None:
    desk.submit()
    fence = desk.claim()
    answer = coordinator.release(desk.context, "job", fence, now_ms=NOW, unread_by=unread_by).answer
    assert (answer.word, desk.job().lease is None) == (word, word == "ok")


def test_release_revoke_and_cancel_hand_on_the_reason(desk: Desk) -> None:
    desk.submit()
    coordinator.release(desk.context, "job", desk.claim(), now_ms=NOW, reason="later")
    assert desk.run(1).error == "later"
    desk.claim()
    coordinator.revoke(desk.context, "job", request_id="v", by="f", now_ms=NOW, reason="mine")
    assert (desk.run(2).error, desk.run(2).outcome, desk.job().hold) == ("mine", "revoked", None)
    desk.claim()
    coordinator.revoke(desk.context, "job", request_id="w", by="f", now_ms=NOW, and_hold=True)
    assert desk.job().hold is not None
    coordinator.cancel(desk.context, "job", request_id="c", by="f", now_ms=NOW, reason="never mind")
    assert (desk.job().state, desk.job().why) == ("cancelled", "never mind")


def test_hold_and_lift_are_each_done_once(desk: Desk) -> None:
    desk.submit()
    for word in ("ok", "replayed"):
        assert (
            coordinator.hold(desk.context, "job", request_id="h", by="f", now_ms=NOW, reason="wait").answer.word == word
        )
    hold = desk.job().hold
    assert hold is not None
    assert (hold.reason, hold.since_ms) == ("wait", NOW)
    for word in ("ok", "replayed"):
        assert coordinator.lift(desk.context, "job", request_id="l", by="f", now_ms=NOW).answer.word == word
    assert desk.job().hold is None


def test_what_an_operator_asked_is_remembered_as_theirs(desk: Desk) -> None:
    desk.submit()
    desk.claim()
    asked = ("hold", "lift", "revoke", "cancel", "redrive")
    for op in asked:
        assert desk.ask(op, by="operator", job_id="job").answer.word is Word.OK
    assert [(each.op, each.factory_id) for each in desk.job().recent_requests] == [(op, "operator") for op in asked]


def test_redrive_makes_a_job_ready_once(desk: Desk) -> None:
    desk.submit()
    coordinator.cancel(desk.context, "job", request_id="c", by="f", now_ms=NOW)
    for word in ("ok", "replayed"):
        assert coordinator.redrive(desk.context, "job", request_id="d", by="f", now_ms=NOW + 1).answer.word == word
    assert (desk.job().state, desk.job().ready_ms) == ("ready", NOW + 1)


def test_a_unique_job_is_redriven_only_while_its_key_is_free(desk: Desk) -> None:
    desk.submit("one", unique={"key": "k"})
    coordinator.cancel(desk.context, "one", request_id="c", by="f", now_ms=NOW)
    desk.submit("two", unique={"key": "k"})
    refused = coordinator.redrive(desk.context, "one", request_id="d", by="f", now_ms=NOW).answer
    body = {"job_id": "two", "state": "ready", "key": "k"}
    assert refused == Answer(Word.CONFLICT, Reason.NOT_UNIQUE, body)
    assert desk.job("one").state is State.CANCELLED
    coordinator.cancel(desk.context, "two", request_id="c", by="f", now_ms=NOW)
    assert coordinator.redrive(desk.context, "one", request_id="e", by="f", now_ms=NOW + 7).answer.word == "ok"
    [key] = desk.store.find({"kind": "key"}).documents
    assert (key.body["job_id"], key.body["since_ms"]) == ("one", NOW + 7)
    other = desk.ask("submit", job_id="three", unique={"key": "k"}).answer
    assert (other.word, other.body["job_id"]) == ("conflict", "one"), "it has its key again"


@pytest.mark.parametrize("later", [(), ("two",)])
def test_a_unique_job_that_can_t_be_redriven_is_refused_as_that_and_leaves_its_key_alone(
    desk: Desk, later: tuple[str, ...]
) -> None:
    desk.submit("one", unique={"key": "k"})
    coordinator.complete(desk.context, "one", desk.claim("one"), now_ms=NOW)
    for job_id in later:
        desk.submit(job_id, unique={"key": "k"})
    before = desk.store.find({"kind": "key"}).documents
    refused = coordinator.redrive(desk.context, "one", request_id="d", by="f", now_ms=NOW).answer
    assert (refused.reason, refused.body["state"]) == (Reason.NOT_REDRIVABLE, "succeeded")
    assert desk.store.find({"kind": "key"}).documents == before


def test_a_hand_over_to_a_factory_that_drains_leaves_the_lease(desk: Desk) -> None:
    desk.submit()
    fence = desk.claim()
    desk.ask("drain_factory", factory="g", reason="night")
    answer = coordinator.hand_over(desk.context, "job", fence, now_ms=NOW, to="g").answer
    assert (answer.word, answer.reason) == ("not_claimable", "draining")
    facts = {"job_id": "job", "factory": "g", "why": "night", "since_ms": NOW, "until_ms": None}
    assert answer.body == facts
    assert desk.job().state is State.LEASED
    desk.ask("drain_factory", factory="g", for_ms=1_000)
    answer = coordinator.hand_over(desk.context, "job", fence, now_ms=NOW + 999, to="g").answer
    assert (answer.reason, answer.body["until_ms"]) == ("draining", NOW + 1_000)
    assert coordinator.hand_over(desk.context, "job", fence, now_ms=NOW + 1_000, to="g").answer.word == "ok"


def test_a_hand_over_reserves_the_job_and_a_cancel_goes_before_a_drain(desk: Desk) -> None:
    desk.submit()
    fence = desk.claim()
    assert coordinator.hand_over(desk.context, "job", fence, now_ms=NOW, to="g", reason="yours").answer.word == "ok"
    reserved = desk.job().reserved
    assert reserved is not None
    assert (reserved.factory_id, reserved.by, reserved.until_ms) == ("g", "f", NOW + TTL)
    assert (desk.run().error, desk.run().handed_to) == ("yours", "g")
    desk.ask("drain_factory", factory="h")
    mine = desk.claim(by="g", now_ms=NOW + 1)
    coordinator.cancel(desk.context, "job", request_id="c", by="f", now_ms=NOW)
    assert coordinator.hand_over(desk.context, "job", mine, now_ms=NOW, to="h").answer.body["state"] == "cancelled"


def test_a_hand_over_heeds_the_drain_of_the_start_that_registered(desk: Desk) -> None:
    desk.ask("register_factory", by="g", start="start-2")
    desk.ask("drain_factory", factory="g", incarnation="start-2")
    desk.submit()
    answer = coordinator.hand_over(desk.context, "job", desk.claim(), now_ms=NOW, to="g").answer
    assert answer.reason == "draining"


@pytest.mark.parametrize(
    ("body", "now_ms", "state"),
    [
        pytest.param({"run_timeout_ms": 5}, NOW + 6, "scheduled", id="a run is over"),
        pytest.param({"timeout_ms": 5}, NOW + 6, "failed", id="a deadline is over"),
        pytest.param({}, NOW + TTL + Rules().skew_ms + 1, "ready", id="a lease is dead"),
        pytest.param({}, NOW + TTL + Rules().skew_ms, "leased", id="a lease may be believed in"),
    ],
)
def test_a_reap_does_what_time_demands(desk: Desk, body: dict[str, Any], now_ms: int, state: str) -> None:
    desk.submit(**body)
    desk.claim()
    coordinator.reap(desk.context, desk.job(), now_ms=now_ms)
    assert desk.job().state == state


def test_a_reap_enforces_a_cancel_before_a_deadline_and_starts_what_is_due(desk: Desk) -> None:
    desk.submit(timeout_ms=5)
    desk.claim()
    coordinator.cancel(desk.context, "job", request_id="c", by="f", now_ms=NOW)
    coordinator.reap(desk.context, desk.job(), now_ms=NOW + Rules().cancel_grace_ms + 1)
    assert desk.job().state is State.CANCELLED
    desk.submit("later", not_before_ms=NOW + 10)
    coordinator.reap(desk.context, desk.job("later"), now_ms=NOW + 9)
    assert desk.job("later").state is State.SCHEDULED
    coordinator.reap(desk.context, desk.job("later"), now_ms=NOW + 10)
    assert desk.job("later").state is State.READY


def test_a_blocked_job_is_freed_by_its_parents_as_they_stand(desk: Desk) -> None:
    desk.submit("parent")
    desk.submit("child", depends_on=["parent", "missing"])
    assert parents.all_states(desk.context, desk.job("child")) == {"parent": State.READY}
    desk.submit("missing")
    for parent in ("parent", "missing"):
        assert coordinator.unblock(desk.context, "child", now_ms=NOW).changes == ()
        coordinator.complete(desk.context, parent, desk.claim(parent), now_ms=NOW, result=parent)
        assert desk.run(1, parent).result == parent
    settled = coordinator.unblock(desk.context, "child", now_ms=NOW + 3, job=desk.job("child"))
    assert [change.after.state for change in settled.changes] == ["ready"]
    assert desk.job("child").ready_ms == NOW + 3
    assert coordinator.unblock(desk.context, "child", now_ms=NOW).changes == (), "it is free already"


def test_a_claim_under_a_lock_names_its_holder_and_waits_for_its_key(desk: Desk) -> None:
    desk.submit("one", locks=["repo:web"])
    desk.submit("two", locks=["repo:web"])
    fence = desk.claim("one")
    who = Claimant("g", "start-1", "w1", "b" * 32)
    refused = coordinator.try_claim_job(desk.context, "two", who, now_ms=NOW)
    assert (refused.answer.word, refused.answer.reason) == ("not_claimable", "lock_busy")
    assert refused.answer.body["job_id"] == "two"
    [wait] = refused.waits
    assert wait.job is not None
    assert wait.job.id == "two"
    assert now_free(desk.context, [wait], now_ms=NOW) == []
    coordinator.release(desk.context, "one", fence, now_ms=NOW)
    assert now_free(desk.context, [wait], now_ms=NOW) == [wait]
    assert coordinator.try_claim_job(desk.context, "two", who, now_ms=NOW).answer.word == "granted"
    again = coordinator.try_claim_job(desk.context, "two", who, now_ms=NOW).answer
    assert (again.word, again.body["token"], again.body["payload"]) == ("replayed", "b" * 32, None)


def test_a_claim_above_a_limit_names_it_and_waits_for_its_units(desk: Desk) -> None:
    desk.ask("set_limit", limit="queue:builds", capacity=1)
    desk.submit("one", queue="builds")
    desk.submit("two", queue="builds")
    fence = desk.claim("one")
    refused = desk.ask("claim", job_id="two", by="g")
    assert (refused.answer.word, refused.answer.reason) == ("not_claimable", "quota")
    [wait] = refused.waits
    assert now_free(desk.context, [wait], now_ms=NOW) == []
    coordinator.complete(desk.context, "one", fence, now_ms=NOW)
    assert now_free(desk.context, [wait], now_ms=NOW) == [wait]
    assert desk.claim("two", by="g").epoch == 1
    assert now_free(desk.context, [wait], now_ms=NOW) == []
    desk.ask("remove_limit", limit="queue:builds")
    assert now_free(desk.context, [wait], now_ms=NOW) == [wait], "no limit, no wait"
    assert now_free(desk.context, [], now_ms=NOW) == []


class NoSearch(Forwarding):
    """Every search fails."""

    def find(self, *_args: Any, **_limits: Any) -> Page:
        raise Unavailable("scripted")


def test_a_limit_that_is_set_while_what_runs_cannot_be_counted_is_to_be_set_again_under_the_same_id(
    desk: Desk,
) -> None:
    desk.submit(concurrency=["k"])
    desk.claim()
    sound, desk.context = desk.context, desk.on(NoSearch(desk.store))
    unknown = desk.ask("set_limit", limit="key:k", capacity=1)
    assert (unknown.answer.word, unknown.answer.retry) == ("outcome_unknown", "same_id")
    assert unknown.freed, "it is set: who may come through by it does"
    desk.context = sound
    assert desk.ask("set_limit", limit="key:k", capacity=1).answer.body["used"] == 1


def test_in_one_batch_a_limit_that_was_found_full_is_not_looked_at_again_until_a_unit_is_given_back(
    desk: Desk,
) -> None:
    desk.ask("set_limit", limit="queue:builds", capacity=1)
    for name in ("one", "two"):
        desk.submit(name, queue="builds")
    fence = desk.claim("one")
    batch = desk.with_controls()
    who = Claimant("g", "start-1", "w1", "b" * 32)
    first = coordinator.try_claim_job(batch, "two", who, now_ms=NOW).answer
    coordinator.complete(desk.context, "one", fence, now_ms=NOW)
    assert coordinator.try_claim_job(batch, "two", who, now_ms=NOW).answer == first, "as the batch knows it"
    desk.submit("three", queue="builds")
    other = Fence("f", 1, desk.claim("three").token, "z")
    fresh = desk.with_controls()
    assert coordinator.try_claim_job(fresh, "two", who, now_ms=NOW).answer.reason == "quota"
    coordinator.release(fresh, "three", other, now_ms=NOW)
    assert coordinator.try_claim_job(fresh, "two", who, now_ms=NOW).answer.word == "granted"
