"""A batch reads only so much for those who only look; the others come with later ones."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from broker import looks, pages, settle
from broker.clock import ManualClock
from broker.messages import KINDS, Envelope
from broker.permits import PERMITS
from broker.queues import Wire
from broker.replies import encode
from broker.signing import Role
from datastore import Filter, Page, connect
from tests.in_process import InProcess
from tests.integration.fat_jobs import ask, stock
from tests.integration.test_signed_attacks import Scene
from tests.twins.forwarding import Forwarding

pytestmark = pytest.mark.redis


@pytest.fixture
def stocked(broker: InProcess) -> InProcess:
    """With fat jobs."""
    return stock(broker)


def serve_once(broker: InProcess, worker: str = "w1") -> list[int]:
    """Settle and answer one batch; bytes of each answer in it."""
    settled = broker.settle(broker.take(worker).entries, worker)
    broker.finish(settled, worker)
    return [len(encode(result.answer.body)) for _, result in settled if result.answer is not None]


def listings(broker: InProcess) -> list[Envelope]:
    return [broker.caller.make("list_jobs", limit=500) for _ in range(64)]


@pytest.mark.parametrize("wire", ["rq", "intake"])
def test_listings_of_one_batch_have_so_many_bytes_and_the_others_come_with_later_ones(
    stocked: InProcess, wire: Wire
) -> None:
    asked = listings(stocked)
    stocked.caller.send(*asked, wire=wire)
    batches = [serve_once(stocked)]
    assert sum(batches[0]) < looks.BYTES + 1.01 * pages.PAGE_BYTES
    while any(stocked.redis.llen(key) for key in ("rq:queue:jobs", "broker:in:jobs")):
        batches.append(serve_once(stocked))
    assert max(map(sum, batches)) < looks.BYTES + 1.01 * pages.PAGE_BYTES
    assert sum(map(len, batches)) == len(asked)
    assert {reply["answer"] for reply in stocked.caller.replies(*asked, deadline_ms=1_000)} == {"ok"}
    assert stocked.redis.keys("broker:inflight:*") == stocked.redis.keys("rq:job:*") == []


def test_without_that_bound_one_batch_answers_all_of_them(stocked: InProcess, monkeypatch: pytest.MonkeyPatch) -> None:
    bound = looks.BYTES
    monkeypatch.setattr(looks, "BYTES", 1 << 60)
    stocked.caller.send(*listings(stocked))
    assert sum(serve_once(stocked)) > 10 * bound, "else the test before this one tests nothing"


def test_those_who_hold_leases_pass_listings_that_come_later(stocked: InProcess) -> None:
    stocked.submit("held")
    granted = ask(stocked, "claim", job_id="held")["body"]
    lease = {name: granted[name] for name in ("job_id", "epoch", "token")}
    asked, renewal = listings(stocked), stocked.caller.make("renew", **lease)
    submission = stocked.caller.make("submit", job_id="new")
    stocked.caller.send(*asked)
    serve_once(stocked)
    stocked.caller.send(renewal, submission)
    serve_once(stocked)
    assert stocked.caller.replies(renewal, deadline_ms=1_000)[0]["answer"] == "renewed"
    stocked.serve()
    assert {reply["answer"] for reply in stocked.caller.replies(submission, *asked, deadline_ms=1_000)} == {"ok"}


class Slow(Forwarding):
    """Takes 20 ms for each search."""

    clock: ManualClock

    def find(self, filter: Filter, limit: int = 100, cursor: str | None = None) -> Page:
        self.clock.advance(20)
        return super().find(filter, limit, cursor)


@pytest.fixture
def slow(redis_client: redis.Redis, tmp_path: Path) -> Iterator[InProcess]:
    store = Slow(connect(f"sqlite:///{tmp_path}/jobs.db"))
    broker = InProcess(store, redis_client)
    store.clock = broker.clock
    yield broker
    store.close()


@pytest.mark.parametrize(("bound_ms", "answered"), [(looks.TIME_MS, 3), (1 << 30, 64)])
def test_listings_of_one_batch_take_so_long_and_the_others_come_with_later_ones(
    slow: InProcess, monkeypatch: pytest.MonkeyPatch, bound_ms: int, answered: int
) -> None:
    monkeypatch.setattr(looks, "TIME_MS", bound_ms)
    asked = [slow.caller.make("list_schedules") for _ in range(64)]
    slow.caller.send(*asked)
    assert len(serve_once(slow)) == answered
    slow.serve()
    assert {reply["answer"] for reply in slow.caller.replies(*asked, deadline_ms=1_000)} == {"ok"}


def test_a_signed_listing_that_came_later_is_no_copy_of_itself(
    redis_client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(looks, "BYTES", 1)
    scene = Scene(redis_client, gullible=False)
    asked = [scene.message("get_job", job_id="job") for _ in range(4)]
    redis_client.rpush("broker:in:jobs", *asked)
    scene.broker.serve()
    assert [scene.answer()["answer"] for _ in asked] == ["ok"] * 4
    redis_client.rpush("broker:in:jobs", asked[3])
    scene.broker.serve()
    assert scene.answer()["reason"] == "repeated", "its mark stands again once it was answered"


def test_listings_that_were_taken_over_from_a_dead_worker_come_in_portions_too(stocked: InProcess) -> None:
    asked = listings(stocked)
    stocked.caller.send(*asked, wire="intake")
    stocked.settle(stocked.take("w1").entries, "w1")  # and dies of it
    stocked.kill("w1")
    stocked.take_over("w2")
    assert 0 < stocked.caller.collect() < 8
    stocked.serve("w2")
    assert {reply["answer"] for reply in stocked.caller.replies(*asked, deadline_ms=1_000)} == {"ok"}


def test_what_is_put_back_by_a_worker_that_dies_before_its_end_is_answered_all_the_same(stocked: InProcess) -> None:
    asked = listings(stocked)
    stocked.caller.send(*asked)
    settled = stocked.settle(stocked.take("w1").entries, "w1")
    assert any(result.put_back for _, result in settled)
    stocked.kill("w1")
    stocked.take_over("w2")
    stocked.serve("w2")
    assert {reply["answer"] for reply in stocked.caller.replies(*asked, deadline_ms=1_000)} == {"ok"}


def test_whatever_a_reader_may_ask_for_is_bounded_and_nothing_else() -> None:
    looks_at = {op.decode() for op, kind in KINDS.items() if kind in settle.LOOKS}
    assert looks_at == PERMITS[Role.READER]
    assert all(settle.HANDLERS[kind] is not handler for kind, handler in settle.LOOKS.items())
