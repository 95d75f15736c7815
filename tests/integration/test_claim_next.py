"""Claim-next: the best job that fits, once for each request id, whatever happened to the first answer."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from itertools import count
from typing import Any
from unittest.mock import patch

import pytest

from broker import batch
from broker.claim_next import claim_id, mark_key
from broker.messages import Claim, Request
from broker.proposals import MARK_TTL_MS
from broker.slots import slot_id
from datastore import Datastore, Expected, Filter, Ok, Page, Patch, ReadResult, Unavailable, UpdateResult
from tests.caller import Caller
from tests.in_process import SKEW_MS, TTL_MS, InProcess
from tests.twins.forwarding import Forwarding


@pytest.fixture
def broker(anywhere: InProcess) -> InProcess:
    """On a store of each kind."""
    return anywhere


def test_the_highest_priority_comes_first_then_the_oldest(broker: InProcess) -> None:
    for job, priority in (("low", -5), ("old", 0), ("new", 0), ("high", 7)):
        broker.submit(job, priority=priority)
        broker.clock.advance(1)
    assert [_next(broker)["body"]["job_id"] for _ in range(4)] == ["high", "old", "new", "low"]
    assert _next(broker)["answer"] == "none_available"


def test_a_claimant_gets_only_what_its_offers_meet_and_only_from_its_queue(broker: InProcess) -> None:
    broker.submit("gpu", requires=["gpu", "mem_gb>=32"], priority=9)
    broker.submit("elsewhere", queue="other")
    broker.submit("plain")
    assert _next(broker, offers=["gpu", "mem_gb=16"])["body"]["job_id"] == "plain"
    assert _next(broker, offers=["gpu", "mem_gb=16"])["answer"] == "none_available"
    assert _next(broker, offers=["mem_gb=64", "gpu"])["body"]["job_id"] == "gpu"
    assert _next(broker, queue="other")["body"]["job_id"] == "elsewhere"


def test_a_batch_of_claim_nexts_gets_different_jobs(broker: InProcess) -> None:
    broker.submit(*(f"job-{number}" for number in range(50)))
    replies = broker.ask(*(broker.caller.make("claim") for _ in range(64)))
    granted = [reply["body"]["job_id"] for reply in replies if reply["answer"] == "granted"]
    assert len(set(granted)) == len(granted) == 50
    assert [reply["answer"] for reply in replies].count("none_available") == 14


class Unsearchable(Forwarding):
    """A store whose searches fail."""

    def find(self, filter: Filter, limit: int = 100, cursor: str | None = None) -> Page:
        raise Unavailable(f"scripted: the search for {limit} of {filter} after {cursor} failed")


def test_a_resend_whose_lease_cannot_be_looked_for_is_told_that_its_outcome_is_unknown(broker: InProcess) -> None:
    broker.submit("job")
    failing = InProcess(Unsearchable(broker.store), broker.redis)
    again = failing.caller.make("claim", attempt=2)
    assert failing.ask(again)[0]["answer"] == "outcome_unknown"
    assert broker.ask(again)[0]["answer"] == "granted"


def test_stale_hints_are_used_up_on_the_way_to_a_job_that_is_there(broker: InProcess) -> None:
    broker.submit(*(f"gone-{number}" for number in range(5)), priority=9)
    broker.submit("there")
    ready = "broker:ready:default:in:[]"
    broker.redis.copy(ready, "stale")
    for number in range(5):
        broker.ask(broker.caller.make("cancel", job_id=f"gone-{number}"))
    broker.redis.rename("stale", ready)
    broker.redis.zadd(ready, {"never-was": 0})
    assert _next(broker)["body"]["job_id"] == "there"


# I6: once for each request id.


def test_a_resend_after_a_lost_reply_gets_the_same_grant(broker: InProcess) -> None:
    broker.submit("a", "b")
    claim = broker.caller.make("claim")
    first = broker.ask(claim)[0]
    again = broker.ask(_again(claim))[0]
    assert again["answer"] == "replayed"
    assert _grant(again) == _grant(first)


def test_a_resend_gets_the_same_grant_after_redis_has_lost_everything(broker: InProcess) -> None:
    broker.submit("a", "b")
    claim = broker.caller.make("claim")
    first = broker.ask(claim)[0]
    broker.redis.flushall()
    broker.sweep()
    assert _grant(broker.ask(_again(claim))[0]) == _grant(first)


@pytest.mark.parametrize("died", ["before the write", "between the write and the reply"])
@pytest.mark.parametrize("flushed", [False, True])
def test_a_resend_gets_one_grant_though_the_worker_was_killed(broker: InProcess, died: str, flushed: bool) -> None:
    broker.submit("a", "b")
    claim = broker.caller.make("claim")
    broker.caller.send(claim)
    hand = broker.take("w1")
    if died != "before the write":
        broker.settle(hand.entries, "w1")
    broker.kill("w1")
    if flushed:
        broker.redis.flushall()
        broker.sweep()
    broker.caller.send(_again(claim))
    broker.serve("w2")
    broker.take_over("w2")
    # The copy in the dead worker's hands is answered too, where it still exists: the same grant.
    grants = [broker.caller.replies(claim)[0]]
    if broker.caller.collect():
        grants += broker.caller.replies(claim)
    assert len({_grant(reply) for reply in grants}) == 1
    assert len(broker.store.find({"kind": "job", "state": "leased"}).documents) == 1


class ShowsNoLeaseYet(Forwarding):
    """A store whose searches show jobs as they were before they were leased."""

    def find(self, filter: Filter, limit: int = 100, cursor: str | None = None) -> Page:
        page = super().find(filter, limit, cursor)
        return Page((), page.cursor) if filter.get("state") == "leased" else page


@pytest.mark.parametrize("count", [None, 2])
@pytest.mark.parametrize("wrote", [False, True], ids=["before the write", "between the write and the reply"])
@pytest.mark.parametrize("after_ms", [0, 600_000], ids=["at once", "late"])
def test_a_claim_taken_over_from_a_dead_worker_gets_what_it_was_proposed_there_though_no_search_shows_it(
    broker: InProcess, wrote: bool, count: int | None, after_ms: int
) -> None:
    broker.submit("a", "b", "c", "d")
    claim = broker.caller.make("claim", count=count)
    broker.caller.send(claim)
    with dying(after_the_write=wrote):
        broker.settle(broker.take("w1").entries, "w1")
    broker.kill("w1")
    assert type(claim) is Claim
    mark = mark_key(claim_id(claim))
    broker.redis.pexpire(mark, broker.redis.pttl(mark) - after_ms)
    InProcess(ShowsNoLeaseYet(broker.store), broker.redis).take_over("w2")
    [reply] = broker.caller.replies(claim)
    assert reply["answer"] == ("replayed" if wrote else "granted")
    assert _leased(broker) == ["a", "b"][: count or 1]


@contextmanager
def dying(*, after_the_write: bool) -> Iterator[None]:
    """A worker dies, having proposed what fits."""
    if after_the_write:
        yield
        return
    with patch.object(batch, "_one_round", side_effect=KeyboardInterrupt), pytest.raises(KeyboardInterrupt):
        yield


@contextmanager
def dying_in_the_second_round() -> Iterator[None]:
    """A worker dies, having proposed another job for one that had gone."""
    act, rounds = batch._one_round, count()

    def one_round(*given: Any, **options: Any) -> Any:
        if next(rounds):
            raise KeyboardInterrupt
        return act(*given, **options)

    with patch.object(batch, "_one_round", one_round), pytest.raises(KeyboardInterrupt):
        yield


def _left_in_its_second_round(broker: InProcess, claim: Request, *, free_again: bool = True) -> None:
    """Its worker died over it, having proposed `waits-for-it` and then `b`. Both are free by now if `free_again`."""
    broker.submit("holds-the-lock", locks=["l"])
    lease = _lease(broker.ask(broker.caller.make("claim", job_id="holds-the-lock"))[0])
    broker.submit("waits-for-it", locks=["l"])
    broker.clock.advance(1)
    broker.submit("b", "c")
    broker.caller.send(claim)
    hand = broker.take("w1")
    with dying_in_the_second_round():
        broker.settle(hand.entries, "w1")
    broker.kill("w1")
    if free_again:
        broker.ask(broker.caller.make("complete", **lease), worker="w3")


@pytest.mark.parametrize("free_again", [True, False])
@pytest.mark.parametrize("count", [None, 1, 2])
def test_a_claim_taken_over_in_its_second_round_gets_no_more_than_it_asked_for_and_as_it_asked_for_it(
    broker: InProcess, count: int | None, free_again: bool
) -> None:
    claim = broker.caller.make("claim", count=count)
    _left_in_its_second_round(broker, claim, free_again=free_again)
    leased = set(_leased(broker)) - {"holds-the-lock"}
    InProcess(ShowsNoLeaseYet(broker.store), broker.redis).take_over("w2")
    body = broker.caller.replies(claim)[0]["body"]
    told = [body["job_id"]] if count is None else [grant["job_id"] for grant in body["grants"]]
    assert leased <= set(told), "what it was granted before is its own"
    assert len(told) == (count or 1)
    assert {*_leased(broker)} - {"holds-the-lock"} == set(told), "nothing is leased that nobody was told of"
    others = [_next(broker)["answer"] for _ in range(3)].count("granted")
    assert others == (3 if free_again else 2) - len(told), "what it did not get is there for others"


class ToldMeanwhile(Forwarding):
    """A store in which the holder that another copy of a claim was told of renews at once, as soon as it may."""

    def __init__(self, inner: Datastore, job_id: str) -> None:
        super().__init__(inner)
        self._job_id = job_id

    def update_if_match(self, id: str, partition_key: str, expected: Expected, patch: Patch) -> UpdateResult:
        result = super().update_if_match(id, partition_key, expected, patch)
        if id == self._job_id and isinstance(result, Ok) and patch.get("state") == "leased":
            lease: Any = result.document.body["lease"]
            renewed = {"lease": {**lease, "renewals": 1}}
            super().update_if_match(id, partition_key, Expected(etag=result.document.etag), renewed)
        return result


class KeepsALease(Forwarding):
    """A store that fails where a lease of one job is to be given back."""

    def __init__(self, inner: Datastore, job_id: str) -> None:
        super().__init__(inner)
        self._job_id = job_id

    def update_if_match(self, id: str, partition_key: str, expected: Expected, patch: Patch) -> UpdateResult:
        if id == self._job_id and patch.get("state") == "ready":
            raise Unavailable(f"scripted: {id} can't be written")
        return super().update_if_match(id, partition_key, expected, patch)


@pytest.mark.parametrize("count", [None, 1])
def test_a_grant_that_another_copy_was_told_of_is_not_taken_back_as_one_too_many(
    broker: InProcess, count: int | None
) -> None:
    claim = broker.caller.make("claim", count=count)
    _left_in_its_second_round(broker, claim)
    InProcess(ToldMeanwhile(ShowsNoLeaseYet(broker.store), "b"), broker.redis).take_over("w2")
    assert _leased(broker) == ["b", "waits-for-it"], "its holder counts on it"
    body = broker.caller.replies(claim)[0]["body"]
    assert [each["job_id"] for each in body.get("grants", [body])] == ["waits-for-it"]


@pytest.mark.parametrize("count", [None, 1])
def test_a_grant_too_many_that_cannot_be_taken_back_is_not_told(broker: InProcess, count: int | None) -> None:
    claim = broker.caller.make("claim", count=count)
    _left_in_its_second_round(broker, claim)
    InProcess(KeepsALease(ShowsNoLeaseYet(broker.store), "b"), broker.redis).take_over("w2")
    body = broker.caller.replies(claim)[0]["body"]
    assert [each["job_id"] for each in body.get("grants", [body])] == ["waits-for-it"]


def test_two_copies_in_one_batch_get_one_job(broker: InProcess) -> None:
    # A client that resends while the queue is long: both copies are taken together.
    broker.submit("a", "b", "c")
    claim = broker.caller.make("claim")
    broker.caller.send(claim, _again(claim), _again(claim, attempt=3))
    broker.serve()
    assert broker.caller.replies(claim)[0]["answer"] == "granted"
    assert len(broker.store.find({"kind": "job", "state": "leased"}).documents) == 1


def test_two_copies_in_two_workers_hands_get_one_job(broker: InProcess) -> None:
    broker.submit("a", "b")
    claim = broker.caller.make("claim")
    broker.caller.send(claim)
    first = broker.take("w1")
    broker.caller.send(_again(claim))
    second = broker.take("w2")
    settled = broker.settle(first.entries, "w1")
    broker.finish(broker.settle(second.entries, "w2"), "w2")
    broker.finish(settled, "w1")
    assert broker.caller.replies(claim)[0]["answer"] == "granted"
    assert len(broker.store.find({"kind": "job", "state": "leased"}).documents) == 1


@pytest.mark.parametrize("ended_by", ["complete", "release", "expiry"])
def test_a_request_whose_lease_has_ended_gets_nothing_more(broker: InProcess, ended_by: str) -> None:
    broker.submit("a", "b")
    claim = broker.caller.make("claim")
    lease = _lease(broker.ask(claim)[0])
    if ended_by == "expiry":
        broker.clock.advance(TTL_MS + SKEW_MS + 1)
        assert broker.sweep().reaped == 1
    else:
        broker.ask(broker.caller.make(ended_by, **lease))
    again = broker.ask(_again(claim))[0]
    assert (again["answer"], again["reason"]) == ("request_expired", "lease_over")


class GoesDarkAfterAWrite(Forwarding):
    """A store that writes once, and then answers nothing any more. Its first write is of the first job proposed."""

    dark = False

    @property
    def concurrency(self) -> int:
        return 1

    def read(self, id: str, partition_key: str) -> ReadResult:
        if self.dark:
            raise Unavailable(f"scripted: the read of {id} failed")
        return super().read(id, partition_key)

    def update_if_match(self, id: str, partition_key: str, expected: Expected, patch: Patch) -> UpdateResult:
        if self.dark:
            raise Unavailable(f"scripted: the write of {id} was refused")
        self.dark = True
        return super().update_if_match(id, partition_key, expected, patch)


@pytest.mark.parametrize("count", [None, 3])
def test_a_claim_whose_outcome_was_unknown_gets_nothing_more_once_its_lease_has_ended(
    broker: InProcess, count: int | None
) -> None:
    broker.submit("a", "b", "c", "d")
    claim = broker.caller.make("claim", count=count)
    assert InProcess(GoesDarkAfterAWrite(broker.store), broker.redis).ask(claim)[0]["answer"] == "outcome_unknown"
    assert len(_leased(broker)) == 1
    broker.clock.advance(TTL_MS + SKEW_MS + 1)
    broker.sweep()
    broker.ask(broker.caller.make("hold", job_id="a"))
    again = broker.ask(_again(claim))[0]
    if count is None:
        assert (again["answer"], again["reason"], _leased(broker)) == ("request_expired", "lease_over", [])
    else:
        assert [grant["job_id"] for grant in again["body"]["grants"]] == ["b", "c"], "what it was proposed, no more"


def test_a_claim_that_was_granted_and_then_met_a_failing_store_gets_nothing_more(broker: InProcess) -> None:
    broker.submit("a", "b")
    claim = broker.caller.make("claim")
    broker.ask(broker.caller.make("complete", **_lease(broker.ask(claim)[0])))
    failing = GoesDarkAfterAWrite(broker.store)
    failing.dark = True
    assert InProcess(failing, broker.redis).ask(_again(claim))[0]["answer"] == "outcome_unknown"
    again = broker.ask(_again(claim, attempt=3))[0]
    assert (again["answer"], again["reason"]) == ("request_expired", "lease_over")


class TakenOverMeanwhile(Forwarding):
    """A store so slow that, once a job was read, another worker has the request in hand."""

    def __init__(self, inner: Datastore, job_id: str, take: Callable[[], object]) -> None:
        super().__init__(inner)
        self._job_id = job_id
        self._take = take

    def read(self, id: str, partition_key: str) -> ReadResult:
        if id == self._job_id:
            self._take()
        return super().read(id, partition_key)


@pytest.mark.parametrize("count", [None, 3])
def test_what_a_claim_did_before_another_worker_took_it_over_is_told(broker: InProcess, count: int | None) -> None:
    # The first job it is proposed is locked, so that it stands aside; the others are granted, and one has gone.
    broker.submit("holder", "locked", locks=["l"], priority=9)
    broker.ask(broker.caller.make("claim", job_id="holder"))
    if count is not None:
        broker.submit("free")
    broker.redis.zadd("broker:ready:default:in:[]", {"gone": 4e12})
    claim = broker.caller.make("claim", count=count)
    assert type(claim) is Claim
    mark = mark_key(claim_id(claim))
    last = "gone" if count is not None else "locked"
    slow = TakenOverMeanwhile(broker.store, last, lambda: broker.redis.set(mark, "w2", px=MARK_TTL_MS))
    broker.caller.send(claim)
    InProcess(slow, broker.redis).serve("w1")
    assert broker.redis.zcard("broker:waits:" + slot_id("l")) == 1, "the locked job is let through with the lock"
    if count is None:
        assert not broker.caller.has_reply(claim), "the other worker's copy is answered"
    else:
        [grant] = broker.caller.replies(claim)[0]["body"]["grants"]
        assert grant["job_id"] == "free", "nobody else may know of it"


def test_two_copies_of_a_claim_from_two_clients_of_one_factory_get_one_job_in_one_batch(broker: InProcess) -> None:
    broker.submit("a", "b")
    one, other = (Caller(broker.redis, "f", instance=name) for name in ("i1", "i2"))
    claim = one.make("claim")
    one.send(claim, wire="intake")
    other.send(other.make("claim", request_id=claim.request_id), wire="intake")
    broker.serve()
    assert len(_leased(broker)) == 1


def test_a_resend_that_waits_for_a_paused_queue_is_told_of_its_own_lease_when_it_is_resumed(broker: InProcess) -> None:
    broker.submit("a", "b")
    claim = broker.caller.make("claim", wait_ms=60_000)
    broker.ask(broker.caller.make("complete", **_lease(broker.ask(claim)[0])))
    broker.ask(broker.caller.make("pause_queue", queue="default"))
    broker.caller.send(_again(claim))
    broker.serve()
    assert not broker.caller.has_reply(claim)
    broker.ask(broker.caller.make("resume_queue", queue="default"))
    again = broker.caller.replies(claim)[0]
    assert (again["answer"], again["reason"], _leased(broker)) == ("request_expired", "lease_over", [])


def test_a_claim_by_id_whose_lease_has_ended_gets_nothing_more_also_after_others_and_a_flush(
    broker: InProcess,
) -> None:
    broker.submit("a")
    first = broker.caller.make("claim", job_id="a")
    lease = _lease(broker.ask(first)[0])
    broker.ask(broker.caller.make("release", **lease))
    for _ in range(2):
        lease = _lease(broker.ask(broker.caller.make("claim", job_id="a"))[0])
        broker.ask(broker.caller.make("release", **lease))
    broker.redis.flushall()
    again = broker.ask(_again(first))[0]
    assert (again["answer"], again["reason"]) == ("request_expired", "lease_over")


OPERATIONS: Mapping[str, Callable[[dict[str, Any]], dict[str, Any]]] = {
    "submit": lambda _: {"job_id": "new"},
    "complete": lambda lease: {**lease, "result": 1},
    "fail": lambda lease: lease,
    "release": lambda lease: lease,
    "cancel": lambda _: {"job_id": "a"},
    "revoke": lambda _: {"job_id": "a"},
    "renew": lambda lease: lease,
    "progress": lambda lease: {**lease, "progress": 0.5},
}


@pytest.mark.parametrize("op", OPERATIONS)
@pytest.mark.parametrize("flushed", [False, True])
def test_a_resend_of_any_operation_has_no_second_effect(broker: InProcess, op: str, flushed: bool) -> None:
    broker.submit("a")
    lease = _lease(broker.ask(broker.caller.make("claim", job_id="a"))[0])
    request = broker.caller.make(op, **OPERATIONS[op](lease))
    first = broker.ask(request)[0]
    before = _documents(broker)
    if flushed:
        broker.redis.flushall()
    again = broker.ask(_again(request))[0]
    if op in ("renew", "progress"):  # idempotent by nature: the same again
        assert again["answer"] == first["answer"]
        return
    assert (first["answer"], again["answer"]) == ("ok", "replayed")
    assert _documents(broker) == before


def test_a_redrive_is_carried_out_once(broker: InProcess) -> None:
    broker.submit("a")
    broker.ask(broker.caller.make("cancel", job_id="a"))
    request = broker.caller.make("redrive", job_id="a")
    assert broker.ask(request)[0]["answer"] == "ok"
    broker.ask(broker.caller.make("cancel", job_id="a"))
    assert broker.ask(_again(request))[0]["answer"] == "replayed"
    assert broker.ask(broker.caller.make("get_job", job_id="a"))[0]["body"]["job"]["state"] == "cancelled"


def test_of_two_submissions_of_one_job_id_the_second_is_told_that_it_exists(broker: InProcess) -> None:
    broker.submit("a", payload=1)
    reply = broker.ask(broker.caller.make("submit", job_id="a", payload=2))[0]
    assert (reply["answer"], reply["reason"], reply["retry"]) == ("conflict", "exists", "final")
    assert broker.ask(broker.caller.make("get_job", job_id="a"))[0]["body"]["spec"]["payload"] == 1


# I7: no ghost grants.


@pytest.mark.parametrize("by_id", [False, True])
def test_a_claim_past_its_deadline_is_not_granted(broker: InProcess, by_id: bool) -> None:
    broker.submit("a")
    deadline_ms = broker.clock.now_ms()
    claim = broker.caller.make("claim", deadline_ms=deadline_ms, job_id="a" if by_id else None)
    broker.clock.advance(1)
    assert broker.ask(claim)[0]["answer"] == "request_expired"
    assert _next(broker)["body"]["epoch"] == 1


def test_a_claim_at_its_deadline_is_still_granted(broker: InProcess) -> None:
    broker.submit("a")
    claim = broker.caller.make("claim", deadline_ms=broker.clock.now_ms())
    assert broker.ask(claim)[0]["answer"] == "granted"


def test_a_queue_full_of_expired_claims_costs_no_job(broker: InProcess) -> None:
    broker.submit("a", "b")
    dead = [broker.caller.make("claim", deadline_ms=broker.clock.now_ms() - 1) for _ in range(500)]
    live = broker.caller.make("claim", deadline_ms=broker.clock.now_ms() + 1)
    replies = broker.ask(*dead, live)
    assert {reply["answer"] for reply in replies[:-1]} == {"request_expired"}
    assert replies[-1]["answer"] == "granted"
    assert broker.redis.zcard("broker:ready:default:in:[]") == 1, "no hint was used up by the dead"


def test_a_claim_taken_in_time_and_settled_late_is_not_granted(broker: InProcess) -> None:
    broker.submit("a")
    claim = broker.caller.make("claim", deadline_ms=broker.clock.now_ms() + 1_000)
    broker.caller.send(claim)
    hand = broker.take()
    broker.clock.advance(1_001)  # the worker was stopped
    broker.finish(broker.settle(hand.entries))
    assert broker.caller.replies(claim)[0]["answer"] == "request_expired"


def _next(broker: InProcess, **body: Any) -> Any:
    return broker.ask(broker.caller.make("claim", **body))[0]


def _again(request: Request, *, attempt: int = 2) -> Request:
    return request.model_copy(update={"attempt": attempt})


def _leased(broker: InProcess) -> list[str]:
    return [document.id for document in broker.store.find({"kind": "job", "state": "leased"}).documents]


def _grant(reply: Any) -> tuple[object, ...]:
    return tuple(reply["body"][name] for name in ("job_id", "epoch", "token"))


def _lease(reply: Any) -> dict[str, Any]:
    assert reply["answer"] == "granted", reply
    return {name: reply["body"][name] for name in ("job_id", "epoch", "token")}


def _documents(broker: InProcess) -> list[tuple[str, int]]:
    return [(document.id, document.rev) for document in broker.store.find({}, limit=1_000).documents]
