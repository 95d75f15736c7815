"""Leases handed from one factory to another, and what holders are told at once."""

from typing import Any

import pytest

from broker import waking
from broker.batch import CANDIDATES_MAX
from broker.messages import Request
from datastore import Unavailable
from datastore.interface import Expected, Patch, UpdateResult
from tests.caller import Caller
from tests.in_process import InProcess
from tests.starts import ask, hold, start, told
from tests.twins.forwarding import Forwarding


@pytest.fixture
def broker(anywhere: InProcess) -> InProcess:
    """On a store of each kind."""
    return anywhere


def test_a_lease_is_handed_to_one_factory_at_the_next_epoch_with_a_token_of_its_own(broker: InProcess) -> None:
    broker.submit("a", "z")
    giver, heir, other = (start(broker, "s1", name) for name in ("mac-1", "mac-2", "mac-3"))
    lease = hold(broker, giver, job_id="a")
    assert ask(broker, giver, "hand_over", **lease, to="mac-2", reason="moving")["answer"] == "ok"
    reply = ask(broker, other, "claim", job_id="a")
    assert told(reply) == ("not_claimable", "reserved")
    assert reply["body"]["obstacles"][0]["factory"] == "mac-2"
    assert hold(broker, other)["job_id"] == "z", "the one that is kept was in the way of another"
    mine = hold(broker, heir)
    assert (mine["job_id"], mine["epoch"], mine["token"] == lease["token"]) == ("a", 2, False)
    first, second = broker.ask(broker.caller.make("list_runs", job_id="a"))[0]["body"]["runs"]
    assert (first["outcome"], first["handed_to"], first["error"]) == ("released", "mac-2", "moving")
    assert second["factory_id"] == "mac-2"
    assert told(ask(broker, giver, "complete", **lease)) == ("lease_lost", "superseded")


def test_the_heirs_waiting_claim_is_woken_and_nobody_elses(broker: InProcess) -> None:
    giver, heir, other = (start(broker, "s1", name) for name in ("mac-1", "mac-2", "mac-3"))
    broker.submit("a")
    lease = hold(broker, giver)
    waiting = {caller: caller.make("claim", wait_ms=60_000) for caller in (other, heir)}
    for caller, claim in waiting.items():
        caller.send(claim)
        broker.serve()
    ask(broker, giver, "hand_over", **lease, to="mac-2")
    assert heir.replies(waiting[heir], deadline_ms=1_000)[0]["body"]["job_id"] == "a"
    assert not other.has_reply(waiting[other])


def held(broker: InProcess, **requires: str) -> list[dict[str, Any]]:
    """Jobs that require these, held by mac-1."""
    giver = start(broker, "s1")
    for job, need in requires.items():
        broker.submit(job, requires=[need] if need else [])
    return [hold(broker, giver, job_id=job, offers=[need] if need else []) for job, need in requires.items()]


def hand_over(broker: InProcess, fences: list[dict[str, Any]]) -> None:
    """From mac-1 to mac-2, all in one batch."""
    giver = start(broker, "s1")
    given = [giver.make("hand_over", **fence, to="mac-2") for fence in fences]
    giver.send(*given)
    broker.serve()
    assert {reply["answer"] for reply in giver.replies(*given, deadline_ms=1_000)} == {"ok"}


def heirs_claims(broker: InProcess, **offers: int) -> tuple[Caller, list[Request]]:
    """The heir, and its claims that wait so long, each with an offer."""
    heir = start(broker, "s1", "mac-2")
    claims = [heir.make("claim", offers=[offer], wait_ms=wait_ms) for offer, wait_ms in offers.items()]
    heir.send(*claims)
    broker.serve()
    return heir, claims


def test_of_the_heirs_waiting_claims_one_that_fits_is_woken_whichever_ends_first(broker: InProcess) -> None:
    leases = held(broker, a="gpu")
    heir, (unfit, fitting) = heirs_claims(broker, mac=9_000, gpu=60_000)
    hand_over(broker, leases)
    assert heir.replies(fitting, deadline_ms=1_000)[0]["body"]["job_id"] == "a"
    assert not heir.has_reply(unfit)


@pytest.mark.parametrize("wait_ms", [0, 60_000])
def test_a_claim_of_the_heir_that_does_not_fit_takes_the_job_from_none_that_does(
    broker: InProcess, wait_ms: int
) -> None:
    hand_over(broker, held(broker, a="gpu", b="gpu"))
    heir = start(broker, "s1", "mac-2")
    for job in ("a", "b"):
        unfit = heir.make("claim", offers=["mac"], wait_ms=wait_ms)
        heir.send(unfit)
        broker.serve()
        assert heir.has_reply(unfit) is (wait_ms == 0)
        assert hold(broker, heir, offers=["gpu"])["job_id"] == job


def test_what_is_kept_for_a_factory_that_cannot_have_it_costs_its_claims_no_tries(broker: InProcess) -> None:
    hand_over(broker, held(broker, **{f"kept-{number}": "gpu" for number in range(CANDIDATES_MAX + 1)}))
    broker.submit("anybodys")
    assert hold(broker, start(broker, "s1", "mac-2"))["job_id"] == "anybodys"


def test_what_a_claim_of_the_heir_leaves_that_was_woken_for_it_is_had_by_another_that_waits(broker: InProcess) -> None:
    leases = held(broker, z="", a="gpu")
    heir, (either, only_plain) = heirs_claims(broker, gpu=9_000, mac=60_000)
    hand_over(broker, leases)
    both = heir.replies(either, only_plain, deadline_ms=1_000)
    assert [reply["body"].get("job_id") for reply in both] == ["a", "z"]


def test_a_job_handed_over_just_before_its_heirs_claim_is_parked_is_not_missed(broker: InProcess) -> None:
    heir, claim = handed_over_before_the_claim_is_parked(broker)
    assert heir.replies(claim, deadline_ms=1_000)[0]["body"]["job_id"] == "a"


def test_without_the_second_look_the_heir_would_wait_on(broker: InProcess, monkeypatch: pytest.MonkeyPatch) -> None:
    # The twin of the test above.
    monkeypatch.setattr(waking, "recheck", lambda *_: None)
    heir, claim = handed_over_before_the_claim_is_parked(broker)
    assert not heir.has_reply(claim)
    broker.sweep()
    broker.serve()
    assert heir.has_reply(claim), "the job stood where it should, and its heir's claim waited on"


def handed_over_before_the_claim_is_parked(broker: InProcess) -> tuple[Caller, Request]:
    """The heir and its claim, which had found nothing, and whatever that has led to."""
    giver, heir = start(broker, "s1"), start(broker, "s1", "mac-2")
    broker.submit("a")
    lease = hold(broker, giver)
    claim = heir.make("claim", wait_ms=60_000)
    heir.send(claim)
    found_nothing = broker.settle(broker.take("w1").entries, "w1")
    over = giver.make("hand_over", **lease, to="mac-2")
    giver.send(over)
    broker.serve("w2")
    assert told(giver.replies(over, deadline_ms=1_000)[0])[0] == "ok"
    broker.finish(found_nothing, "w1")
    broker.serve()
    return heir, claim


def test_an_heir_that_found_nothing_in_an_empty_redis_is_woken_by_the_sweep(broker: InProcess) -> None:
    giver, heir = start(broker, "s1"), start(broker, "s1", "mac-2")
    broker.submit("a")
    ask(broker, giver, "hand_over", **hold(broker, giver), to="mac-2")
    broker.redis.flushall()
    claim = heir.make("claim", wait_ms=60_000)
    heir.send(claim)
    broker.serve()
    assert not heir.has_reply(claim)
    assert broker.sweep().woken == 1
    broker.serve()
    assert heir.replies(claim, deadline_ms=1_000)[0]["body"]["job_id"] == "a"


def test_what_nobody_came_for_is_anybodys_after_a_while(broker: InProcess) -> None:
    giver, other = start(broker, "s1"), start(broker, "s1", "mac-3")
    broker.submit("a")
    ask(broker, giver, "hand_over", **hold(broker, giver), to="mac-2")
    assert ask(broker, other, "claim")["answer"] == "none_available"
    broker.clock.advance(60_000)
    broker.sweep()
    assert hold(broker, other)["epoch"] == 2


@pytest.fixture
def nobodys(broker: InProcess) -> str:
    """A job that was handed over, for which its heir never came; it needs a lock."""
    giver = start(broker, "s1")
    broker.submit("late", locks=["repo"])
    ask(broker, giver, "hand_over", **hold(broker, giver), to="mac-2")
    broker.clock.advance(60_000)
    broker.sweep()
    return "late"


def test_once_a_reservation_is_over_a_job_that_met_a_busy_lock_is_still_anybodys(
    broker: InProcess, nobodys: str
) -> None:
    holder, other = start(broker, "s1"), start(broker, "s1", "mac-3")
    broker.submit("urgent", locks=["repo"], priority=5)
    lease = hold(broker, holder)
    claim = other.make("claim", wait_ms=60_000)
    other.send(claim)
    broker.serve()
    ask(broker, holder, "complete", **lease)
    assert other.replies(claim, deadline_ms=1_000)[0]["body"]["job_id"] == nobodys


class Full(Forwarding):
    """A store that can't be written to."""

    @property
    def concurrency(self) -> int:
        return 1

    def update_if_match(self, id: str, partition_key: str, expected: Expected, patch: Patch) -> UpdateResult:
        raise Unavailable(f"scripted: the write of {id} in {partition_key} after {expected} was refused: {patch}")


def test_once_a_reservation_is_over_a_job_that_a_claim_gives_back_is_still_anybodys(
    broker: InProcess, nobodys: str
) -> None:
    full = InProcess(Full(broker.store), broker.redis)
    full.clock = broker.clock
    assert told(ask(full, start(broker, "s1"), "claim")) == ("throttled", "store")
    assert hold(broker, start(broker, "s1", "mac-3"))["job_id"] == nobodys


def test_a_lease_is_not_handed_to_a_factory_that_drains_and_stands(broker: InProcess) -> None:
    broker.submit("a")
    caller = start(broker, "s1")
    lease = hold(broker, caller)
    broker.ask(broker.caller.make("drain_factory", factory="mac-2", reason="disk"))
    reply = ask(broker, caller, "hand_over", **lease, to="mac-2")
    assert (told(reply), reply["body"]["why"]) == (("not_claimable", "draining"), "disk")
    assert ask(broker, caller, "renew", **lease)["answer"] == "renewed"


def test_explain_knows_what_is_kept_for_whom_and_what_was_registered(broker: InProcess) -> None:
    broker.submit("a", requires=["gpu"])
    giver, heir = start(broker, "s1"), start(broker, "s1", "mac-2")
    for caller in (giver, heir):
        ask(broker, caller, "register_factory", offers=["gpu"])

    def reasons(**body: Any) -> list[str]:
        return list(broker.ask(broker.caller.make("explain", **body))[0]["body"]["reasons"])

    assert reasons(job_id="a", factory="mac-2") == []
    ask(broker, giver, "hand_over", **hold(broker, giver), to="mac-2")
    assert reasons(job_id="a", factory="mac-1") == ["reserved"]
    assert reasons(job_id="a", factory="mac-2") == []
    assert hold(broker, heir)["epoch"] == 2


# Notices.


def test_a_holder_is_told_at_once_to_renew_where_its_job_is_cancelled_or_taken(broker: InProcess) -> None:
    broker.submit("a", "b")
    caller = start(broker, "s1")
    first, second = hold(broker, caller, job_id="a"), hold(broker, caller, job_id="b")
    broker.ask(broker.caller.make("cancel", job_id="a"), broker.caller.make("revoke", job_id="b"))
    caller.collect()
    assert [(each["notice"], each["job_id"], each["epoch"]) for each in caller.notices] == [
        ("renew", "a", 1), ("renew", "b", 1),
    ]  # fmt: skip
    assert not any(lease["token"] in str(caller.notices) for lease in (first, second))
    assert ask(broker, caller, "renew", **first)["body"]["directives"] == ["cancel"]
    assert told(ask(broker, caller, "renew", **second)) == ("lease_lost", "revoked")


def test_no_notice_follows_what_a_holder_does_itself(broker: InProcess) -> None:
    broker.submit("a", "b", "c")
    caller = start(broker, "s1")
    for op in ("complete", "fail", "release"):
        ask(broker, caller, op, **hold(broker, caller))
    caller.collect()
    assert caller.notices == []
