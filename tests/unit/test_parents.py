"""Of a blocked job's parents only those are read that decide what becomes of it, whatever others it names."""

import pytest

from broker import coordinator, parents
from broker.documents import State
from broker.parents import Parents
from tests.twins.counts_reads import CountsReads
from tests.twins.stale import ShowsEarlier
from tests.unit.desk import NOW, Desk

POLICIES = ("block", "ignore", "cancel")


@pytest.fixture
def desk() -> Desk:
    return Desk()


def succeed(desk: Desk, *jobs: str) -> None:
    for job in jobs:
        desk.submit(job)
        coordinator.complete(desk.context, job, desk.claim(job), now_ms=NOW)


def lose(desk: Desk, *jobs: str) -> None:
    for job in jobs:
        desk.submit(job)
        coordinator.cancel(desk.context, job, request_id=f"c-{job}", by="f", now_ms=NOW)


def submit(desk: Desk, job: str, *parents: str, policy: str = "block") -> None:
    desk.submit(job, depends_on=list(parents), on_parent_failure=policy)


def test_who_wants_to_see_parents_is_shown_all_that_there_are(desk: Desk) -> None:
    desk.submit("live")
    lose(desk, "lost")
    submit(desk, "child", "none", "live", "lost")
    assert parents.all_states(desk.context, desk.job("child")) == {"live": State.READY, "lost": State.CANCELLED}


@pytest.mark.parametrize(("policy", "read"), [("block", 2), ("ignore", 2), ("cancel", 4)])
def test_no_parent_is_read_behind_one_that_is_waited_for_unless_a_lost_one_would_count(
    desk: Desk, policy: str, read: int
) -> None:
    succeed(desk, "done")
    desk.submit("live")
    submit(desk, "child", "done", "live", "none", "never", policy=policy)
    store = CountsReads(desk.store)
    assert coordinator.unblock(desk.on(store), "child", now_ms=NOW).changes == ()
    del store.reads["child"]
    assert list(store.reads) == ["done", "live", "none", "never"][:read]
    assert store.reads.total() == read


@pytest.mark.parametrize(("policy", "becomes"), [("block", "blocked"), ("ignore", "blocked"), ("cancel", "cancelled")])
def test_a_lost_parent_behind_one_that_lives_cancels_a_job_that_says_so(desk: Desk, policy: str, becomes: str) -> None:
    desk.submit("live")
    lose(desk, "lost", "another")
    submit(desk, "child", "live", "lost", "another", policy=policy)
    store = CountsReads(desk.store)
    context, job = desk.on(store), desk.job("child")
    assert coordinator.waits_no_more(context, job, now_ms=NOW) == (becomes == "cancelled")
    coordinator.unblock(context, "child", now_ms=NOW)
    assert desk.job("child").state == becomes
    assert store.reads["another"] == 0


@pytest.mark.parametrize("policy", POLICIES)
def test_who_looks_at_a_job_for_a_parent_that_has_ended_begins_with_that_one_and_stops_at_the_next_that_lives(
    desk: Desk, policy: str
) -> None:
    succeed(desk, "ended")
    others = [f"live-{number}" for number in range(9)]
    for other in others:
        desk.submit(other)
    submit(desk, "child", *others, "ended", policy=policy)
    store = CountsReads(desk.store)
    ended = ("ended", "of another job")
    assert not coordinator.waits_no_more(desk.on(store), desk.job("child"), now_ms=NOW, ended=ended)
    assert dict(store.reads) == {"ended": 1, "live-0": 1}


@pytest.mark.parametrize(("policy", "becomes"), [("block", "blocked"), ("ignore", "blocked"), ("cancel", "cancelled")])
def test_such_a_parent_that_was_lost_cancels_the_job_without_a_look_at_others(
    desk: Desk, policy: str, becomes: str
) -> None:
    desk.submit("live")
    lose(desk, "ended")
    submit(desk, "child", "live", "ended", policy=policy)
    store = CountsReads(desk.store)
    coordinator.unblock(desk.on(store), "child", now_ms=NOW, ended=("ended",))
    assert desk.job("child").state == becomes
    assert (store.reads["live"] == 0) == (policy != "ignore")


def test_siblings_share_what_was_read_of_their_parents(desk: Desk) -> None:
    succeed(desk, "done")
    desk.submit("live")
    for number in range(5):
        submit(desk, f"child-{number}", "done", "live", "none")
    store, known = CountsReads(desk.store), Parents()
    for number in range(5):
        assert not coordinator.waits_no_more(desk.on(store), desk.job(f"child-{number}"), now_ms=NOW, known=known)
    assert (dict(store.reads), known.reads) == ({"done": 1, "live": 1}, 2)
    known.forget("live")
    coordinator.waits_no_more(desk.on(store), desk.job("child-0"), now_ms=NOW, known=known)
    assert (dict(store.reads), known.reads) == ({"done": 1, "live": 2}, 3)


@pytest.mark.parametrize("policy", ["ignore", "cancel"])
def test_what_was_read_of_a_parent_that_was_redriven_since_neither_frees_nor_ends_a_job(
    desk: Desk, policy: str
) -> None:
    lose(desk, "parent")
    submit(desk, "child", "parent", policy=policy)
    known = Parents()
    assert coordinator.waits_no_more(desk.context, desk.job("child"), now_ms=NOW, known=known)
    coordinator.redrive(desk.context, "parent", request_id="r", by="f", now_ms=NOW)
    assert coordinator.unblock(desk.context, "child", now_ms=NOW, known=known).changes == ()
    assert not coordinator.waits_no_more(desk.context, desk.job("child"), now_ms=NOW, known=known), "it is known by now"


def test_behind_a_parent_that_was_redriven_another_lost_one_is_looked_for(desk: Desk) -> None:
    lose(desk, "redriven", "lost")
    submit(desk, "child", "redriven", "lost", policy="cancel")
    was = desk.store.read("redriven", "redriven")
    coordinator.redrive(desk.context, "redriven", request_id="r", by="f", now_ms=NOW)
    behind = ShowsEarlier(desk.store, "redriven", was, times=2)
    [change] = coordinator.unblock(desk.on(behind), "child", now_ms=NOW).changes
    assert change.after.why == "its parent lost was cancelled"


def test_nothing_is_written_on_lost_parents_of_a_job_that_waits_for_another_one(desk: Desk) -> None:
    lose(desk, "lost", "another")
    desk.submit("live")
    submit(desk, "child", "lost", "another", "live", policy="ignore")
    before = [desk.job(parent).document.rev for parent in ("lost", "another")]
    coordinator.unblock(desk.context, "child", now_ms=NOW)
    assert [desk.job(parent).document.rev for parent in ("lost", "another")] == before
    coordinator.complete(desk.context, "live", desk.claim("live"), now_ms=NOW)
    coordinator.unblock(desk.context, "child", now_ms=NOW)
    assert [desk.job(parent).document.rev for parent in ("lost", "another")] == [rev + 1 for rev in before]
    assert desk.job("child").state == "ready"


def test_where_one_of_several_lost_parents_was_redriven_the_job_waits_for_it(desk: Desk) -> None:
    lose(desk, "lost", "redriven", "another")
    submit(desk, "child", "lost", "redriven", "another", policy="ignore")
    was = desk.store.read("redriven", "redriven")
    coordinator.redrive(desk.context, "redriven", request_id="r", by="f", now_ms=NOW)
    behind = ShowsEarlier(desk.store, "redriven", was, times=2)
    assert coordinator.unblock(desk.on(behind), "child", now_ms=NOW).changes == ()
    assert desk.job("child").state == "blocked"
