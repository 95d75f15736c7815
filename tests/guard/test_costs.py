"""Commands, round trips and store calls of each request stay what they are: these numbers do not drift with a machine.

Whoever makes one smaller pins the smaller one. Whoever needs a larger one says in the commit what it buys. The table of
docs/scaling.md is made of these.
"""

import re
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import pytest

from broker import transitions
from broker.answers import Answer, Word
from broker.queues import Wire
from broker.transitions import Refuse
from datastore import Datastore, connect
from datastore.interface import ReadResult, Update, UpdateResult
from tests.guard.clients import (
    Backstage,
    Measure,
    Share,
    many_awaited_claims,
    many_submissions,
    one_awaited_claim,
    one_claim,
)
from tests.guard.rig import Cost, rig
from tests.guard.scenes import SCENES
from tests.guard.store import CountingGrouped, CountingStore
from workers import together
from workers.shift import Shift
from workers.taking import Hand

TABLE = Path(__file__).parents[2] / "docs/scaling.md"
WORKER: dict[tuple[str, Wire, int], Cost] = {
    # op, wire, requests: round trips, commands sent, commands that Redis carries out
    ("submit", "rq", 1): Cost(3, 9, 22, create=2, batch=1),
    ("submit", "rq", 64): Cost(3, 12, 151, create=128, batch=1),
    ("submit", "intake", 1): Cost(3, 9, 20, create=2, batch=1),
    ("submit", "intake", 64): Cost(3, 12, 23, create=128, batch=1),
    ("claim", "rq", 1): Cost(2, 7, 20, read=4, update=1, written=1, batch=1),
    ("claim", "rq", 64): Cost(2, 10, 149, read=130, update=1, written=64, batch=1),
    ("claim", "intake", 1): Cost(2, 7, 18, read=4, update=1, written=1, batch=1),
    ("claim", "intake", 64): Cost(2, 10, 21, read=130, update=1, written=64, batch=1),
    ("claim_next", "rq", 1): Cost(3, 10, 29, read=4, update=1, written=1, batch=1),
    ("claim_next", "rq", 64): Cost(3, 76, 410, read=130, update=1, written=64, batch=1),
    ("claim_next", "intake", 1): Cost(3, 10, 27, read=4, update=1, written=1, batch=1),
    ("claim_next", "intake", 64): Cost(3, 76, 282, read=130, update=1, written=64, batch=1),
    ("renew", "rq", 1): Cost(2, 6, 19, read=3, update=1, written=1, batch=1),
    ("renew", "rq", 64): Cost(2, 9, 148, read=66, update=64, written=64, batch=1),
    ("renew", "intake", 1): Cost(2, 6, 17, read=3, update=1, written=1, batch=1),
    ("renew", "intake", 64): Cost(2, 9, 20, read=66, update=64, written=64, batch=1),
    ("renew_many", "rq", 1): Cost(2, 6, 19, read=3, update=1, written=1, batch=1),
    ("renew_many", "rq", 64): Cost(2, 6, 19, read=66, update=1, written=64, batch=1),
    ("renew_many", "intake", 1): Cost(2, 6, 17, read=3, update=1, written=1, batch=1),
    ("renew_many", "intake", 64): Cost(2, 6, 17, read=66, update=1, written=64, batch=1),
    ("complete", "rq", 1): Cost(2, 7, 20, read=1, create=1, update=1, written=1, batch=1),
    ("complete", "rq", 64): Cost(2, 10, 149, read=64, create=64, update=64, written=64, batch=1),
    ("complete", "intake", 1): Cost(2, 7, 18, read=1, create=1, update=1, written=1, batch=1),
    ("complete", "intake", 64): Cost(2, 10, 21, read=64, create=64, update=64, written=64, batch=1),
    ("fail", "rq", 1): Cost(2, 6, 19, read=1, create=1, update=1, written=1, batch=1),
    ("fail", "rq", 64): Cost(2, 9, 148, read=64, create=64, update=64, written=64, batch=1),
    ("fail", "intake", 1): Cost(2, 6, 17, read=1, create=1, update=1, written=1, batch=1),
    ("fail", "intake", 64): Cost(2, 9, 20, read=64, create=64, update=64, written=64, batch=1),
    ("release", "rq", 1): Cost(3, 9, 22, read=1, create=1, update=1, written=1, batch=1),
    ("release", "rq", 64): Cost(3, 12, 151, read=64, create=64, update=64, written=64, batch=1),
    ("release", "intake", 1): Cost(3, 9, 20, read=1, create=1, update=1, written=1, batch=1),
    ("release", "intake", 64): Cost(3, 12, 23, read=64, create=64, update=64, written=64, batch=1),
    ("claim_again", "rq", 1): Cost(2, 7, 20, read=5, update=1, written=1, batch=1),
    ("claim_again", "rq", 64): Cost(2, 10, 149, read=194, update=1, written=64, batch=1),
    ("claim_again", "intake", 1): Cost(2, 7, 18, read=5, update=1, written=1, batch=1),
    ("claim_again", "intake", 64): Cost(2, 10, 21, read=194, update=1, written=64, batch=1),
    ("hand_over", "rq", 1): Cost(3, 11, 24, read=2, create=1, update=1, written=1, batch=1),
    ("hand_over", "rq", 64): Cost(3, 203, 342, read=65, create=64, update=64, written=64, batch=1),
    ("hand_over", "intake", 1): Cost(3, 11, 22, read=2, create=1, update=1, written=1, batch=1),
    ("hand_over", "intake", 64): Cost(3, 203, 214, read=65, create=64, update=64, written=64, batch=1),
    ("progress", "rq", 1): Cost(2, 5, 18, read=2, create=1, batch=1),
    ("progress", "rq", 64): Cost(2, 5, 144, read=128, create=64, batch=1),
    ("progress", "intake", 1): Cost(2, 5, 16, read=2, create=1, batch=1),
    ("progress", "intake", 64): Cost(2, 5, 16, read=128, create=64, batch=1),
    ("progress_again", "rq", 1): Cost(2, 5, 18, read=2, update=1, written=1, batch=1),
    ("progress_again", "rq", 64): Cost(2, 5, 144, read=128, update=64, written=64, batch=1),
    ("progress_again", "intake", 1): Cost(2, 5, 16, read=2, update=1, written=1, batch=1),
    ("progress_again", "intake", 64): Cost(2, 5, 16, read=128, update=64, written=64, batch=1),
    ("cancel", "rq", 1): Cost(2, 8, 21, read=1, update=1, written=1, batch=1),
    ("cancel", "rq", 64): Cost(2, 11, 150, read=64, update=64, written=64, batch=1),
    ("cancel", "intake", 1): Cost(2, 8, 19, read=1, update=1, written=1, batch=1),
    ("cancel", "intake", 64): Cost(2, 11, 22, read=64, update=64, written=64, batch=1),
    ("cancel_running", "rq", 1): Cost(2, 9, 22, read=1, update=1, written=1, batch=1),
    ("cancel_running", "rq", 64): Cost(2, 201, 340, read=64, update=64, written=64, batch=1),
    ("cancel_running", "intake", 1): Cost(2, 9, 20, read=1, update=1, written=1, batch=1),
    ("cancel_running", "intake", 64): Cost(2, 201, 212, read=64, update=64, written=64, batch=1),
    ("revoke", "rq", 1): Cost(3, 12, 25, read=1, create=1, update=1, written=1, batch=1),
    ("revoke", "rq", 64): Cost(3, 204, 343, read=64, create=64, update=64, written=64, batch=1),
    ("revoke", "intake", 1): Cost(3, 12, 23, read=1, create=1, update=1, written=1, batch=1),
    ("revoke", "intake", 64): Cost(3, 204, 215, read=64, create=64, update=64, written=64, batch=1),
    ("sweep", "intake", 0): Cost(14, 18, 21, read=1, find=16),
    ("sweep", "intake", 1): Cost(20, 26, 33, read=1, create=1, update=1, written=1, find=16, batch=1),
    ("sweep", "intake", 64): Cost(20, 29, 36, read=1, create=64, update=64, written=64, find=16, batch=1),
}  # fmt: skip
"""What a worker spends on a batch: the operation, how it came, and how many of it stand in the queue. Or a sweep, of
itself and with so many dead leases.
"""

CLIENT: dict[tuple[Measure, Wire], Share] = {
    (one_claim, "rq"): Share(trips=2, sent=4),
    (one_claim, "intake"): Share(trips=2, sent=3),
    (many_submissions, "rq"): Share(trips=2, sent=67),
    (many_submissions, "intake"): Share(trips=2, sent=3),
    (one_awaited_claim, "rq"): Share(trips=2, sent=4),
    (one_awaited_claim, "intake"): Share(trips=2, sent=3),
    (many_awaited_claims, "rq"): Share(trips=2, sent=67),
    (many_awaited_claims, "intake"): Share(trips=2, sent=3),
}
"""What a client spends: one round trip to send, one to receive, however many requests go together."""


class ReadsTwice(CountingGrouped):
    """A broker that reads everything twice, as far as a store can tell."""

    def read(self, id: str, partition_key: str) -> ReadResult:
        super().read(id, partition_key)
        return super().read(id, partition_key)


class WritesOneByOne(CountingGrouped):
    """A broker that makes a call of each of several updates."""

    def update_each(self, updates: Sequence[Update]) -> list[UpdateResult]:
        call = super().update_each
        return [result for update in updates for result in call([update])]


class TakesNoSeveral(CountingStore):
    """A broker that has lost the way to make them with one call."""


class AsksOnceMore(Shift):
    """A worker that has one more question for Redis in each batch."""

    def settle(self, hand: Hand) -> None:
        self._redis.exists("broker:anything")
        super().settle(hand)


def grown(pinned: Cost | Share, found: Cost | Share) -> str:
    """What is larger than it was, or nothing."""
    before = asdict(pinned)
    more = {name: count for name, count in asdict(found).items() if count > before[name]}
    return ", ".join(f"{name} {before[name]} -> {count}" for name, count in more.items())


def documented() -> dict[tuple[str, int], list[int]]:
    """The numbers of each row of the table, by its operation and how many there are of it."""
    text = TABLE.read_text(encoding="utf-8")
    rows = re.findall(r"^\| (\d+) `(\w+)`[^|]*\|(.*)\|$", text, re.MULTILINE)
    return {(op, int(size)): [int(number) for number in re.findall(r"\d+", cells)] for size, op, cells in rows}


def pinned(op: str, size: int) -> list[int]:
    """The same as the tests know it. A sweep comes by no wire."""
    cost, rq = WORKER[op, "intake", size], WORKER.get((op, "rq", size))
    run = [cost.run] if rq is None else [cost.run, rq.run]
    return [cost.trips, *run, cost.read, cost.create, cost.find, cost.written, cost.update]


def measured(patch: pytest.MonkeyPatch, redis_url: str, row: tuple[str, Wire, int], store: Datastore,
             make_shift: type[Shift] = Shift) -> Cost:  # fmt: skip
    op, wire, size = row
    with rig(patch, redis_url, store, make_shift=make_shift) as worker:
        return worker.cost(op, size, wire=wire)


@pytest.mark.parametrize("row", WORKER, ids=lambda row: "-".join(map(str, row)))
def test_a_batch_costs_a_worker_no_more_than_before(
    monkeypatch: pytest.MonkeyPatch, redis_url: str, row: tuple[str, Wire, int]
) -> None:
    found = measured(monkeypatch, redis_url, row, connect("memory://"))
    assert not grown(WORKER[row], found), f"{row} grew: {grown(WORKER[row], found)}"


@pytest.mark.parametrize("row", CLIENT, ids=lambda row: f"{row[0].__name__}-{row[1]}")
def test_requests_cost_a_client_no_more_than_before(
    monkeypatch: pytest.MonkeyPatch, redis_url: str, row: tuple[Measure, Wire]
) -> None:
    measure, wire = row
    behind = Backstage(redis_url, wire)
    found = measure(monkeypatch, behind)
    behind.close()
    assert not grown(CLIENT[row], found), f"{measure.__doc__} {wire} grew: {grown(CLIENT[row], found)}"


@pytest.mark.parametrize("op", SCENES)
def test_the_document_says_what_is_pinned_of_a_batch(op: str) -> None:
    assert documented()[op, 64] == pinned(op, 64)


def test_what_else_the_document_says_is_pinned_too() -> None:
    rows = documented()
    assert {*rows} - {(op, 64) for op in SCENES} == {("claim", 1), ("sweep", 0)}
    assert {row: pinned(*row) for row in rows} == rows


READ_TWICE = {"claim": (130, 260), "fail": (64, 128), "claim_again": (194, 388), "progress": (128, 256),
              "cancel": (64, 128), "revoke": (64, 128), "sweep": (1, 2)}  # fmt: skip


@pytest.mark.parametrize("op", READ_TWICE)
def test_one_more_read_for_each_is_noticed(monkeypatch: pytest.MonkeyPatch, redis_url: str, op: str) -> None:
    row: tuple[str, Wire, int] = (op, "intake", 64)
    found = measured(monkeypatch, redis_url, row, ReadsTwice(connect("memory://")))
    assert grown(WORKER[row], found) == "read {} -> {}".format(*READ_TWICE[op])


def test_a_sweep_that_writes_in_smaller_groups_is_noticed(monkeypatch: pytest.MonkeyPatch, redis_url: str) -> None:
    monkeypatch.setattr(together, "GROUP", 32)
    row: tuple[str, Wire, int] = ("sweep", "intake", 64)
    found = measured(monkeypatch, redis_url, row, connect("memory://"))
    assert grown(WORKER[row], found) == "batch 1 -> 2"


def test_a_sweep_that_leaves_dead_leases_alone_is_no_measure(monkeypatch: pytest.MonkeyPatch, redis_url: str) -> None:
    monkeypatch.setattr(transitions, "reap", lambda *_, **__: Refuse(Answer(Word.OK)))
    with pytest.raises(AssertionError, match="a lease was left"):
        measured(monkeypatch, redis_url, ("sweep", "intake", 1), connect("memory://"))


@pytest.mark.parametrize("broken", [WritesOneByOne, TakesNoSeveral])
@pytest.mark.parametrize("op", ["claim", "claim_again", "claim_next", "renew_many"])
def test_updates_that_are_no_longer_made_together_are_noticed(
    monkeypatch: pytest.MonkeyPatch, redis_url: str, op: str, broken: type[CountingStore]
) -> None:
    row: tuple[str, Wire, int] = (op, "intake", 64)
    found = measured(monkeypatch, redis_url, row, broken(connect("memory://")))
    assert grown(WORKER[row], found) == "update 1 -> 64"


def test_one_more_question_to_redis_is_noticed(monkeypatch: pytest.MonkeyPatch, redis_url: str) -> None:
    row: tuple[str, Wire, int] = ("claim", "intake", 64)
    found = measured(monkeypatch, redis_url, row, connect("memory://"), AsksOnceMore)
    assert grown(WORKER[row], found) == "trips 2 -> 3, sent 10 -> 11, run 21 -> 22"
