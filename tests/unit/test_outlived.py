"""Leases of starts that are over, and of nobody else, are ended."""

import pytest

from broker import coordinator, transitions
from broker.controls import FactoryRecord
from broker.documents import Job
from broker.transitions import Decision
from tests.unit.desk import NOW, Desk


@pytest.fixture
def desk() -> Desk:
    return Desk()


def test_a_lease_of_a_start_that_is_over_is_ended_on_whatever_version_the_job_is(desk: Desk) -> None:
    desk.submit()
    fence = desk.claim()
    found = desk.job()
    coordinator.renew(desk.context, "job", fence, now_ms=NOW + 1)
    assert coordinator.outlive(desk.context, found, "f", FactoryRecord(), now_ms=NOW + 2).changes == ()
    settled = coordinator.outlive(desk.context, found, "f", OVER, now_ms=NOW + 2)
    assert [change.after.state for change in settled.changes] == ["ready"]
    assert (desk.job().counters.expiries, desk.run().ended_ms) == (1, NOW + 2)


def found_before_it_changed_hands(desk: Desk) -> Job:
    """A job as a search showed it, leased to `f`; by now `f` has released it, and `g` was granted it."""
    desk.submit()
    fence = desk.claim()
    found = desk.job()
    assert coordinator.release(desk.context, "job", fence, now_ms=NOW).answer.good
    desk.claim(by="g")
    return found


OVER = FactoryRecord(incarnation="start-2", since_ms=NOW, replaced=("start-1",))


def test_a_start_that_is_over_does_not_take_another_factorys_lease_with_it(desk: Desk) -> None:
    found = found_before_it_changed_hands(desk)
    assert coordinator.outlive(desk.context, found, "f", OVER, now_ms=NOW + 1).changes == ()
    assert coordinator.outlive(desk.context, desk.job(), "f", OVER, now_ms=NOW + 1).changes == ()
    lease = desk.job().lease
    assert lease is not None
    assert (lease.factory_id, lease.epoch) == ("g", 2)


def test_where_it_is_not_asked_whose_lease_that_is_it_does(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    def anybodys(job: Job, _factory_id: str, factory: FactoryRecord, *, now_ms: int) -> Decision:
        assert job.lease is not None
        return outlive(job, job.lease.factory_id, factory, now_ms=now_ms)

    outlive = transitions.outlive
    monkeypatch.setattr(transitions, "outlive", anybodys)
    coordinator.outlive(desk.context, found_before_it_changed_hands(desk), "f", OVER, now_ms=NOW + 1)
    assert desk.job().lease is None
