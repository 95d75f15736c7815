"""A claim is judged while it is in time, and written later: what has passed its deadline by then is not granted."""

import pytest
from msgspec import structs

from broker import repository
from broker.answers import Word
from broker.claiming import try_claim_job
from broker.clock import ManualClock
from broker.coordinator import Settlement
from broker.messages import REQUESTS
from broker.quotas import rate_id
from broker.settle import settle
from broker.shared_document import read_body
from tests.unit.desk import NOW, TTL, Desk
from tests.unit.test_claiming import LOCK, WHO, Between, holders


@pytest.fixture
def desk() -> Desk:
    return Desk()


LOCKS = pytest.mark.parametrize("locks", [[], [LOCK]], ids=["without locks", "with a lock"])


@LOCKS
def test_a_claim_that_loses_a_race_is_not_granted_after_its_deadline_for_having_been_judged_before(
    desk: Desk, locks: list[str]
) -> None:
    late = raced_past_its_deadline(desk, locks, clock=ManualClock(NOW))
    assert (late.answer.word, late.answer.reason, late.answer.body) == ("request_expired", None, {"deadline_ms": NOW})
    assert [(change.before, change.after.state) for change in late.changes] == [(desk.job(), "ready")], "offered again"
    assert desk.job().epoch == 0
    assert holders(desk) == []


@LOCKS
def test_judged_by_the_time_it_began_with_it_would_be(desk: Desk, locks: list[str]) -> None:
    # The twin of the test above.
    assert raced_past_its_deadline(desk, locks, clock=None).answer.word is Word.GRANTED


def raced_past_its_deadline(desk: Desk, locks: list[str], *, clock: ManualClock | None) -> Settlement:
    """A claim at its deadline, whose first write fails since another comes first; by the second it is late."""
    desk.submit(locks=locks)

    def meanwhile() -> None:
        assert repository.stands(desk.store, desk.job(), write_id="another")
        if clock is not None:
            clock.advance(1)

    context = structs.replace(desk.on(Between(desk.store, "job", meanwhile)), clock=clock)
    return try_claim_job(context, "job", structs.replace(WHO, deadline_ms=NOW), now_ms=NOW)


def test_a_claim_that_is_late_once_it_has_its_slots_gives_back_lock_and_start(desk: Desk) -> None:
    desk.ask("set_limit", limit="queue:default", rate={"count": 5, "per_ms": 60_000})
    desk.submit(locks=[LOCK])
    clock = ManualClock(NOW + 1)
    context = structs.replace(desk.context, clock=clock)
    late = try_claim_job(context, "job", structs.replace(WHO, deadline_ms=NOW), now_ms=NOW)
    assert late.answer.word is Word.REQUEST_EXPIRED
    assert holders(desk) == []
    assert (read_body(desk.store, rate_id("queue:default")) or {})["moments"] == []


def test_a_grant_that_stands_is_told_again_after_the_deadline(desk: Desk) -> None:
    desk.submit()
    who = structs.replace(WHO, deadline_ms=NOW)
    context = structs.replace(desk.context, clock=ManualClock(NOW + 1))
    assert try_claim_job(desk.context, "job", who, now_ms=NOW).answer.word is Word.GRANTED
    assert try_claim_job(context, "job", who, now_ms=NOW).answer.word is Word.REPLAYED


def test_a_grant_that_is_told_again_promises_what_is_left_and_is_known_to_have_a_reader(desk: Desk) -> None:
    desk.submit()
    address = {"request_id": "r", "factory_id": "f", "incarnation": "start-1", "instance": "x"}
    request = REQUESTS.validate_python({"op": "claim", **address, "body": {"job_id": "job"}})
    told = [settle(desk.context, request, now_ms=NOW + later).answer for later in (0, TTL - 1, TTL + 1)]
    assert [answer.word for answer in told] == [Word.GRANTED, Word.REPLAYED, Word.REPLAYED]
    assert [answer.body["remaining_ms"] for answer in told] == [TTL, 1, 0]
    lease = desk.job().lease
    assert lease is not None
    assert lease.asked_again
