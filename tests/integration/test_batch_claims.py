"""Several jobs with one claim, several leases renewed with one message: each by itself, once for each request id."""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from msgspec import structs

from broker import batch
from broker.messages import Request
from broker.parsing import Malformed, parse
from datastore import Datastore
from datastore.interface import Ahead, nothing_ahead
from tests.in_process import SKEW_MS, TTL_MS, InProcess
from tests.twins.forwarding import Forwarding

READY = "broker:ready:default:in:[]"


def several(broker: InProcess, count: int, **fields: Any) -> Request:
    return broker.caller.make("claim", count=count, **fields)


def leases(reply: Any) -> list[tuple[str, int, str]]:
    return sorted((grant["job_id"], grant["epoch"], grant["token"]) for grant in reply["body"].get("grants", []))


def jobs(reply: Any) -> list[str]:
    return [job for job, _, _ in leases(reply)]


def again(request: Request) -> Request:
    return request.model_copy(update={"attempt": request.attempt + 1})


def leased(broker: InProcess) -> set[str]:
    return {document.id for document in broker.store.find({"kind": "job", "state": "leased"}, limit=200).documents}


def test_one_claim_gets_up_to_so_many_jobs_each_with_its_own_epoch_and_token(anywhere: InProcess) -> None:
    anywhere.submit("a", "b", "c", "d", payload={"n": 1})
    reply = anywhere.ask(several(anywhere, 3))[0]
    assert (reply["answer"], jobs(reply)) == ("granted", ["a", "b", "c"])
    assert [epoch for _, epoch, _ in leases(reply)] == [1, 1, 1]
    assert len({token for _, _, token in leases(reply)}) == 3
    assert all(grant["payload"] == {"n": 1} for grant in reply["body"]["grants"])
    assert jobs(anywhere.ask(several(anywhere, 64))[0]) == ["d"]
    assert anywhere.ask(several(anywhere, 1))[0]["answer"] == "none_available"


@pytest.mark.parametrize("flushed", [False, True])
def test_a_resend_gets_the_same_grants_and_no_more(anywhere: InProcess, flushed: bool) -> None:
    anywhere.submit("a", "b", "c", "d")
    claim = several(anywhere, 3)
    first = anywhere.ask(claim)[0]
    if flushed:
        anywhere.redis.flushall()
        anywhere.sweep()
    second = anywhere.ask(again(claim))[0]
    assert (second["answer"], leases(second)) == ("replayed", leases(first))
    assert leased(anywhere) == {"a", "b", "c"}


@pytest.mark.parametrize("flushed", [False, True])
def test_a_worker_killed_half_way_leaves_one_set_of_grants(broker: InProcess, flushed: bool) -> None:
    broker.submit(*"abcdef")
    claim = several(broker, 3)
    broker.caller.send(claim)
    broker.settle(broker.take("w1").entries, "w1")  # written, and never answered
    broker.kill("w1")
    if flushed:
        broker.redis.flushall()
        broker.sweep()
        broker.caller.send(again(claim))
        broker.serve("w2")
    else:
        broker.take_over("w2")
    reply = broker.caller.replies(claim)[0]
    assert jobs(reply) == ["a", "b", "c"]
    assert leased(broker) == {"a", "b", "c"}


def test_two_copies_in_one_batch_get_one_set_of_grants(broker: InProcess) -> None:
    broker.submit(*"abcdef")
    claim = several(broker, 2)
    broker.caller.send(claim, again(claim))
    broker.serve()
    assert jobs(broker.caller.replies(claim)[0]) == ["a", "b"]
    assert leased(broker) == {"a", "b"}


class _BetweenRounds(Forwarding):
    """A store after whose first group of writes something else happens."""

    def __init__(self, inner: Datastore, act: Callable[[], None]) -> None:
        super().__init__(inner)
        self._acts = [act]

    @contextmanager
    def batch(self, ahead: Ahead = nothing_ahead) -> Iterator[None]:
        with self.inner.batch(ahead):
            yield
        for act in self._acts[:]:
            self._acts.clear()
            act()


def test_a_grant_that_another_copy_was_told_of_between_two_rounds_is_named_once(broker: InProcess) -> None:
    broker.submit("gone", priority=9)
    broker.submit("a", "b", "c")
    broker.redis.copy(READY, "stale")
    broker.ask(broker.caller.make("cancel", job_id="gone"))
    broker.redis.rename("stale", READY)
    claim = several(broker, 3)
    broker.caller.send(claim)
    entries, told = broker.take("w1").entries, []

    def other_copy() -> None:
        broker.context = structs.replace(broker.context, store=broker.store)
        told.append(broker.ask(again(claim), worker="w2")[0])

    broker.context = structs.replace(broker.context, store=_BetweenRounds(broker.store, other_copy))
    broker.finish(broker.settle(entries, "w1"), "w1")
    told.append(broker.caller.replies(claim)[0])
    assert [jobs(each) for each in told] == [["a", "b"], ["a", "b"]]
    assert leased(broker) == {"a", "b"}


def test_what_has_ended_is_no_longer_in_the_answer_and_after_all_of_it_nothing_is(broker: InProcess) -> None:
    broker.submit("a", "b", "c")
    claim = several(broker, 2)
    grants = broker.ask(claim)[0]["body"]["grants"]
    fences = [{name: grant[name] for name in ("job_id", "epoch", "token")} for grant in grants]
    broker.ask(broker.caller.make("complete", **fences[0]))
    reply = broker.ask(again(claim))[0]
    assert (reply["answer"], jobs(reply)) == ("replayed", ["b"])
    broker.ask(broker.caller.make("complete", **fences[1]))
    reply = broker.ask(again(claim))[0]
    assert (reply["answer"], reply["reason"]) == ("request_expired", "lease_over")
    assert leased(broker) == set()


def test_jobs_that_had_gone_are_made_up_for_by_others(broker: InProcess) -> None:
    broker.submit(*(f"gone-{number}" for number in range(6)), priority=9)
    broker.submit(*"abc")
    broker.redis.copy(READY, "stale")
    for number in (0, 2, 3, 5):
        broker.ask(broker.caller.make("cancel", job_id=f"gone-{number}"))
    broker.redis.rename("stale", READY)
    assert jobs(broker.ask(several(broker, 4))[0]) == ["a", "b", "gone-1", "gone-4"]
    assert leased(broker) == {"a", "b", "gone-1", "gone-4"}


def test_a_claim_for_several_waits_for_the_first(broker: InProcess) -> None:
    claim = several(broker, 5, wait_ms=60_000)
    broker.caller.send(claim)
    broker.serve()
    assert not broker.caller.has_reply(claim)
    broker.submit("a")
    assert jobs(broker.caller.replies(claim)[0]) == ["a"]


def test_locks_hold_among_the_jobs_of_one_claim(broker: InProcess) -> None:
    broker.submit("a", "b", locks=["one"])
    broker.submit("c")
    assert jobs(broker.ask(several(broker, 3))[0]) == ["a", "c"]


def test_a_count_with_a_job_is_refused(broker: InProcess) -> None:
    envelope = broker.caller.make("claim", job_id="a").model_dump(mode="json")
    envelope["body"]["count"] = 2
    with pytest.raises(Malformed, match="count is for a claim without job_id"):
        parse(json.dumps(envelope))


# Renewals.


def test_renewing_many_answers_for_each_and_one_that_is_lost_harms_no_other(anywhere: InProcess) -> None:
    anywhere.submit("a", "b", "c")
    grants = anywhere.ask(several(anywhere, 3))[0]["body"]["grants"]
    fences = [{name: grant[name] for name in ("job_id", "epoch", "token")} for grant in grants]
    anywhere.ask(anywhere.caller.make("revoke", job_id="b"))
    anywhere.ask(anywhere.caller.make("cancel", job_id="c"))
    anywhere.clock.advance(TTL_MS - 1)
    wanted = [*fences, {**fences[0], "token": "0" * 32}, {**fences[0], "job_id": "missing"}]
    reply = anywhere.ask(anywhere.caller.make("renew_many", leases=wanted))[0]
    told = [(each["job_id"], each["answer"]) for each in reply["body"]["results"]]
    assert reply["answer"] == "ok"
    assert told[:3] == [("a", "renewed"), ("b", "lease_lost"), ("c", "renewed")]
    assert told[3][1] != "renewed"
    assert told[4] == ("missing", "not_found")
    assert reply["body"]["results"][2]["directives"] == ["cancel"]
    anywhere.clock.advance(SKEW_MS + 2)
    anywhere.sweep()
    assert "a" in leased(anywhere)


def served_once(broker: InProcess, worker: str = "w1") -> list[str | None]:
    """The answers of one batch."""
    settled = broker.settle(broker.take(worker).entries, worker)
    broker.finish(settled, worker)
    return [None if result.answer is None else result.answer.word.value for _, result in settled]


def test_claims_for_many_jobs_in_one_batch_share_what_it_grants_and_one_alone_has_all_it_asks_for(
    broker: InProcess,
) -> None:
    many = [f"job-{number:03}" for number in range(3 * batch.JOBS_MAX)]
    broker.submit(*many)
    counts = [64] * 16 + [2]
    claims = [several(broker, count) for count in counts]
    broker.caller.send(*claims, broker.caller.make("claim"))
    broker.finish(broker.settle(broker.take().entries))
    had = [len(jobs(reply)) for reply in broker.caller.replies(*claims)]
    assert (min(had[:-1]), had[-1]) == (15, 2), "who asks for less than the others get has all of it"
    assert sum(had) + 1 == batch.JOBS_MAX
    assert jobs(broker.ask(again(claims[0]))[0]) != [], "a resend has what it had"
    assert [len(jobs(broker.ask(several(broker, 64))[0])) for _ in range(4)] == [64] * 4


def test_a_resend_among_them_changes_nothing_of_what_claims_for_many_jobs_get(broker: InProcess) -> None:
    broker.submit(*(f"job-{number:03}" for number in range(256)))
    claims = [several(broker, 64) for _ in range(3)]
    broker.caller.send(again(several(broker, 1)), *claims)
    broker.finish(broker.settle(broker.take().entries))
    assert [len(jobs(reply)) for reply in broker.caller.replies(*claims)] == [64] * 3


def test_of_resends_that_had_many_jobs_a_batch_answers_so_many_and_the_others_come_with_later_ones(
    broker: InProcess,
) -> None:
    broker.submit(*(f"j{number}" for number in range(64)))
    claim = several(broker, 64)
    first = broker.ask(claim)[0]
    for _ in range(5):
        broker.caller.send(again(claim))
    assert served_once(broker) == ["replayed", None, None, None, None]
    assert served_once(broker) == ["replayed", None, None, None]
    broker.serve()
    told = [json.loads(text) for text in broker.redis.lrange(broker.caller.channel, 0, -1)]
    assert [leases(reply) for reply in told] == [leases(first)] * 5


def test_a_resend_that_was_taken_over_is_not_put_back_where_it_would_be_taken_for_new(
    broker: InProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batch, "INSISTED_MAX", 64)
    broker.submit(*(f"j{number}" for number in range(66)))
    claims = [several(broker, 64), several(broker, 1), several(broker, 1)]
    broker.caller.send(*claims)
    broker.settle(broker.take("w1").entries, "w1")  # and dies
    broker.kill("w1")
    broker.take_over("w2")
    told = broker.caller.replies(*claims, deadline_ms=1_000)
    assert [reply["answer"] for reply in told] == ["replayed", "outcome_unknown", "outcome_unknown"]
    assert told[1]["retry"] == "same_id"
    assert broker.redis.llen("rq:queue:claims") == 0
    [one, other] = broker.ask(*map(again, claims[1:]))
    assert sorted(jobs(one) + jobs(other)) == ["j8", "j9"]
