"""Factories: starts that replace one another, drains, offers that were registered, leases handed over."""

from typing import Any
from uuid import uuid4

import pytest

from broker import claim_next
from datastore import Expected, Ok
from datastore.interface import Patch
from tests.in_process import InProcess
from tests.starts import ask, hold, start, told

DAY_MS = 86_400_000


@pytest.fixture
def broker(anywhere: InProcess) -> InProcess:
    """On a store of each kind."""
    return anywhere


# Starts.


def test_a_new_start_ends_the_leases_of_the_one_before_at_once(broker: InProcess) -> None:
    broker.submit("a", "b")
    old, new = start(broker, "s1"), start(broker, "s2")
    ask(broker, old, "register_factory")
    lease = hold(broker, old, job_id="a")
    elsewhere = hold(broker, start(broker, "s1", "mac-2"), job_id="b")
    reply = ask(broker, new, "register_factory")
    assert (told(reply), reply["body"]["ended"]) == (("ok", None), ["a"])
    job = broker.ask(broker.caller.make("get_job", job_id="a"))[0]["body"]["job"]
    assert (job["state"], job["epoch"], job["counters"]["expiries"]) == ("ready", 1, 1)
    [run] = broker.ask(broker.caller.make("list_runs", job_id="a"))[0]["body"]["runs"]
    assert (run["outcome"], run["ended_ms"]) == ("expired", broker.clock.now_ms())
    for op in ("renew", "complete", "release"):
        assert told(ask(broker, old, op, **lease)) == ("lease_lost", "reclaimed")
    assert hold(broker, new)["epoch"] == 2
    assert ask(broker, start(broker, "s1", "mac-2"), "renew", **elsewhere)["answer"] == "renewed"


def test_of_hundreds_of_leases_a_new_start_ends_some_itself_and_the_sweep_the_rest(broker: InProcess) -> None:
    old, new = start(broker, "s1"), start(broker, "s2")
    for _ in range(5):
        broker.submit(*(f"job-{uuid4().hex}" for _ in range(64)))
        assert len(ask(broker, old, "claim", count=64)["body"]["grants"]) == 64
    ended = ask(broker, new, "register_factory")["body"]["ended"]
    assert len(ended) == 256, "whoever else renews waits for all that one request ends"
    assert broker.sweep().reaped == 320 - 256
    assert ask(broker, old, "get_factory", factory="mac-1")["body"]["leases"] == []


def test_the_same_start_may_register_again_and_keeps_its_leases(broker: InProcess) -> None:
    broker.submit("a")
    caller = start(broker, "s1")
    ask(broker, caller, "register_factory", capacity=1)
    lease = hold(broker, caller)
    broker.clock.advance(1_000)
    reply = ask(broker, caller, "register_factory", capacity=3, version="2")
    assert (reply["body"]["capacity"], reply["body"]["version"], reply["body"]["ended"]) == (3, "2", [])
    assert ask(broker, caller, "renew", **lease)["answer"] == "renewed"


def test_a_lease_of_a_start_that_never_registered_ends_with_the_next_start_too(broker: InProcess) -> None:
    broker.submit("a")
    hold(broker, start(broker, "unregistered"))
    assert ask(broker, start(broker, "s1"), "register_factory")["body"]["ended"] == ["a"]


def test_a_start_that_was_replaced_gets_no_work_and_can_not_register_again(broker: InProcess) -> None:
    broker.submit("a")
    old, new = start(broker, "s1"), start(broker, "s2")
    for caller in (old, new):
        ask(broker, caller, "register_factory")
    for body in ({}, {"job_id": "a"}):
        reply = ask(broker, old, "claim", **body)
        assert (told(reply), reply["retry"]) == (("not_claimable", "restarted"), "final")
    assert told(ask(broker, old, "register_factory")) == ("conflict", "restarted")
    assert hold(broker, new)["job_id"] == "a", "the refused claim took it out of the index"


def _fence(grant: Any) -> dict[str, Any]:
    return {name: grant["body"][name] for name in ("job_id", "epoch", "token")}


def test_a_registration_that_a_slow_worker_settles_late_does_not_end_the_start_that_came_after(
    broker: InProcess,
) -> None:
    broker.submit("a")
    old, new = start(broker, "s1"), start(broker, "s2")
    asked_ms = broker.clock.now_ms()
    broker.clock.advance(3_000)
    ask(broker, new, "register_factory")
    lease = hold(broker, new, job_id="a")
    broker.clock.advance(asked_ms - broker.clock.now_ms())  # the worker that took the old one's request stood still
    assert told(ask(broker, old, "register_factory")) == ("conflict", "restarted")
    broker.clock.advance(4_000)
    assert told(ask(broker, new, "renew", **lease)) == ("renewed", None)
    assert told(ask(broker, new, "register_factory")) == ("ok", None)


def test_a_registration_that_is_taken_over_from_a_dead_worker_does_not_end_the_start_that_came_after(
    broker: InProcess,
) -> None:
    broker.submit("a")
    broker.submit("b")
    old, new, nameless = start(broker, "s1"), start(broker, "s2"), start(broker, "s3")
    asked_ms = broker.clock.now_ms()
    broker.clock.advance(1_000)
    ask(broker, new, "register_factory", asked_ms=broker.clock.now_ms())
    held = [(new, hold(broker, new, job_id="a"))]
    broker.clock.advance(3_000)  # the worker that had the old one's request is dead, and another has taken it over
    assert told(ask(broker, old, "register_factory", asked_ms=asked_ms)) == ("conflict", "restarted")
    held.append((nameless, hold(broker, nameless, job_id="b")))
    assert told(ask(broker, new, "register_factory", asked_ms=asked_ms + 1_000)) == ("ok", None)
    for holder, lease in held:
        assert told(ask(broker, holder, "renew", **lease)) == ("renewed", None)


def test_a_start_that_asked_before_a_lease_was_granted_does_not_end_it_however_late_it_is_settled(
    broker: InProcess,
) -> None:
    broker.submit("a")
    old, nameless = start(broker, "s1"), start(broker, "s2")
    asked_ms = broker.clock.now_ms()
    broker.clock.advance(1_000)
    lease = hold(broker, nameless, job_id="a")
    broker.clock.advance(3_000)
    assert told(ask(broker, old, "register_factory", asked_ms=asked_ms)) == ("ok", None)
    assert told(ask(broker, nameless, "renew", **lease)) == ("renewed", None)


def test_a_start_can_not_ask_in_the_future(broker: InProcess) -> None:
    old, new = start(broker, "s1"), start(broker, "s2")
    ask(broker, old, "register_factory", asked_ms=broker.clock.now_ms() + DAY_MS)
    broker.clock.advance(1_000)
    assert told(ask(broker, new, "register_factory", asked_ms=broker.clock.now_ms())) == ("ok", None)


def test_a_factory_can_register_though_it_did_so_before_the_clock_was_set_back(broker: InProcess) -> None:
    old, new = start(broker, "s1"), start(broker, "s2")
    ask(broker, old, "register_factory")
    broker.clock.advance(-DAY_MS)
    assert told(ask(broker, new, "register_factory")) == ("ok", None)
    assert told(ask(broker, old, "register_factory")) == ("conflict", "restarted"), "it is known by name"


def test_the_sweep_ends_what_a_crash_in_the_middle_of_a_registration_left(broker: InProcess) -> None:
    broker.submit("a")
    old = start(broker, "s1")
    ask(broker, old, "register_factory")
    lease = hold(broker, old)
    # The worker wrote the new start, and died before it ended what the old one holds.
    found = broker.store.read("factory:mac-1", "factory:mac-1")
    assert isinstance(found, Ok)
    changed: Patch = {"incarnation": "s2", "since_ms": broker.clock.now_ms(), "replaced": ["s1"]}
    broker.store.update_if_match("factory:mac-1", "factory:mac-1", Expected(etag=found.document.etag), changed)
    assert broker.sweep().reaped == 1
    assert told(ask(broker, old, "complete", **lease)) == ("lease_lost", "reclaimed")
    assert broker.sweep().reaped == 0


# Drains.


def test_a_drained_factory_gets_no_new_work_and_is_told_why_and_until_when(broker: InProcess) -> None:
    broker.submit(*(f"job-{number}" for number in range(32)))
    caller = start(broker, "s1")
    until_ms = broker.clock.now_ms() + DAY_MS
    broker.ask(broker.caller.make("drain_factory", factory="mac-1", reason="disk", until_ms=until_ms))
    claims = [caller.make("claim") for _ in range(32)] + [caller.make("claim", job_id="job-3", wait_ms=0)]
    caller.send(*claims)
    broker.serve()
    for reply in caller.replies(*claims):
        assert (reply["answer"], reply["retry"], reply["retry_after_ms"] > 0) == ("draining", "later", True)
        assert (reply["body"]["why"], reply["body"]["until_ms"]) == ("disk", until_ms)
    other = start(broker, "s1", "mac-2")
    assert len({hold(broker, other)["job_id"] for _ in range(32)}) == 32, "a job left the index with a refused claim"


def test_a_drained_factory_keeps_what_it_holds_and_hears_of_the_drain(broker: InProcess) -> None:
    broker.submit("a")
    caller = start(broker, "s1")
    lease = hold(broker, caller)
    assert ask(broker, caller, "renew", **lease)["body"]["directives"] == []
    broker.ask(broker.caller.make("drain_factory", factory="mac-1"))
    assert ask(broker, caller, "renew", **lease)["body"]["directives"] == ["drain"]
    broker.ask(broker.caller.make("cancel", job_id="a"))
    assert ask(broker, caller, "renew", **lease)["body"]["directives"] == ["cancel", "drain"]
    assert ask(broker, caller, "release", **lease)["answer"] == "ok"


def test_a_claim_granted_before_the_drain_is_replayed_during_it(broker: InProcess) -> None:
    broker.submit("a")
    caller = start(broker, "s1")
    caller.send(claim := caller.make("claim"))
    broker.serve()
    first = caller.replies(claim)[0]
    broker.ask(broker.caller.make("drain_factory", factory="mac-1"))
    caller.send(claim.model_copy(update={"attempt": 2}))
    broker.serve()
    again = caller.replies(claim)[0]
    assert (again["answer"], _fence(again)) == ("replayed", _fence(first))


def test_a_waiting_claim_is_told_of_the_drain_at_once_and_hides_no_job_from_others(broker: InProcess) -> None:
    drained, other = start(broker, "s1"), start(broker, "s1", "mac-2")
    first, second = drained.make("claim", wait_ms=60_000), other.make("claim", wait_ms=60_000)
    drained.send(first)
    broker.serve()
    other.send(second)
    broker.serve()
    broker.ask(broker.caller.make("drain_factory", factory="mac-1"))
    assert drained.replies(first, deadline_ms=1_000)[0]["answer"] == "draining"
    broker.submit("a")
    assert other.replies(second, deadline_ms=1_000)[0]["answer"] == "granted"
    assert not broker.redis.exists(claim_next.WAITING)


@pytest.mark.parametrize("ended_by", ["resume", "time"])
def test_a_drain_ends_when_it_is_resumed_or_by_itself(broker: InProcess, ended_by: str) -> None:
    broker.submit("a")
    caller = start(broker, "s1")
    broker.ask(broker.caller.make("drain_factory", factory="mac-1", for_ms=10_000))
    broker.clock.advance(9_999)
    assert ask(broker, caller, "claim")["answer"] == "draining"
    if ended_by == "resume":
        broker.ask(broker.caller.make("resume_factory", factory="mac-1"))
    else:
        broker.clock.advance(1)
    assert hold(broker, caller)["job_id"] == "a"


def test_a_start_that_stops_drains_itself_alone_and_never_shortens_an_operators_drain(broker: InProcess) -> None:
    broker.submit("a")
    old, new = start(broker, "s1"), start(broker, "s2")
    ask(broker, old, "register_factory")
    ask(broker, old, "drain_factory", factory="mac-1", incarnation="s1", reason="stopped")
    assert ask(broker, old, "claim")["answer"] == "draining"
    assert ask(broker, new, "register_factory")["body"]["drain"] is None
    broker.ask(broker.caller.make("drain_factory", factory="mac-1", reason="operator"))
    reply = ask(broker, new, "drain_factory", factory="mac-1", incarnation="s2", reason="stopped")
    assert reply["body"]["drain"]["reason"] == "operator"
    newest = start(broker, "s3")
    assert ask(broker, newest, "register_factory")["body"]["drain"]["reason"] == "operator"
    assert ask(broker, newest, "claim")["answer"] == "draining"


# What is registered and shown.


def test_a_claim_that_names_no_offers_makes_those_its_factory_registered(broker: InProcess) -> None:
    broker.submit("gpu", requires=["gpu"])
    broker.submit("linux", requires=["os=linux"])
    caller = start(broker, "s1")
    ask(broker, caller, "register_factory", offers=["gpu", "mem_gb=64"])
    assert ask(broker, caller, "claim", offers=["os=mac"])["answer"] == "none_available"
    assert hold(broker, caller)["job_id"] == "gpu"
    assert told(ask(broker, caller, "claim", job_id="linux")) == ("not_claimable", "requirements")


def test_a_claim_by_name_makes_the_offers_its_factory_registered_too(broker: InProcess) -> None:
    broker.submit("a", requires=["gpu"])
    caller = start(broker, "s1")
    assert told(ask(broker, caller, "claim", job_id="a")) == ("not_claimable", "requirements")
    ask(broker, caller, "register_factory", offers=["gpu"])
    assert told(ask(broker, caller, "claim", job_id="a", offers=["os=mac"])) == ("not_claimable", "requirements")
    assert hold(broker, caller, job_id="a")["epoch"] == 1


def test_a_waiting_claim_waits_with_the_offers_that_were_registered(broker: InProcess) -> None:
    caller = start(broker, "s1")
    ask(broker, caller, "register_factory", offers=["gpu"])
    caller.send(claim := caller.make("claim", wait_ms=60_000))
    broker.serve()
    broker.submit("a", requires=["gpu"])
    assert caller.replies(claim, deadline_ms=1_000)[0]["answer"] == "granted"


@pytest.mark.parametrize(("before", "after", "granted"), [(["a", "b"], ["a"], False), (["a"], ["a", "b"], True)])
def test_a_waiting_claim_offers_what_its_factory_registers_meanwhile(
    broker: InProcess, before: list[str], after: list[str], granted: bool
) -> None:
    caller = start(broker, "s1")
    ask(broker, caller, "register_factory", offers=before)
    caller.send(claim := caller.make("claim", wait_ms=60_000))
    broker.serve()
    ask(broker, caller, "register_factory", offers=after)
    broker.submit("job", requires=["b"])
    assert caller.has_reply(claim) is granted


def test_a_waiting_claim_that_names_offers_keeps_to_them(broker: InProcess) -> None:
    caller = start(broker, "s1")
    caller.send(claim := caller.make("claim", wait_ms=60_000, offers=["a"]))
    broker.serve()
    ask(broker, caller, "register_factory", offers=["b"])
    broker.submit("b", requires=["b"])
    assert not caller.has_reply(claim)
    broker.submit("a", requires=["a"])
    assert caller.replies(claim, deadline_ms=1_000)[0]["body"]["job_id"] == "a"


def test_factories_are_shown_with_their_leases_and_when_they_were_last_heard_of_but_no_token(broker: InProcess) -> None:
    broker.submit("a")
    caller = start(broker, "s1")
    ask(broker, caller, "register_factory", offers=["gpu"], capacity=4, version="1.2")
    broker.clock.advance(5_000)
    lease = hold(broker, caller)
    heard_ms = broker.clock.now_ms()
    broker.clock.advance(7_000)
    [row] = broker.ask(broker.caller.make("list_factories"))[0]["body"]["factories"]
    assert (row["factory"], row["leases"], row["last_seen_ms"]) == ("mac-1", 1, heard_ms)
    shown = broker.ask(broker.caller.make("get_factory", factory="mac-1"))[0]["body"]
    assert (shown["capacity"], shown["version"], shown["offers"]) == (4, "1.2", ["gpu"])
    assert [(each["job_id"], each["epoch"], each["remaining_ms"]) for each in shown["leases"]] == [("a", 1, 53_000)]
    assert lease["token"] not in str(shown)
    broker.redis.flushall()
    shown = broker.ask(broker.caller.make("get_factory", factory="mac-1"))[0]["body"]
    assert (shown["last_seen_ms"], shown["capacity"]) == (None, 4), "Redis only knows when"


def test_a_factory_is_heard_of_by_whatever_its_holders_send(broker: InProcess) -> None:
    broker.submit("a")
    caller = start(broker, "s1")
    lease = hold(broker, caller)
    fields = {name: lease[name] for name in ("job_id", "epoch", "token")}
    sent: tuple[tuple[str, dict[str, Any]], ...] = (
        ("renew", fields),
        ("renew_many", {"leases": [fields]}),
        ("progress", {**fields, "progress": 1}),
        ("complete", fields),
    )
    for op, body in sent:
        broker.clock.advance(5_000)
        ask(broker, caller, op, **body)
        shown = broker.ask(broker.caller.make("get_factory", factory="mac-1"))[0]["body"]
        assert shown["last_seen_ms"] == broker.clock.now_ms(), op


def test_a_factory_with_leases_is_removed_by_force_only_and_its_starts_get_no_more_work(broker: InProcess) -> None:
    broker.submit("a", "b")
    caller = start(broker, "s1")
    ask(broker, caller, "register_factory")
    lease = hold(broker, caller)
    refused = broker.ask(broker.caller.make("remove_factory", factory="mac-1"))[0]
    assert (told(refused), [each["job_id"] for each in refused["body"]["leases"]]) == (("conflict", "held"), ["a"])
    assert ask(broker, caller, "renew", **lease)["answer"] == "renewed"
    done = broker.ask(broker.caller.make("remove_factory", factory="mac-1", force=True))[0]
    assert (told(done), done["body"]["ended"]) == (("ok", None), ["a"])
    assert broker.ask(broker.caller.make("list_factories"))[0]["body"]["factories"] == []
    for op in ("resume_factory", "get_factory"):
        assert broker.ask(broker.caller.make(op, factory="mac-1"))[0]["answer"] == "not_found", op
    broker.clock.advance(1_000)
    assert told(ask(broker, caller, "claim")) == ("not_claimable", "restarted")
    heard = broker.ask(broker.caller.make("get_factory", factory="mac-1"))[0]["body"]
    assert (heard["incarnation"], heard["last_seen_ms"]) == (None, broker.clock.now_ms()), "it asks still"
    again = start(broker, "s2")
    ask(broker, again, "register_factory")
    assert hold(broker, again)["epoch"] >= 1
