"""What becomes of a conditional write that another came before: who judges again, how often, and who leaves it."""

from collections.abc import Callable

import pytest
from msgspec import structs

from broker import coordinator
from broker.coordinator import Context
from broker.documents import OnParentFailure
from broker.entropy import SeededEntropy
from broker.fence import Fence
from broker.messages import Claim, ClaimBody, Submit, SubmitBody
from broker.repository import read_job
from broker.settle import settle
from broker.settlement import CAS_ATTEMPTS_MAX, CAS_PAUSE_MS, raced
from broker.transitions import Rules
from datastore import Conflict, Expected, Ok, Patch, UpdateResult
from datastore.memory import MemoryDatastore
from tests.twins.forwarding import Forwarding
from tests.unit.test_coordinator import ADDRESS, CLAIM, NOW, Watched, complete, on, sent, touch


@pytest.fixture
def store() -> MemoryDatastore:
    """A store with the job `job`."""
    store = MemoryDatastore()
    assert sent(store, Submit(request_id="s1", body=SubmitBody(job_id="job"), **ADDRESS)).answer.good
    return store


def test_a_lost_race_is_judged_again_on_the_version_that_won(store: MemoryDatastore) -> None:
    watched = Watched(store)
    left = iter([True, True, False])
    watched.before_write = lambda: touch(store) if next(left, False) else None
    assert sent(watched, CLAIM).answer.word == "granted"
    assert len([id for id, _ in watched.updates if id == "job"]) == 3
    assert (read_job(store, "job") or pytest.fail("gone")).priority == 2, "the other's writes stay"


def test_a_race_that_is_lost_four_times_ends_as_a_conflict(store: MemoryDatastore) -> None:
    watched = Watched(store)
    watched.before_write = lambda: touch(store)
    answer = sent(watched, CLAIM).answer
    assert (answer.word, answer.reason, answer.retry) == ("conflict", "raced", "later")
    assert answer.body == {"job_id": "job"}
    assert len(watched.updates) == 4
    assert (read_job(store, "job") or pytest.fail("gone")).epoch == 0


def test_between_tries_it_pauses_a_little_and_by_chance_and_not_after_the_last(store: MemoryDatastore) -> None:
    watched, pauses = Watched(store), list[float]()
    watched.before_write = lambda: touch(store)
    context = Context(watched, Rules(), SeededEntropy(7), pauses.append)
    assert settle(context, CLAIM, now_ms=NOW).answer.reason == "raced"
    assert len(pauses) == CAS_ATTEMPTS_MAX - 1 == 3
    assert all(0 <= pause < CAS_PAUSE_MS for pause in pauses)
    assert len(set(pauses)) == 3


def test_a_race_that_is_lost_for_good_names_who_won(store: MemoryDatastore) -> None:
    watched = Watched(store)
    writes = iter(range(4))

    def rival() -> None:
        if next(writes) < 3:
            touch(store)
        else:
            body = ClaimBody(job_id="job")
            assert sent(store, Claim(request_id="c2", body=body, **{**ADDRESS, "factory_id": "g"})).answer.good

    watched.before_write = rival
    answer = sent(watched, CLAIM).answer
    assert (answer.word, answer.reason, answer.body["holder"]) == ("conflict", "held", "g")
    assert len(watched.updates) == 4


class WrittenOver(Forwarding):
    """The first updates of the job come second; one more lands, is written over, and is answered as a lost race."""

    def __init__(self, inner: MemoryDatastore, over: Callable[[], None]) -> None:
        super().__init__(inner)
        self._over = over
        self._left = CAS_ATTEMPTS_MAX

    def update_if_match(self, id: str, partition_key: str, expected: Expected, patch: Patch) -> UpdateResult:
        if id != "job" or not self._left:
            return super().update_if_match(id, partition_key, expected, patch)
        self._left -= 1
        if self._left:
            touch(self.inner)
            return super().update_if_match(id, partition_key, expected, patch)
        assert isinstance(super().update_if_match(id, partition_key, expected, patch), Ok)
        self._over()
        found = self.read(id, partition_key)
        assert isinstance(found, Ok)
        return Conflict(found.document)


def test_a_last_try_that_landed_and_was_written_over_is_told_as_what_it_did(store: MemoryDatastore) -> None:
    claimed = sent(WrittenOver(store, lambda: touch(store)), CLAIM).answer
    assert (claimed.word, claimed.body["epoch"]) == ("replayed", 1)
    completed = sent(WrittenOver(store, lambda: touch(store)), complete(claimed.body)).answer
    assert (completed.word, completed.body["state"]) == ("replayed", "succeeded")


def test_an_expected_version_that_is_gone_is_not_fought_for(store: MemoryDatastore) -> None:
    job = read_job(store, "job")
    assert job is not None
    watched = Watched(store)
    watched.before_write = lambda: touch(store)
    body = ClaimBody(job_id="job", expected_etag=job.document.etag)
    answer = sent(watched, Claim(request_id="c1", body=body, **ADDRESS)).answer
    assert (answer.word, answer.reason) == ("conflict", "etag_mismatch")
    assert len(watched.updates) == 1


def test_a_holder_is_checked_by_its_own_epoch_however_often_the_job_is_read_again(store: MemoryDatastore) -> None:
    lease = sent(store, CLAIM).answer.body
    watched = Watched(store)

    def taken_over() -> None:
        watched.before_write = lambda: None
        late = NOW + 3_600_000
        assert sent(store, Claim(request_id="c2", body=ClaimBody(job_id="job"), **ADDRESS), now_ms=late).answer.good

    watched.before_write = taken_over
    answer = sent(watched, complete(lease)).answer
    assert (answer.word, answer.reason) == ("lease_lost", "superseded")
    assert (read_job(store, "job") or pytest.fail("gone")).epoch == 2


def test_a_sweep_that_lost_its_race_to_a_renewal_leaves_the_lease_alone(store: MemoryDatastore) -> None:
    lease = sent(store, CLAIM).answer.body
    dead_ms = NOW + lease["ttl_ms"] + 10_000
    found = read_job(store, "job")
    assert found is not None
    fence, context = Fence("f", lease["epoch"], lease["token"], "n1"), on(store)
    assert coordinator.renew(context, "job", fence, now_ms=dead_ms).answer.word == "renewed"
    watched = Watched(store)
    lost = coordinator.reap(structs.replace(context, store=watched), found, now_ms=dead_ms)
    assert (lost.changes, lost.answer.body["holder"], len(watched.updates)) == ((), "f", 1), "tried once"
    after = read_job(store, "job")
    assert after is not None
    assert (after.state, after.epoch, after.counters.expiries) == ("leased", 1, 0)


def test_a_sweep_whose_race_was_lost_leaves_the_job_to_the_next_one(store: MemoryDatastore) -> None:
    lease = sent(store, CLAIM).answer.body
    dead_ms = NOW + lease["ttl_ms"] + 10_000
    found = read_job(store, "job")
    assert found is not None
    touch(store)
    lost = coordinator.reap(on(store), found, now_ms=dead_ms)
    assert (lost.answer, lost.changes) == (raced("job"), ())
    again = read_job(store, "job")
    assert again is not None
    assert [change.after.state for change in coordinator.reap(on(store), again, now_ms=dead_ms).changes] == ["ready"]


@pytest.mark.parametrize(("policy", "becomes"), [("ignore", "ready"), ("cancel", "cancelled")])
def test_of_those_who_look_at_a_child_at_once_not_each_leaves_it_to_the_others(
    store: MemoryDatastore, policy: str, becomes: str
) -> None:
    fields = SubmitBody(job_id="child", depends_on=("job",), on_parent_failure=OnParentFailure(policy))
    assert sent(store, Submit(request_id="s2", body=fields, **ADDRESS)).answer.good
    coordinator.cancel(on(store), "job", request_id="x", by="f", now_ms=NOW)
    watched = Watched(store)
    left = iter([True, True, False])
    watched.before_write = lambda: touch(store) if next(left, False) else None  # another looks at the same parent
    coordinator.unblock(on(watched), "child", now_ms=NOW)
    assert (read_job(store, "child") or pytest.fail("gone")).state == becomes


def test_a_child_whose_parent_others_keep_writing_is_left_as_it_is(store: MemoryDatastore) -> None:
    fields = SubmitBody(job_id="child", depends_on=("job",), on_parent_failure=OnParentFailure.IGNORE)
    assert sent(store, Submit(request_id="s2", body=fields, **ADDRESS)).answer.good
    coordinator.cancel(on(store), "job", request_id="x", by="f", now_ms=NOW)
    watched = Watched(store)
    watched.before_write = lambda: touch(store)
    pauses: list[float] = []
    coordinator.unblock(Context(watched, Rules(), SeededEntropy(7), pauses.append), "child", now_ms=NOW)
    assert (read_job(store, "child") or pytest.fail("gone")).state == "blocked"
    assert len(pauses) == CAS_ATTEMPTS_MAX - 1
    assert all(0 <= pause < CAS_PAUSE_MS for pause in pauses)
    assert [id for id, _ in watched.updates] == ["job"] * CAS_ATTEMPTS_MAX
