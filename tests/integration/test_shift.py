"""A worker's steps overlap: Redis takes the next batch while one is settled. Nothing is lost where that breaks off."""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from itertools import count
from typing import Any

import pytest
import redis
from msgspec import structs

from broker.batch import Settled
from broker.clock import ManualClock, RedisClock
from broker.messages import Envelope
from broker.queues import QUEUES, Wire
from broker.scripts import Script
from broker.settings import load
from datastore import Datastore
from datastore.interface import Ahead, nothing_ahead
from datastore.memory import MemoryDatastore
from tests.in_process import InProcess
from tests.processes import wait_for
from tests.twins.forwarding import Forwarding
from workers import left_behind
from workers.entries import ID_BYTES_MAX, INTAKE_BYTES_MAX
from workers.finishing import read_letters
from workers.inflight import arrivals_key, lists
from workers.lean_redis import LeanRedis
from workers.shift import BESIDE_HOLDERS, LATELY_MS, TAKE_OVER_MS, Shift
from workers.taking import BATCH_BYTES, WORKERS, Hand

WIRES: tuple[Wire, ...] = ("rq", "intake")


@pytest.fixture
def broker(redis_client: redis.Redis) -> InProcess:
    return InProcess(MemoryDatastore(), redis_client)


@pytest.fixture
def worker(redis_url: str) -> Iterator[redis.Redis]:
    with LeanRedis.from_url(redis_url) as connection:
        yield connection


def shift(broker: InProcess, worker: redis.Redis) -> Shift:
    return Shift(broker.context, worker, "w1", QUEUES, load())


def sent(broker: InProcess, count: int, wire: Wire) -> Sequence[Envelope]:
    """Claims that stand in the queue, each for a job of its own."""
    for number in range(count):
        broker.submit(f"job-{number}")
    claims = [broker.caller.make("claim", job_id=f"job-{number}") for number in range(count)]
    broker.caller.send(*claims, wire=wire)
    return claims


def in_hand(broker: InProcess) -> int:
    return sum(map(broker.redis.llen, lists("w1")))


def words(broker: InProcess, claims: Sequence[Envelope]) -> Counter[Any]:
    return Counter(reply["answer"] for reply in broker.caller.replies(*claims))


@pytest.mark.parametrize("wire", WIRES)
def test_a_batch_is_in_hand_while_the_one_before_it_is_settled(
    broker: InProcess, worker: redis.Redis, wire: Wire
) -> None:
    claims = sent(broker, 150, wire)
    mine = shift(broker, worker)
    assert mine.serve()
    source = {"rq": "rq:queue:claims", "intake": "broker:in:claims"}[wire]
    wait_for(lambda: broker.redis.llen(source) == 150 - 2 * 64 or None, "the second batch is taken")
    wait_for(lambda: in_hand(broker) == 64 or None, "the first has been answered")
    while mine.serve():
        pass
    assert words(broker, claims) == {"granted": 150}
    assert broker.redis.exists(*lists("w1")) == 0


@pytest.mark.parametrize("wire", WIRES)
def test_large_requests_are_taken_a_few_at_a_time_and_in_their_order_since_whatever_comes_meanwhile_waits(
    broker: InProcess, wire: Wire
) -> None:
    sizes = [BATCH_BYTES // 4] * 6 + [BATCH_BYTES + 1_000, BATCH_BYTES // 2, 1, 1, BATCH_BYTES // 2, 1]
    jobs = [broker.caller.make("submit", payload="x" * size) for size in sizes]
    broker.caller.send(*jobs, wire=wire)
    batches = []
    while (hand := broker.take()).entries:
        settled = broker.settle(hand.entries)
        batches.append([result.request.request_id for _, result in settled])
        broker.finish(settled)
    assert [len(batch) for batch in batches] == [4, 3, 4, 1]
    assert [id for batch in batches for id in batch] == [job.request_id for job in jobs]


@pytest.mark.parametrize("wire", WIRES)
def test_a_worker_that_is_told_to_stop_answers_what_it_has_in_hand_and_takes_nothing_more(
    broker: InProcess, worker: redis.Redis, wire: Wire
) -> None:
    claims = sent(broker, 150, wire)
    mine = shift(broker, worker)
    mine.serve()
    mine.stop()
    assert words(broker, claims[:128]) == {"granted": 128}
    assert broker.redis.exists(*lists("w1")) == 0
    shift(broker, broker.redis).serve()
    assert words(broker, claims[128:]) == {"granted": 22}, "left to others"


def others(broker: InProcess, mine: Shift, *, renewals: int) -> list[int]:
    """How many claims each of the next twenty batches held; before so many of them a holder renews.

    A batch is on its way before the one ahead of it is answered: which of them a renewal goes with is Redis' affair.
    """
    broker.submit("held")
    [grant] = broker.ask(broker.caller.make("claim", job_id="held"))
    lease = {name: grant["body"][name] for name in ("job_id", "epoch", "token")}
    broker.caller.send(*[broker.caller.make("claim", job_id="nobodys") for _ in range(64 * 40)], wire="intake")
    claims = []
    for number in range(20):
        if number < renewals:
            broker.caller.send(broker.caller.make("renew", **lease))
        hand = mine.take()
        mine.serve([hand])
        claims.append(len(hand.entries) - hand.holders)
    return claims


class Watched(Forwarding):
    """Asks `meanwhile` as each batch begins to be written."""

    def __init__(self, inner: Datastore, meanwhile: Callable[[], None]) -> None:
        super().__init__(inner)
        self._meanwhile = meanwhile

    def batch(self, ahead: Ahead = nothing_ahead) -> AbstractContextManager[None]:
        self._meanwhile()
        return super().batch(ahead)


def test_answers_do_not_wait_for_the_settlement_of_what_another_wait_has_brought(
    broker: InProcess, worker: redis.Redis
) -> None:
    broker.submit("job")
    renewal, claim = (
        broker.caller.make("renew", job_id="job", epoch=1, token="0" * 32),
        broker.caller.make("claim", job_id="job"),
    )
    answered: list[bool] = []

    def look() -> None:
        if answered:
            wait_for(lambda: broker.caller.has_reply(renewal) or None, "the first is answered")
        answered.append(broker.caller.has_reply(renewal))

    watched = structs.replace(broker.context, store=Watched(broker.store, look))
    mine = Shift(watched, worker, "w1", QUEUES, load())
    hands: list[Hand] = []
    for request in (renewal, claim):
        broker.caller.send(request)
        hands.append(broker.take("w1"))
    mine.serve(hands)
    assert answered == [False, True]
    assert words(broker, [claim]) == {"granted": 1}


def test_while_a_crowd_queues_a_holder_waits_for_few_others(broker: InProcess, worker: redis.Redis) -> None:
    mine = Shift(broker.context, worker, "w1", QUEUES, load(), steady_ms=lambda: 0)
    claims = others(broker, mine, renewals=20)
    assert claims[:1] == [63], "the first batch knows nothing of a crowd"
    assert set(claims[2:]) == {BESIDE_HOLDERS}


def test_where_holders_have_been_quiet_batches_are_whole_again(broker: InProcess, worker: redis.Redis) -> None:
    passing = count(step=LATELY_MS)
    mine = Shift(broker.context, worker, "w1", QUEUES, load(), steady_ms=lambda: next(passing))
    assert set(others(broker, mine, renewals=3)[-10:]) == {64}


def test_what_was_in_hand_when_the_connection_broke_is_settled_again_and_answered_as_before(
    broker: InProcess, worker: LeanRedis
) -> None:
    claims = sent(broker, 150, "intake")
    mine = shift(broker, worker)
    mine.serve()
    broker.redis.client_kill_filter(_id=str(worker.client_id()))  # the second batch is in flight, its answer lost
    with pytest.raises(redis.RedisError):
        mine.serve()
    mine.settle(mine.leftovers())
    while mine.serve():
        pass
    assert words(broker, claims) == {"granted": 150}
    jobs = broker.store.find({"kind": "job"}, limit=200).documents
    assert {job.body["epoch"] for job in jobs} == {1}


def test_what_a_wait_has_moved_is_taken_over_though_its_worker_died_before_it_took_it(
    broker: InProcess, worker: redis.Redis
) -> None:
    shift(broker, worker).serve()  # as a worker does before it waits: so it is known
    claims = sent(broker, 1, "intake")
    worker.lmove("broker:in:claims", arrivals_key("w1", "intake"), "LEFT", "RIGHT")
    broker.kill("w1")
    broker.take_over("w2")
    assert words(broker, claims) == {"granted": 1}


@pytest.mark.parametrize("found", ["of a dead worker", "of its own"])
@pytest.mark.parametrize("wire", WIRES)
def test_what_is_too_long_to_be_read_is_not_brought_from_where_a_wait_has_moved_it(
    broker: InProcess, wire: Wire, found: str
) -> None:
    limit = {"rq": ID_BYTES_MAX, "intake": INTAKE_BYTES_MAX}[wire]
    broker.redis.rpush(arrivals_key("w1", wire), "x" * (limit + 1))
    claims = sent(broker, 1, wire)
    broker.redis.lmove({"rq": "rq:queue:claims", "intake": "broker:in:claims"}[wire], arrivals_key("w1", wire))
    broker.kill("w1")
    if found == "of its own":
        hand = left_behind.own_leftovers(broker.redis, "w1~1", before=["w1"])
        broker.finish(broker.settle(hand.entries, "w1~1"), "w1~1")
    else:
        broker.take_over("w2")
    [letter] = read_letters(broker.redis, 9)
    assert (letter["reason"][:9], letter["wire"]) == ("oversized", None), "it was cut where it stood"
    assert words(broker, claims) == {"granted": 1}
    assert broker.redis.keys("broker:inflight:*") == []


def test_what_a_dead_worker_had_in_hand_does_not_wait_out_a_clock_that_was_set_back(broker: InProcess) -> None:
    claims = sent(broker, 1, "intake")
    broker.take("w1")
    hour_ms = 3_600_000
    before = RedisClock(broker.redis).now_ms() + hour_ms
    broker.redis.zadd(WORKERS, {"w1": before})  # it was heard of last an hour before the clock was set back by one
    assert not left_behind.take_over(broker.redis, "w2", dead_after_ms=60_000, at_most=64).entries, "it may live"
    assert broker.redis.zcount(WORKERS, before - hour_ms + 60_000, "+inf") == 0
    hands: list[Hand] = []

    def taken_over() -> bool:
        hands.append(left_behind.take_over(broker.redis, "w2", dead_after_ms=1, at_most=64))
        return bool(hands[-1].entries)

    wait_for(taken_over, "it counts as dead")
    broker.finish(broker.settle(hands[-1].entries, "w2"), "w2")
    assert words(broker, claims) == {"granted": 1}


def test_where_a_batch_fails_by_a_mistake_of_ours_its_senders_are_told_that_nothing_is_known(
    broker: InProcess, worker: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    claims = sent(broker, 3, "intake")
    mine = shift(broker, worker)

    def mistaken(*_: Any, **__: Any) -> list[Settled]:
        raise KeyError("ours")

    with monkeypatch.context() as patched:
        patched.setattr("workers.shift.settle_batch", mistaken)
        while mine.serve():
            pass
    assert {(reply["answer"], reply["retry"]) for reply in broker.caller.replies(*claims)} == {
        ("outcome_unknown", "same_id")
    }
    assert broker.redis.exists(*lists("w1")) == 0, "whoever took it over would fail as well"
    broker.caller.send(*claims)
    while mine.serve():
        pass
    assert words(broker, claims) == {"granted": 3}


def test_what_two_workers_died_with_comes_last_and_one_by_one(broker: InProcess) -> None:
    # One of these requests may be what kills: it is to take no other with it, and to keep none from being answered.
    requests = [broker.caller.make("submit", job_id=f"job-{number}") for number in range(12)]
    broker.caller.send(*requests[:6])
    broker.caller.send(*requests[6:], wire="intake")
    broker.take("w1")
    broker.kill("w1")

    def left(worker: str, at_most: int = 8) -> list[int]:
        """How much each look brings, until it brings nothing."""
        counts = [8]
        while counts[-1]:
            hand = left_behind.take_over(broker.redis, worker, dead_after_ms=60_000, at_most=at_most)
            broker.finish(broker.settle(hand.entries, worker), worker)
            counts.append(len(hand.entries))
        return counts[1:]

    assert len(left_behind.take_over(broker.redis, "w2", dead_after_ms=60_000, at_most=8).entries) == 8
    broker.kill("w2")
    assert left("w3") == [4, 1, 1, 1, 1, 1, 1, 1, 1, 0]
    assert {reply["answer"] for reply in broker.caller.replies(*requests, deadline_ms=1_000)} == {"ok"}
    assert broker.redis.keys("broker:inflight:*") == []


def looks_until_it_kills_nobody(broker: InProcess, wire: Wire) -> int:
    """How many workers die one after the other of a request that kills whoever has it in hand; ten at the most."""
    broker.caller.send(broker.caller.make("submit", job_id="deadly"), wire=wire)
    broker.take("w0")
    for deaths in count(1):
        broker.kill(f"w{deaths - 1}")
        hand = left_behind.take_over(broker.redis, f"w{deaths}", dead_after_ms=60_000, at_most=8)
        if not hand.entries or deaths == 10:
            return deaths
    raise AssertionError


@pytest.mark.parametrize("wire", WIRES)
def test_a_request_that_kills_whoever_takes_it_over_alone_is_a_dead_letter_in_the_end(
    broker: InProcess, wire: Wire
) -> None:
    assert looks_until_it_kills_nobody(broker, wire) == 2 + left_behind.DEATHS_MAX
    [letter] = read_letters(broker.redis, 9)
    assert letter["reason"] == "deadly: 5 workers were lost with nothing else in hand"
    assert '"deadly"' in letter["entry"].replace("\\", ""), "what it was can be seen"
    assert broker.redis.keys("broker:inflight:*") == broker.redis.keys("rq:job:*") == []
    broker.submit("other")


@pytest.mark.parametrize("wire", WIRES)
def test_a_request_whose_deaths_nobody_counts_kills_for_ever(
    broker: InProcess, wire: Wire, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The twin of the test above.
    text = left_behind._TAKE_OVER.text.replace("deaths >= DEATHS_MAX", "false")
    monkeypatch.setattr(left_behind, "_TAKE_OVER", Script(text))
    assert looks_until_it_kills_nobody(broker, wire) == 10
    assert read_letters(broker.redis, 9) == []


class Slow(Forwarding):
    """Each batch waits for half of what a look at dead workers may take."""

    clock: ManualClock

    @contextmanager
    def batch(self, ahead: Ahead = nothing_ahead) -> Iterator[None]:
        self.clock.advance(TAKE_OVER_MS // 2)
        with self.inner.batch(ahead):
            yield


def looks_for_all(broker: InProcess, worker: redis.Redis, requests: int) -> int:
    """After how many looks at what a dead worker has left all of it is answered."""
    broker.context = structs.replace(broker.context, store=(store := Slow(broker.store)))
    store.clock = broker.clock
    asked = [broker.caller.make("submit", job_id=f"job-{number}") for number in range(requests)]
    broker.caller.send(*asked)
    broker.take("dead")
    broker.kill("dead")
    mine = Shift(broker.context, worker, "w1", QUEUES, load(), steady_ms=broker.clock.now_ms)
    for looks in count(1):
        mine.look_after(broker.clock.now_ms())
        if broker.caller.collect() == requests:
            return looks
    raise AssertionError


def test_those_who_queue_wait_for_a_few_portions_of_what_is_taken_over_where_the_store_is_slow(
    broker: InProcess, worker: redis.Redis
) -> None:
    assert looks_for_all(broker, worker, 64) == 4, "of eight portions"


def test_without_that_bound_they_would_wait_for_all_of_them(
    broker: InProcess, worker: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The twin of the test above.
    monkeypatch.setattr("workers.shift.TAKE_OVER_MS", 1 << 30)
    assert looks_for_all(broker, worker, 64) == 1
