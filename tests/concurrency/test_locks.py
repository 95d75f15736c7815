"""Locks are exclusive under contention, end with their lease, and never block for ever."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from threading import Barrier
from typing import Any

import msgspec
import pytest

from broker import coordinator, exclusion
from broker.answers import Reason, Word
from broker.coordinator import Context, Settlement
from broker.entropy import SystemEntropy
from broker.exclusion import Slots
from broker.fence import Fence
from broker.messages import Submit, SubmitBody
from broker.repository import read_job
from broker.slots import Holder, Slot, confirmed, entries, slot_id, with_entry
from broker.submission import submit
from broker.transitions import Claimant, Rules
from datastore import Datastore, Expected, Ok, Patch, ReadResult, UpdateResult
from tests.concurrency.race import runs_of
from tests.twins.forwarding import Forwarding

NOW_MS = 1_700_000_000_000
RULES = Rules(ttl_ms=10_000, skew_ms=1_000)


@pytest.fixture
def context(store: Datastore) -> Context:
    return Context(store, RULES, SystemEntropy(), lambda _ms: None)


def add_job(context: Context, job_id: str, *locks: str) -> None:
    body = SubmitBody(job_id=job_id, locks=locks)
    request = Submit(request_id=f"s-{job_id}", factory_id="f", incarnation="i", instance="x", body=body)
    assert submit(context, request, now_ms=NOW_MS).answer.word is Word.OK


def claim(context: Context, job_id: str, *, now_ms: int = NOW_MS, request_id: str | None = None) -> Settlement:
    request_id = request_id or f"c-{job_id}-{now_ms}"
    who = Claimant(factory_id="f", incarnation="i", request_id=request_id, token=context.entropy.token())
    return coordinator.try_claim_job(context, job_id, who, now_ms=now_ms)


def complete(context: Context, grant: Settlement) -> Settlement:
    body = grant.answer.body
    fence = Fence(factory_id="f", epoch=body["epoch"], token=body["token"], request_id=f"k-{body['job_id']}")
    return coordinator.complete(context, body["job_id"], fence, now_ms=NOW_MS + 1)


def at_once(calls: Sequence[Callable[[], Settlement]]) -> list[Settlement]:
    barrier = Barrier(len(calls))

    def run(call: Callable[[], Settlement]) -> Settlement:
        barrier.wait()
        return call()

    with ThreadPoolExecutor(len(calls)) as pool:
        return list(pool.map(run, calls))


@pytest.mark.parametrize("round_number", range(5))
def test_of_many_jobs_with_one_lock_never_two_are_held_at_once(context: Context, round_number: int) -> None:
    jobs = [f"job-{round_number}-{number}" for number in range(24)]
    for job in jobs:
        add_job(context, job, "common-plat")
    settled = at_once([partial(claim, context, job) for job in jobs])
    granted = [each for each in settled if each.answer.word is Word.GRANTED]
    held = [job for job in jobs if (found := read_job(context.store, job)) and found.lease]
    assert len(granted) <= 1
    assert len(held) == len(granted)
    # Whoever lost may have met an entry that was given back again: with nobody in the way the next one gets it.
    if not granted:
        granted = [claim(context, jobs[0], request_id="once-more")]
        assert granted[0].answer.word is Word.GRANTED


def test_the_loser_is_told_who_holds_the_lock(context: Context) -> None:
    add_job(context, "a", "common-plat")
    add_job(context, "b", "common-plat")
    claim(context, "a")
    refusal = claim(context, "b")
    assert (refusal.answer.word, refusal.answer.reason) == (Word.NOT_CLAIMABLE, Reason.LOCK_BUSY)
    [held] = refusal.answer.body["obstacles"]
    assert held["holders"] == [{"job_id": "a", "epoch": 1, "mode": "exclusive", "factory_id": "f"}]
    assert [(wait.job and wait.job.id, wait.key) for wait in refusal.waits] == [("b", "common-plat")]


def test_a_lock_comes_free_with_its_lease(context: Context) -> None:
    add_job(context, "a", "common-plat")
    add_job(context, "b", "common-plat")
    complete(context, claim(context, "a"))
    assert claim(context, "b").answer.word is Word.GRANTED


def test_a_dead_holder_never_blocks_for_ever(context: Context) -> None:
    add_job(context, "a", "common-plat")
    add_job(context, "b", "common-plat")
    claim(context, "a")
    later_ms = NOW_MS + RULES.ttl_ms + RULES.skew_ms + 1
    dead = read_job(context.store, "a")
    assert dead is not None
    assert claim(context, "b", now_ms=later_ms).answer.word is Word.NOT_CLAIMABLE
    coordinator.reap(context, dead, now_ms=later_ms)
    assert claim(context, "b", now_ms=later_ms + 1).answer.word is Word.GRANTED


def test_a_lease_taken_over_keeps_the_lock(context: Context) -> None:
    add_job(context, "a", "common-plat")
    add_job(context, "b", "common-plat")
    claim(context, "a")
    later_ms = NOW_MS + RULES.ttl_ms + RULES.skew_ms + 1
    assert claim(context, "a", now_ms=later_ms, request_id="thief").answer.body["epoch"] == 2
    assert claim(context, "b", now_ms=later_ms).answer.reason is Reason.LOCK_BUSY


def test_the_loser_of_a_race_for_one_job_leaves_the_winners_lock_alone(context: Context) -> None:
    for number in range(20):
        job = f"job-{number}"
        add_job(context, job, f"lock-{number}")
        calls = [partial(claim, context, job, request_id=f"{job}-{who}") for who in range(8)]
        words = [settled.answer.word for settled in at_once(calls)]
        assert words.count(Word.GRANTED) == 1
        found = context.store.read(slot_id(f"lock-{number}"), slot_id(f"lock-{number}"))
        assert isinstance(found, Ok)
        slot = msgspec.convert(found.document.body, Slot)
        assert [(holder.epoch, holder.confirmed) for holder in slot.holders] == [(1, True)]


@pytest.mark.parametrize(
    ("held", "wanted", "conflict"),
    [
        ("repo:web", "repo:web", True),
        ("repo:web", "repo:web/src/app", True),
        ("repo:web/src/app", "repo:web", True),
        ("repo:web/src", "repo:web/docs", False),
        ("repo:web", "repo:webshop", False),
        ("repo:web/src/…", "repo:web/src/app", True),
        ("repo:web@shared", "repo:web/src@shared", False),
        ("repo:web@shared", "repo:web/src", True),
        ("repo:web/src", "repo:web@shared", True),
        ("data@shared", "data@shared", False),
        ("data@shared", "data", True),
    ],
)
def test_a_path_lock_conflicts_with_what_lies_under_it(
    context: Context, held: str, wanted: str, conflict: bool
) -> None:
    add_job(context, "a", held)
    add_job(context, "b", wanted)
    claim(context, "a")
    assert (claim(context, "b").answer.reason is Reason.LOCK_BUSY) is conflict


def test_a_winner_whose_entry_was_taken_out_steps_back_and_nobody_is_told(
    context: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    add_job(context, "a", "common-plat")
    confirm = Slots.confirm

    def robbed(slots: Slots) -> bool:
        document = context.store.read(slot_id("common-plat"), slot_id("common-plat"))
        assert isinstance(document, Ok)
        expected = Expected(etag=document.document.etag)
        context.store.update_if_match(slot_id("common-plat"), slot_id("common-plat"), expected, {"holders": []})
        return confirm(slots)

    monkeypatch.setattr(Slots, "confirm", robbed)
    settled = claim(context, "a")
    assert (settled.answer.word, settled.answer.reason) == (Word.CONFLICT, Reason.RACED)
    job = read_job(context.store, "a")
    assert job is not None
    assert (job.lease, job.state, job.epoch) == (None, "ready", 1)


def test_an_unconfirmed_entry_is_left_alone_while_its_claim_may_still_be_written(context: Context) -> None:
    add_job(context, "a", "common-plat")
    add_job(context, "b", "common-plat")
    job = read_job(context.store, "a")
    assert job is not None
    slots = Slots.of(context.store, context.entropy, job, epoch=1, request_id="slow")
    assert slots is not None
    assert slots.take(now_ms=NOW_MS) is None
    assert claim(context, "b", now_ms=NOW_MS + 9_000).answer.reason is Reason.LOCK_BUSY
    assert claim(context, "b", now_ms=NOW_MS + 11_000).answer.word is Word.GRANTED
    assert slots.confirm() is False


class HeldUp(Forwarding):
    """A store whose next write of one job waits for `meanwhile`: a claim that is slow between its slots and its job."""

    def __init__(self, inner: Datastore, job_id: str, meanwhile: Callable[[], None]) -> None:
        super().__init__(inner)
        self._job_id = job_id
        self._meanwhile: Callable[[], None] | None = meanwhile

    def update_if_match(self, id: str, partition_key: str, expected: Expected, patch: Patch) -> UpdateResult:
        if id == self._job_id and (meanwhile := self._meanwhile) is not None:
            self._meanwhile = None
            meanwhile()
        return self.inner.update_if_match(id, partition_key, expected, patch)


def race_with_a_slow_claim(context: Context, *, late_ms: int) -> tuple[list[str], Settlement, Settlement]:
    """A claim of `a` is held up before its write while `b`, of the same lock, is claimed: who holds it, and answers."""
    add_job(context, "a", "common-plat")
    add_job(context, "b", "common-plat")
    others: list[Settlement] = []
    slow = HeldUp(context.store, "a", lambda: others.append(claim(context, "b", now_ms=NOW_MS + late_ms)))
    settled = claim(Context(slow, RULES, SystemEntropy(), lambda _ms: None), "a")
    held = [job for job in ("a", "b") if (found := read_job(context.store, job)) and found.lease]
    return held, settled, others[0]


def test_a_claim_in_flight_does_not_lose_its_lock_to_another(context: Context) -> None:
    held, slow, other = race_with_a_slow_claim(context, late_ms=9_000)
    assert (held, slow.answer.word, other.answer.reason) == (["a"], Word.GRANTED, Reason.LOCK_BUSY)


def test_a_claim_that_was_given_up_for_dead_finds_that_and_steps_back(context: Context) -> None:
    held, slow, other = race_with_a_slow_claim(context, late_ms=11_000)
    assert (held, slow.answer.reason, other.answer.word) == (["b"], Reason.RACED, Word.GRANTED)


def take_over_while_the_holder_renews(context: Context) -> tuple[Settlement, Settlement]:
    """A lease that is over is renewed between a thief's slots and its write: what thief and another job are told."""
    add_job(context, "a", "common-plat")
    add_job(context, "b", "common-plat")
    grant = claim(context, "a").answer.body
    later_ms = NOW_MS + RULES.ttl_ms + RULES.skew_ms + 1
    fence = Fence(factory_id="f", epoch=1, token=grant["token"], request_id="r1")
    renewed: list[Settlement] = []
    slow = HeldUp(context.store, "a", lambda: renewed.append(coordinator.renew(context, "a", fence, now_ms=later_ms)))
    thief = claim(Context(slow, RULES, SystemEntropy(), lambda _ms: None), "a", now_ms=later_ms, request_id="thief")
    assert renewed[0].answer.word is Word.RENEWED
    return thief, claim(context, "b", now_ms=later_ms + 1)


def test_a_takeover_that_comes_too_late_leaves_the_holders_lock_alone(context: Context) -> None:
    thief, other = take_over_while_the_holder_renews(context)
    assert thief.answer.reason is Reason.HELD
    assert other.answer.reason is Reason.LOCK_BUSY


def test_where_a_takeover_drops_the_entry_before_its_write_the_holder_loses_its_lock(
    context: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    def early(slot: Slot, entry: Holder, dead: Sequence[Holder] = ()) -> dict[str, Any] | None:
        over = [holder for holder in slot.holders if holder.job_id == entry.job_id and holder.epoch < entry.epoch]
        return with_entry(slot, entry, [*dead, *over])

    monkeypatch.setattr(exclusion, "with_entry", early)
    _, other = take_over_while_the_holder_renews(context)
    assert other.answer.word is Word.GRANTED


def test_without_a_confirmation_two_hold_one_lock(context: Context, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Slots, "confirm", lambda _slots: True)
    held, _, _ = race_with_a_slow_claim(context, late_ms=11_000)
    assert held == ["a", "b"]


def test_where_unconfirmed_entries_go_at_once_a_claim_in_flight_loses_its_lock(
    context: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exclusion, "removable", lambda holder, leased, **_: leased != holder.claim)
    held, slow, _ = race_with_a_slow_claim(context, late_ms=0)
    assert (held, slow.answer.reason) == (["b"], Reason.RACED)


def test_of_many_claims_in_any_order_of_locks_none_waits_for_another(context: Context) -> None:
    locks = [f"lock-{number}" for number in range(6)]
    for number in range(24):
        add_job(context, f"job-{number}", *(locks[(number + step) % 6] for step in range(3)))
    left = {f"job-{number}" for number in range(24)}
    for round_number in range(24):
        calls = [partial(claim, context, job, request_id=f"{job}-{round_number}") for job in sorted(left)]
        granted = [each for each in at_once(calls) if each.answer.word is Word.GRANTED]
        if not granted:  # each met an entry of one that met another's: nobody waits, and the next is alone
            granted = [claim(context, min(left), request_id=f"alone-{round_number}")]
        held = [lock for each in granted for lock in locks_of(context, each)]
        assert len(held) == len(set(held)), "two hold one lock"
        left -= {complete(context, each).answer.body["job_id"] for each in granted}
        if not left:
            return
    raise AssertionError(f"never granted: {sorted(left)}")


def locks_of(context: Context, grant: Settlement) -> tuple[str, ...]:
    job = read_job(context.store, grant.answer.body["job_id"])
    assert job is not None
    return job.locks


class Unseen(Forwarding):
    """A store that shows the lock once as it was before it was taken, to a claim that has just been written.

    Before it does, `meanwhile` happens.
    """

    def __init__(self, inner: Datastore, job_id: str, meanwhile: Callable[[], None]) -> None:
        super().__init__(inner)
        self._job_id = job_id
        self._meanwhile: Callable[[], None] | None = meanwhile
        self._written = False
        self._before: ReadResult | None = None

    def update_if_match(self, id: str, partition_key: str, expected: Expected, patch: Patch) -> UpdateResult:
        self._written |= id == self._job_id
        if id.startswith("slot:") and self._before is None:
            self._before = self.inner.read(id, partition_key)
        return self.inner.update_if_match(id, partition_key, expected, patch)

    def read(self, id: str, partition_key: str) -> ReadResult:
        if id.startswith("slot:") and self._written and (meanwhile := self._meanwhile) is not None:
            self._meanwhile = None
            meanwhile()
            assert self._before is not None, "the lock was taken before the job was written"
            return self._before
        return self.inner.read(id, partition_key)


def two_copies_and_a_lock_that_one_does_not_see(context: Context) -> list[Settlement]:
    """A copy of a claim writes the job; another is granted it, and its holder renews; the first looks for its lock.

    What both are told, and whoever asks for another job of that lock afterwards.
    """
    add_job(context, "a", "common-plat")
    add_job(context, "b", "common-plat")
    told: list[Settlement] = []

    def another_copy() -> None:
        told.append(claim(context, "a"))
        token = told[0].answer.body["token"]
        fence = Fence(factory_id="f", epoch=1, token=token, request_id="r1")
        assert coordinator.renew(context, "a", fence, now_ms=NOW_MS + 1).answer.word is Word.RENEWED

    slow = Unseen(context.store, "a", another_copy)
    told.append(claim(Context(slow, RULES, SystemEntropy(), lambda _ms: None), "a"))
    return [*told, claim(context, "b", now_ms=NOW_MS + 2)]


def test_a_lock_that_a_stale_read_does_not_show_is_not_taken_for_lost(context: Context) -> None:
    copy, first, other = two_copies_and_a_lock_that_one_does_not_see(context)
    assert (copy.answer.word, first.answer.word) == (Word.REPLAYED, Word.GRANTED)
    assert other.answer.reason is Reason.LOCK_BUSY


def test_a_takeover_that_is_undone_puts_the_end_of_the_lease_before_it_on_record_and_offers_the_job(
    context: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    add_job(context, "a", "common-plat")
    claim(context, "a")
    late = NOW_MS + RULES.ttl_ms + RULES.skew_ms + 1
    monkeypatch.setattr(Slots, "confirm", lambda _slots: False)
    undone = claim(context, "a", now_ms=late)
    assert undone.answer.reason is Reason.RACED
    assert [change.after.state for change in undone.changes] == ["ready"]
    assert [run.outcome for run in runs_of(context.store, "a")] == ["expired", "released"]


def trusting(slots: Slots, key: str, _modes: object) -> bool:
    """`_confirm_one` without the write that shows whether the version it read was the last."""
    stands = False

    def seen(slot: Slot) -> dict[str, Any] | None:
        nonlocal stands
        stands = bool(entries(slot, slots.claim))
        return confirmed(slot, slots.claim)

    slots._change(key, seen)
    return stands


def test_a_claim_that_steps_back_leaves_what_another_copy_of_it_has_confirmed(
    context: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Slots, "_confirm_one", trusting)
    copy, first, other = two_copies_and_a_lock_that_one_does_not_see(context)
    assert (copy.answer.word, first.answer.word) == (Word.REPLAYED, Word.REPLAYED)
    assert other.answer.reason is Reason.LOCK_BUSY


def test_where_reads_are_trusted_and_all_is_given_back_two_hold_one_lock(
    context: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Slots, "_confirm_one", trusting)
    monkeypatch.setattr(Slots, "step_back", Slots.give_back)
    copy, _, other = two_copies_and_a_lock_that_one_does_not_see(context)
    assert (copy.answer.word, other.answer.word) == (Word.REPLAYED, Word.GRANTED)
