"""A claim between its slots and its job: what stands, what is given back, what is undone if another comes between."""

from collections.abc import Callable
from typing import Any

import pytest
from msgspec import structs

from broker import claiming, coordinator
from broker.answers import Word
from broker.claiming import PUT_OFF_MS, now_free, try_claim_job
from broker.coordinator import Settlement
from broker.exclusion import Slots
from broker.limits import limit_key
from broker.quotas import holders_of, rate_id
from broker.settlement import Wait, raced
from broker.shared_document import read_body
from broker.slot_work import SlotWork
from broker.slots import CONFIRM_WITHIN_MS, slot_id
from broker.transitions import Claimant
from datastore import Corrupt, Datastore, DatastoreError, Expected, OutcomeUnknown, Rejected, Unavailable
from datastore.confirm import WRITE_ID
from datastore.interface import Body, CreateResult, Patch, UpdateResult
from tests.twins.forwarding import Forwarding
from tests.unit.desk import NOW, TTL, Desk

LOCK = "repo:web"
WHO = Claimant("f", "start-1", "c1", "a" * 32)
RIVAL = Claimant("g", "start-1", "c2", "b" * 32)


class Between(Forwarding):
    """Runs `meanwhile` before the next write of one document, once."""

    def __init__(self, inner: Datastore, id: str, meanwhile: Callable[[], object]) -> None:
        super().__init__(inner)
        self._id = id
        self._meanwhile: Callable[[], object] | None = meanwhile

    def update_if_match(self, id: str, partition_key: str, expected: Expected, patch: Patch) -> UpdateResult:
        if id == self._id and (meanwhile := self._meanwhile) is not None:
            self._meanwhile = None
            meanwhile()
        return super().update_if_match(id, partition_key, expected, patch)

    def then(self, meanwhile: Callable[[], object]) -> None:
        """And this before the one after that."""
        self._meanwhile = meanwhile


@pytest.fixture
def desk() -> Desk:
    return Desk()


def claim(desk: Desk, job: str, who: Claimant = WHO, *, on: Datastore | None = None, now_ms: int = NOW) -> Settlement:
    return try_claim_job(desk.context if on is None else desk.on(on), job, who, now_ms=now_ms)


def holders(desk: Desk, key: str = LOCK) -> list[tuple[str, int, str, bool]]:
    """Who is in a slot: job, epoch, request, and whether the entry is confirmed."""
    body = read_body(desk.store, slot_id(key))
    entries = [] if body is None else body["holders"]
    return [(each["job_id"], each["epoch"], each["request_id"], each["confirmed"]) for each in entries]


def empty_slot(desk: Desk, key: str = LOCK) -> None:
    """As if another claimer had taken for dead whoever is in it."""
    [document] = [each for each in desk.store.find({"kind": "slot"}).documents if each.id == slot_id(key)]
    desk.store.update_if_match(document.id, document.partition_key, Expected(rev=document.rev), {"holders": []})


# Two at once.


def test_of_two_copies_of_one_claim_the_slower_leaves_the_lock_to_the_grant_of_both(desk: Desk) -> None:
    desk.submit(locks=[LOCK])
    answers = []
    slow = Between(desk.store, "job", lambda: answers.append(claim(desk, "job").answer))
    answers.append(claim(desk, "job", on=slow).answer)
    assert [answer.word for answer in answers] == [Word.GRANTED, Word.REPLAYED]
    assert [answer.body["token"] for answer in answers] == [WHO.token] * 2
    assert holders(desk) == [("job", 1, "c1", True)]
    desk.submit("other", locks=[LOCK])
    assert claim(desk, "other", RIVAL).answer.reason == "lock_busy"


def test_a_slower_copy_that_took_the_others_grant_for_a_rivals_would_give_its_lock_away(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The broken twin of the test above."""
    monkeypatch.setattr(claiming, "_is_ours", lambda _update, _who: False)
    monkeypatch.setattr(Slots, "step_back", Slots.give_back)
    desk.submit(locks=[LOCK])
    slow = Between(desk.store, "job", lambda: claim(desk, "job"))
    claim(desk, "job", on=slow)
    assert holders(desk) == []


def test_a_claim_that_loses_its_job_to_a_rival_gives_back_its_own_lock_and_start_and_no_more(desk: Desk) -> None:
    desk.ask("set_limit", limit="queue:default", rate={"count": 5, "per_ms": 60_000})
    desk.submit(locks=[LOCK])
    slow = Between(desk.store, "job", lambda: claim(desk, "job", RIVAL, now_ms=NOW + 1))
    lost = claim(desk, "job", on=slow).answer
    assert (lost.word, lost.reason) == ("conflict", "held")
    assert holders(desk) == [("job", 1, "c2", True)]
    assert (read_body(desk.store, rate_id("queue:default")) or {})["moments"] == [NOW + 1]


def test_a_claim_that_a_rate_refuses_gives_back_its_lock(desk: Desk) -> None:
    desk.ask("set_limit", limit="queue:default", rate={"count": 1, "per_ms": 60_000})
    desk.submit("one")
    desk.submit("two", locks=[LOCK])
    desk.claim("one")
    refused = claim(desk, "two", RIVAL, now_ms=NOW + 5)
    assert refused.answer.reason == "quota"
    assert refused.answer.retry_after_ms == 59_995
    assert holders(desk) == []
    assert refused.waits == (Wait(limit_key("queue:default"), None, NOW + 60_000),)


def test_a_job_gone_before_its_claim_is_written_leaves_no_lock_behind(desk: Desk) -> None:
    desk.submit(locks=[LOCK])

    class Gone(Forwarding):
        def update_if_match(self, id: str, partition_key: str, expected: Expected, patch: Patch) -> UpdateResult:
            name = "nothing" if id == "job" else id
            return super().update_if_match(name, partition_key, expected, patch)

    answer = claim(desk, "job", on=Gone(desk.store)).answer
    assert (answer.word, answer.body) == ("not_found", {"job_id": "job"})
    assert holders(desk) == []


# The confirmation.


def test_a_winner_whose_lock_was_taken_out_before_it_confirmed_undoes_its_claim(desk: Desk) -> None:
    desk.submit(locks=[LOCK])
    late = Between(desk.store, "job", lambda: empty_slot(desk))
    told = claim(desk, "job", on=late, now_ms=NOW + 7)
    assert (told.answer.word, told.answer.reason, told.answer.body) == ("conflict", "raced", {"job_id": "job"})
    job = desk.job()
    assert (job.state, job.epoch, job.lease, job.document.body["updated_ms"]) == ("ready", 1, None, NOW + 7)
    assert job.last_end is not None
    assert (job.last_end.outcome, job.last_end.ended_ms) == ("released", NOW + 7)
    assert holders(desk) == []
    assert claim(desk, "job", RIVAL).answer.body["epoch"] == 2, "the epoch stays used"


def test_the_other_locks_of_a_claim_that_is_undone_are_given_back(desk: Desk) -> None:
    desk.submit(locks=["a", "b", "c"])
    told = claim(desk, "job", on=Between(desk.store, "job", lambda: empty_slot(desk, "b")))
    assert told.answer.reason == "raced"
    assert [holders(desk, key) for key in "abc"] == [[], [], []]


def test_a_claim_that_can_not_be_confirmed_now_is_unknown_and_the_same_request_gets_it(desk: Desk) -> None:
    desk.submit(locks=[LOCK])

    class Down(Forwarding):
        written = False

        def update_if_match(self, id: str, partition_key: str, expected: Expected, patch: Patch) -> UpdateResult:
            if self.written:
                raise Unavailable("scripted")
            self.written = id == "job"
            return super().update_if_match(id, partition_key, expected, patch)

    context = desk.context
    desk.context = desk.on(Down(desk.store))
    asked: dict[str, Any] = {"by": "f", "job_id": "job"}
    assert desk.ask("claim", **asked).answer.word == "outcome_unknown"
    desk.context, desk._requests = context, desk._requests - 1
    assert holders(desk) == [("job", 1, "r2", False)]
    assert desk.ask("claim", **asked).answer.word == "replayed"
    assert holders(desk) == [("job", 1, "r2", True)]


def test_a_replayed_grant_that_has_lost_its_lock_is_undone_and_not_told(desk: Desk) -> None:
    desk.submit(locks=[LOCK])
    assert claim(desk, "job").answer.word == "granted"
    empty_slot(desk)
    again = claim(desk, "job", now_ms=NOW + 9)
    assert again.answer == raced("job")
    assert [change.after.id for change in again.changes] == ["job"], "its hints are moved again"
    assert (desk.job().state, desk.job().epoch) == ("ready", 1)


def test_a_replayed_grant_that_has_lost_its_unit_is_undone_and_not_told(desk: Desk) -> None:
    desk.ask("set_limit", limit="queue:default", capacity=1)
    desk.submit()
    granted = claim(desk, "job").answer
    assert [holder.job_id for holder in holders_of(desk.store, "queue:default")] == ["job"]
    again = claim(desk, "job").answer
    assert (again.word, again.body["token"]) == ("replayed", granted.body["token"])
    empty_slot(desk, limit_key("queue:default"))
    assert claim(desk, "job").answer.reason == "raced"
    assert desk.job().lease is None


def test_without_a_look_at_its_slots_a_replayed_grant_would_stand_beside_another(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The broken twin of the tests above."""
    monkeypatch.setattr(Slots, "confirm", lambda _slots: True)
    for job in ("job", "other"):
        desk.submit(job, locks=[LOCK])
    claim(desk, "job")
    empty_slot(desk)
    assert claim(desk, "other", RIVAL).answer.word == "granted"
    assert claim(desk, "job").answer.word == "replayed"


# What is given back, and what is marked.


def test_a_lease_that_ends_gives_back_its_locks_and_units_and_no_others(desk: Desk) -> None:
    desk.ask("set_limit", limit="queue:default", capacity=5)
    desk.ask("set_limit", limit="factory:f", capacity=5)
    desk.submit(locks=[LOCK])
    desk.submit("other", locks=["repo:api"])
    claim(desk, "job")
    claim(desk, "other", RIVAL)
    desk.ask("release", job_id="job", epoch=1, token=WHO.token)
    assert holders(desk) == []
    assert holders(desk, "repo:api") == [("other", 1, "c2", True)]
    assert holders(desk, limit_key("factory:f")) == []
    assert holders(desk, limit_key("queue:default")) == [("other", 1, "c2", True)]


def test_a_takeover_moves_the_locks_and_units_to_the_new_lease(desk: Desk) -> None:
    desk.ask("set_limit", limit="factory:f", capacity=1)
    desk.submit(locks=[LOCK])
    claim(desk, "job")
    assert claim(desk, "job", RIVAL, now_ms=NOW + 2 * TTL).answer.body["epoch"] == 2
    assert holders(desk) == [("job", 2, "c2", True)]
    assert holders(desk, limit_key("factory:f")) == []


def test_a_dead_lease_at_its_cap_ends_the_job_and_frees_its_lock(desk: Desk) -> None:
    desk.submit(locks=[LOCK], max_expiries=1)
    claim(desk, "job")
    assert claim(desk, "job", RIVAL, now_ms=NOW + 2 * TTL).answer.reason == "terminal"
    assert (desk.job().state, desk.job().epoch) == ("failed", 1)
    assert holders(desk) == []


def test_a_factory_at_its_limit_is_refused_and_another_is_not(desk: Desk) -> None:
    desk.ask("set_limit", limit="factory:f", capacity=1)
    for job in ("job", "other"):
        desk.submit(job)
    claim(desk, "job")
    assert claim(desk, "other").answer.reason == "quota"
    assert claim(desk, "other", RIVAL).answer.word == "granted"


def test_of_one_batch_the_second_claim_a_rate_refuses_is_told_the_same_without_a_look(desk: Desk) -> None:
    desk.ask("set_limit", limit="queue:default", rate={"count": 1, "per_ms": 60_000})
    for job in ("one", "two", "three"):
        desk.submit(job)
    claim(desk, "one")
    batch = desk.with_controls()
    refused = [try_claim_job(batch, job, RIVAL, now_ms=NOW + 5) for job in ("two", "three")]
    assert [each.answer.retry_after_ms for each in refused] == [59_995] * 2
    assert [each.answer.body["job_id"] for each in refused] == ["two", "three"]
    assert refused[0].waits == refused[1].waits


def test_every_write_of_a_job_and_its_run_carries_a_mark_of_its_own(desk: Desk) -> None:
    marks: list[object] = []

    class Marked(Forwarding):
        def create(self, id: str, partition_key: str, body: Body) -> CreateResult:
            marks.append(body.get(WRITE_ID))
            return super().create(id, partition_key, body)

        def update_if_match(self, id: str, partition_key: str, expected: Expected, patch: Patch) -> UpdateResult:
            marks.append(patch.get(WRITE_ID))
            return super().update_if_match(id, partition_key, expected, patch)

    desk.submit(locks=[LOCK], stuck_after_ms=1_000)
    store = desk.store
    marked = Marked(store)
    desk.context = desk.on(marked)
    fence = desk.claim()
    who = Claimant("f", "start-1", f"r{desk._requests}", fence.token)
    assert claim(desk, "job", who).answer.word == "replayed"
    coordinator.renew(desk.context, "job", fence, now_ms=NOW + 1)
    coordinator.watch(desk.context, desk.job(), now_ms=NOW + 2_000)
    coordinator.report_progress(desk.context, "job", fence, now_ms=NOW + 2_001, progress=1)
    desk.claim(by="g", now_ms=NOW + 2 * TTL)
    desk.ask("revoke", job_id="job")
    desk.submit("late", run_timeout_ms=1, max_failures=1)
    coordinator.renew(desk.context, "late", desk.claim("late"), now_ms=NOW + 2)
    marked.inner = Between(store, "job", lambda: empty_slot(desk))
    assert claim(desk, "job", now_ms=NOW + 2 * TTL).answer.reason == "raced"
    desk.ask("cancel", job_id="job")
    desk.submit("child", depends_on=["job"], on_parent_failure="ignore")
    coordinator.unblock(desk.context, "child", now_ms=NOW)
    desk.ask("redrive", job_id="job")
    assert len(marks) > 20, "the schedule wrote too little: it tests nothing"
    assert all(isinstance(mark, str) and mark for mark in marks)
    assert len(set(marks)) == len(marks)


def test_a_grant_tells_what_its_slots_have_left_to_those_that_stand_aside(desk: Desk) -> None:
    for limit in ("key:db", "queue:default"):
        desk.ask("set_limit", limit=limit, capacity=3)
    desk.ask("set_limit", limit="key:web", capacity=2, rate={"count": 9, "per_ms": 60_000})
    for job in ("one", "two", "three"):
        desk.submit(job, concurrency=["db", "web"] if job == "one" else ["db"])
    room = [[(each.key, each.count) for each in claim(desk, job).changes[0].room] for job in ("one", "two", "three")]
    key = limit_key("key:db")
    assert room == [[(key, 2)], [(key, 1)], []]


def test_a_claim_is_put_off_untried_once_its_batch_has_done_so_much_for_slots(desk: Desk) -> None:
    desk.submit(locks=[LOCK])
    spent = structs.replace(desk.with_controls(), slot_work=SlotWork(at_most=0))
    told = try_claim_job(spent, "job", WHO, now_ms=NOW)
    assert (told.answer.word, told.answer.reason) == ("throttled", "overloaded")
    assert PUT_OFF_MS <= (told.answer.retry_after_ms or 0) < 2 * PUT_OFF_MS
    assert [change.after.state for change in told.changes] == ["ready"], "it is offered again"
    assert holders(desk) == []


# What a refusal tells, and when it is over.


def test_a_busy_lock_is_told_with_who_holds_it(desk: Desk) -> None:
    for job in ("job", "other"):
        desk.submit(job, locks=[LOCK])
    claim(desk, "job")
    body = claim(desk, "other", RIVAL).answer.body
    holder = {"job_id": "job", "epoch": 1, "mode": "exclusive", "factory_id": "f"}
    assert body["job_id"] == "other"
    assert body["obstacles"] == [{"reason": "lock_busy", "key": LOCK, "holders": [holder]}]


def test_of_the_slots_that_are_waited_for_every_one_that_came_free_is_named(desk: Desk) -> None:
    for key in ("a", "b", "c"):
        desk.submit(f"holds-{key}", locks=[key])
        desk.submit(f"waits-{key}", locks=[key])
    fences = {key: desk.claim(f"holds-{key}") for key in ("a", "b", "c")}
    waits = [wait for key in ("a", "b", "c") for wait in claim(desk, f"waits-{key}", RIVAL).waits]
    assert [(wait.key, wait.job and wait.job.id) for wait in waits] == [(key, f"waits-{key}") for key in "abc"]
    assert now_free(desk.context, waits, now_ms=NOW) == []
    for key in ("a", "c"):
        desk.ask("release", job_id=f"holds-{key}", epoch=1, token=fences[key].token)
    assert [wait.key for wait in now_free(desk.context, iter(waits), now_ms=NOW)] == ["a", "c"]


def test_a_rate_is_waited_for_until_its_window_has_moved_on(desk: Desk) -> None:
    desk.ask("set_limit", limit="queue:default", rate={"count": 1, "per_ms": 60_000})
    for job in ("one", "two"):
        desk.submit(job)
    claim(desk, "one")
    [wait] = claim(desk, "two", RIVAL).waits
    assert now_free(desk.context, [wait], now_ms=NOW + 59_999) == []
    assert now_free(desk.context, [wait], now_ms=NOW + 60_000) == [wait]


def test_a_lock_whose_claim_was_never_written_is_free_once_that_claim_must_be_over(desk: Desk) -> None:
    for job in ("job", "other"):
        desk.submit(job, locks=[LOCK])
    dying = Slots.of(desk.store, desk.context.entropy, desk.job(), epoch=1, request_id="dying")
    assert dying.take(now_ms=NOW) is None
    waits = claim(desk, "other").waits
    assert now_free(desk.context, waits, now_ms=NOW + CONFIRM_WITHIN_MS) == []
    assert now_free(desk.context, waits, now_ms=NOW + CONFIRM_WITHIN_MS + 1) == list(waits)


def test_a_unit_is_waited_for_until_its_lease_has_ended_however_late_that_is(desk: Desk) -> None:
    desk.ask("set_limit", limit="key:gpu", capacity=1)
    for job in ("job", "other"):
        desk.submit(job, concurrency=["gpu"])
    claim(desk, "job")
    [wait] = claim(desk, "other", RIVAL).waits
    assert wait.key == limit_key("key:gpu")
    assert wait.job is not None, "a job at a key's limit stands aside"
    assert wait.job.id == "other"
    assert now_free(desk.context, [wait], now_ms=NOW + 3 * TTL) == []
    desk.ask("release", job_id="job", epoch=1, token=WHO.token)
    assert now_free(desk.context, [wait], now_ms=NOW) == [wait]


class RefusesToConfirm(Forwarding):
    """A slot can be taken, and not confirmed."""

    def __init__(self, inner: Datastore, error: DatastoreError) -> None:
        super().__init__(inner)
        self._error = error

    def update_if_match(self, id: str, partition_key: str, expected: Expected, patch: Patch) -> UpdateResult:
        holders: Any = patch.get("holders", ())
        if any(holder["confirmed"] for holder in holders):
            raise self._error
        return super().update_if_match(id, partition_key, expected, patch)


@pytest.mark.parametrize("error", [Unavailable("503"), Rejected("403"), Corrupt("a slot that is none")])
def test_a_grant_whose_lock_cannot_be_confirmed_now_is_unknown_and_neither_refused_nor_told(
    error: DatastoreError,
) -> None:
    desk = Desk()
    desk.submit(locks=["repo"])
    who = Claimant(factory_id="f", incarnation="s", request_id="r", token="t" * 32)
    with pytest.raises(OutcomeUnknown):
        coordinator.try_claim_job(desk.on(RefusesToConfirm(desk.store, error)), "job", who, now_ms=NOW)
    assert coordinator.try_claim_job(desk.context, "job", who, now_ms=NOW).answer.word == "replayed"
