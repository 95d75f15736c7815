"""Progress goes to the run that made it; a watch tells by it which runs are stuck."""

from collections.abc import Callable

import pytest

from broker import coordinator
from broker.answers import Answer, Word
from broker.coordinator import Settlement
from broker.fence import Fence
from broker.runs import read_run
from broker.settlement import raced
from broker.transitions import Rules
from datastore import Datastore
from datastore.interface import Expected, Patch, UpdateResult
from tests.twins.forwarding import Forwarding
from tests.unit.desk import NOW, TTL, Desk


class Meanwhile(Forwarding):
    """Something happens just after one document was written, once."""

    def __init__(self, inner: Datastore, id: str, happens: Callable[[], object]) -> None:
        super().__init__(inner)
        self._id = id
        self._happens = happens

    def update_if_match(self, id: str, partition_key: str, expected: Expected, patch: Patch) -> UpdateResult:
        written = super().update_if_match(id, partition_key, expected, patch)
        if id == self._id:
            self._id = ""
            self._happens()
        return written


@pytest.fixture
def desk() -> Desk:
    return Desk()


def test_progress_goes_to_the_run_of_its_epoch(desk: Desk) -> None:
    desk.submit()
    fence = desk.claim()
    settled = coordinator.report_progress(desk.context, "job", fence, now_ms=NOW + 7, progress={"half": True})
    assert settled == Settlement(Answer(Word.OK, body={"job_id": "job"}))
    assert (desk.run().progress, desk.run().progress_ms) == ({"half": True}, NOW + 7)
    assert desk.job().document.rev == 2
    written = desk.store.read("job:run:1", "job")
    coordinator.report_progress(desk.context, "job", fence, now_ms=NOW + 8, progress={"half": False})
    assert desk.store.read("job:run:1", "job") != written


def test_progress_of_somebody_else_is_refused_and_written_nowhere(desk: Desk) -> None:
    desk.submit()
    desk.claim()
    stranger = Fence("g", 1, "b" * 32, "x")
    assert (
        coordinator.report_progress(desk.context, "job", stranger, now_ms=NOW, progress=1).answer.word == "lease_lost"
    )
    assert read_run(desk.store, "job", 1) is None


def test_a_run_that_is_stuck_is_flagged_by_a_watch_and_unflagged_by_progress(desk: Desk) -> None:
    desk.submit(stuck_after_ms=1_000)
    fence = desk.claim()
    settled = coordinator.watch(desk.context, desk.job(), now_ms=NOW + 1_001)
    assert [change.after.lease and change.after.lease.stuck_ms for change in settled.changes] == [NOW]
    told = coordinator.report_progress(desk.context, "job", fence, now_ms=NOW + 1_002, progress=1)
    assert told.answer == Answer(Word.OK, body={"job_id": "job"})
    assert [change.after.lease and change.after.lease.stuck_ms for change in told.changes] == [None]
    assert coordinator.watch(desk.context, desk.job(), now_ms=NOW + 2_002).changes == (), "its progress counts"
    assert coordinator.watch(desk.context, desk.job(), now_ms=NOW + 2_003).changes != ()


def test_a_watch_of_a_run_that_gets_on_writes_nothing(desk: Desk) -> None:
    desk.submit(stuck_after_ms=1_000)
    fence = desk.claim()
    coordinator.watch(desk.context, desk.job(), now_ms=NOW + 1_000)
    assert read_run(desk.store, "job", 1) is None
    coordinator.report_progress(desk.context, "job", fence, now_ms=NOW + 1_000, progress=1)
    before = desk.job().document, desk.store.read("job:run:1", "job")
    coordinator.watch(desk.context, desk.job(), now_ms=NOW + 2_000)
    assert (desk.job().document, desk.store.read("job:run:1", "job")) == before


def test_progress_of_a_run_that_was_taken_over_takes_no_flag_off_the_one_that_came_after(desk: Desk) -> None:
    desk.submit(stuck_after_ms=1_000)
    fence = desk.claim()
    coordinator.watch(desk.context, desk.job(), now_ms=NOW + 1_001)
    taken_ms = NOW + 2 * TTL

    def taken_over_and_stuck() -> None:
        desk.claim(by="g", now_ms=taken_ms)
        coordinator.watch(desk.context, desk.job(), now_ms=taken_ms + 1_001)

    store = Meanwhile(desk.store, "job:run:1", taken_over_and_stuck)
    coordinator.report_progress(desk.on(store), "job", fence, now_ms=taken_ms + 1_002, progress=1)
    lease = desk.job().lease
    assert lease is not None
    assert (lease.factory_id, lease.stuck_ms) == ("g", taken_ms)


def test_a_watch_that_lost_its_race_changes_nothing(desk: Desk) -> None:
    desk.submit(stuck_after_ms=1_000)
    fence = desk.claim()
    found = desk.job()
    coordinator.renew(desk.context, "job", fence, now_ms=NOW + 1)
    lost = coordinator.watch(desk.context, found, now_ms=NOW + 1_001)
    assert (lost.answer, lost.changes) == (raced("job"), ())


def test_a_stuck_run_is_ended_where_its_job_says_so(desk: Desk) -> None:
    desk.submit(stuck_after_ms=1_000, on_stuck="revoke")
    desk.claim()
    coordinator.watch(desk.context, desk.job(), now_ms=NOW + 1_001)
    assert (desk.job().state, desk.run().outcome) == ("scheduled", "revoked")
    assert NOW + 1_001 <= (desk.job().not_before_ms or 0) < NOW + 1_001 + Rules().backoff_base_ms
