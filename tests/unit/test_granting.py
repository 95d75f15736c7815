"""Simple claims of a batch are granted at once: each is judged for itself, on the version that its write insists on."""

import random
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from msgspec import structs

from broker import side_by_side
from broker.answers import Reason, Word
from broker.controls import FLEET_ID
from broker.coordinator import Context, Settlement
from broker.documents import Outcome, run_id, spec_id
from broker.entropy import SeededEntropy
from broker.granting import Asked, granted
from broker.messages import REQUESTS, Claim, Request
from broker.runs import read_run
from broker.settle import settle
from broker.side_by_side import Errand
from broker.transitions import Rules
from datastore import Datastore, OutcomeUnknown, Unavailable
from datastore.interface import NotFound, ReadResult, Update, UpdateResult
from tests.twins.forwarding import Forwarding
from tests.twins.several import Full, Meanwhile, WritesAnyway
from tests.unit.desk import NOW, TTL, Desk

NAMES = ("a", "b", "c")


class Counting(Forwarding):
    """Counts the writes that it is asked for, together and one by one."""

    together = 0
    alone = 0

    def update_if_match(self, *args: Any, **options: Any) -> UpdateResult:
        self.alone += 1
        return super().update_if_match(*args, **options)

    def update_each(self, updates: Sequence[Update]) -> list[UpdateResult]:
        self.together += 1
        return self.inner.update_each(updates)  # type: ignore[attr-defined,no-any-return]  # the memory store's


class AnswerLost(Forwarding):
    """Writes several, and does not say so."""

    def update_each(self, updates: Sequence[Update]) -> list[UpdateResult]:
        self.inner.update_each(updates)  # type: ignore[attr-defined]  # the memory store's
        raise OutcomeUnknown("scripted")


class Mistaken(Forwarding):
    """Fails in a way that no store of ours should."""

    def update_each(self, updates: Sequence[Update]) -> list[UpdateResult]:
        raise RuntimeError(f"scripted: {len(updates)} updates")


class SpecGone(Forwarding):
    """No read shows what was submitted."""

    def read(self, id: str, partition_key: str) -> ReadResult:
        if id == spec_id(partition_key):
            raise Unavailable("scripted")
        return super().read(id, partition_key)


class RunsGone(Forwarding):
    """No read shows a run."""

    def read(self, id: str, partition_key: str) -> ReadResult:
        return NotFound() if id.startswith(run_id(partition_key, 1)) else super().read(id, partition_key)


class FleetGone(Forwarding):
    """No read shows pauses and limits."""

    def read(self, id: str, partition_key: str) -> ReadResult:
        if id == FLEET_ID:
            raise Unavailable("scripted")
        return super().read(id, partition_key)


@pytest.fixture
def desk() -> Desk:
    desk = Desk()
    for name in NAMES:
        desk.submit(name, payload={"of": name})
    return desk


def claim(job_id: str | None, by: str = "f", *, candidate: str | None = None, **address: Any) -> Asked:
    body = {"job_id": job_id} if "body" not in address else address.pop("body")
    asked = {"op": "claim", "factory_id": by, "incarnation": "start-1", "instance": "x", "body": body}
    request = REQUESTS.validate_python({"request_id": f"{by}-{job_id or 'next'}", **asked, **address})
    assert isinstance(request, Claim)
    return request, candidate


def claims(by: str = "f") -> list[Asked]:
    return [claim(name, by) for name in NAMES]


def at_once(desk: Desk, asked: Sequence[Asked], *, store: Datastore | None = None) -> list[Settlement | None]:
    return granted(desk.context if store is None else desk.on(store), asked, now_ms=NOW)


def words(settled: Sequence[Settlement | None]) -> list[tuple[Word, Reason | None] | None]:
    return [None if each is None else (each.answer.word, each.answer.reason) for each in settled]


def holders(desk: Desk) -> list[str | None]:
    return [None if job.lease is None else job.lease.factory_id for job in map(desk.job, NAMES)]


def test_each_holds_its_own_job_after_one_write_for_all(desk: Desk) -> None:
    store = Counting(desk.store)
    settled = at_once(desk, claims(), store=store)
    assert (store.together, store.alone) == (1, 0)
    assert words(settled) == [(Word.GRANTED, None)] * 3
    for name, each in zip(NAMES, settled, strict=True):
        assert each is not None
        job = desk.job(name)
        assert job.lease is not None
        assert (job.epoch, job.lease.request_id, job.lease.granted_ms) == (1, f"f-{name}", NOW)
        assert (each.answer.body["token"], each.answer.body["epoch"]) == (job.lease.token, 1)
        assert each.answer.body["payload"] == {"of": name}
        assert [(change.before is not None, change.after) for change in each.changes] == [(True, job)]
    assert len({desk.job(name).document.body["write_id"] for name in NAMES}) == 3, "each write has a mark of its own"


def test_the_answer_is_the_one_a_claim_gets_alone(desk: Desk) -> None:
    other = Desk()
    other.submit("a", payload={"of": "a"})
    [together] = at_once(desk, [claim("a")])
    alone = settle(other.context, claim("a")[0], now_ms=NOW)
    assert together is not None
    assert {**together.answer.body, "token": ""} == {**alone.answer.body, "token": ""}
    jobs = [structs.replace(each.job("a"), document=None, lease=None) for each in (desk, other)]
    assert jobs[0] == jobs[1]


def test_a_job_that_a_claim_next_was_proposed_is_granted_too(desk: Desk) -> None:
    assert words(at_once(desk, [claim(None, candidate="b")])) == [(Word.GRANTED, None)]
    assert holders(desk) == [None, "f", None]


def test_jobs_that_were_held_before_take_no_more_than_that_write(desk: Desk) -> None:
    for name in NAMES:
        release(desk, name)
    store = Counting(desk.store)
    assert words(at_once(desk, claims(), store=store)) == [(Word.GRANTED, None)] * 3
    assert (store.together, store.alone) == (1, 0)
    for name in NAMES:
        job = desk.job(name)
        assert (job.epoch, desk.run(1, name).outcome) == (2, Outcome.RELEASED)
        assert [(each.op, each.epoch) for each in job.recent_requests] == [("release", 1), ("claim", 1)]
        with pytest.raises(TypeError, match="read-only"):
            job.document.body["recent_requests"].append("nobody's")


def test_a_run_that_is_not_on_record_is_put_there_before_the_next_is_granted(desk: Desk) -> None:
    release(desk, "b")
    unrecorded = RunsGone(desk.store)
    assert words(at_once(desk, claims(), store=unrecorded)) == [(Word.GRANTED, None), None, (Word.GRANTED, None)]
    assert desk.job("b").epoch == 1


def release(desk: Desk, name: str) -> None:
    fence = desk.claim(name, by="g")
    assert desk.ask("release", by="g", job_id=name, epoch=fence.epoch, token=fence.token).answer.good


def leased(desk: Desk) -> None:
    desk.claim("b", by="g")


def abandoned(desk: Desk) -> None:
    desk.claim("b", by="g", now_ms=NOW - 2 * TTL)


def paused(desk: Desk) -> None:
    assert desk.ask("pause_queue", queue="default").answer.good


def held(desk: Desk) -> None:
    assert desk.ask("hold", job_id="b").answer.good


def limited(desk: Desk) -> None:
    assert desk.ask("set_limit", limit="queue:default", capacity=5).answer.good


def limited_itself(desk: Desk) -> None:
    assert desk.ask("set_limit", limit="factory:f", capacity=5).answer.good


def drained(desk: Desk) -> None:
    assert desk.ask("drain_factory", factory="f").answer.good


@pytest.mark.parametrize("stands", [leased, abandoned, paused, held, limited, limited_itself, drained])
def test_what_is_not_simply_granted_is_left_alone(desk: Desk, stands: Callable[[Desk], None]) -> None:
    stands(desk)
    before = desk.job("b")
    assert words(at_once(desk, [claim("b")])) == [None]
    assert desk.job("b").document.etag == before.document.etag


@pytest.mark.parametrize(
    "asked",
    [
        claim("none"),
        claim(None),
        claim(None, candidate="a:spec"),
        claim("b", deadline_ms=NOW - 1),
        claim("b", body={"job_id": "b", "expected_etag": "other"}),
    ],
    ids=["no such job", "no job", "no job's id", "too late", "a version"],
)
def test_so_is_what_no_job_is_simply_there_for(desk: Desk, asked: Asked) -> None:
    settled = at_once(desk, [claim("a"), asked, claim("c")])
    assert words(settled) == [(Word.GRANTED, None), None, (Word.GRANTED, None)]
    assert holders(desk) == ["f", None, "f"]


def test_a_job_with_locks_is_claimed_with_its_slots(desk: Desk) -> None:
    desk.submit("locked", locks=["repo"])
    assert words(at_once(desk, [claim("locked")])) == [None]


@pytest.mark.parametrize("limit", ["queue:other", "factory:g"])
def test_limits_of_others_stand_in_nobodys_way(desk: Desk, limit: str) -> None:
    assert desk.ask("set_limit", limit=limit, capacity=1).answer.good
    assert words(at_once(desk, claims())) == [(Word.GRANTED, None)] * 3


def test_one_that_is_not_granted_leaves_those_beside_it_to_be(desk: Desk) -> None:
    held(desk)
    assert words(at_once(desk, claims())) == [(Word.GRANTED, None), None, (Word.GRANTED, None)]


def test_a_job_goes_to_who_offers_what_it_requires_in_the_claim_or_by_registration(desk: Desk) -> None:
    for name in ("linux-1", "linux-2", "linux-3"):
        desk.submit(name, requires=["linux"])
    assert desk.ask("register_factory", by="registered", offers=["linux"]).answer.good
    offering = {"job_id": "linux-1", "offers": ["linux"]}
    asked = [claim("linux-1", by="g", body=offering), claim("linux-2", by="registered"), claim("linux-3", by="g")]
    assert words(at_once(desk, asked)) == [(Word.GRANTED, None), (Word.GRANTED, None), None]


def test_where_limits_cannot_be_read_each_claim_is_left_to_itself(desk: Desk) -> None:
    assert words(at_once(desk, claims(), store=FleetGone(desk.store))) == [None] * 3
    assert holders(desk) == [None, None, None]


def test_every_write_has_a_mark_that_no_batch_before_had(desk: Desk) -> None:
    entropy = SeededEntropy(3)
    context = Context(desk.store, Rules(), entropy, lambda _ms: None)
    for name in NAMES:
        granted(context, [claim(name)], now_ms=NOW)
    assert len({desk.job(name).document.body["write_id"] for name in NAMES}) == 3


def test_a_claim_whose_deadline_passes_while_the_store_is_read_is_not_written(desk: Desk) -> None:
    class Later:
        """It is later once the jobs are read."""

        def now_ms(self) -> int:
            return NOW + 5

    context = Context(desk.store, Rules(), SeededEntropy(9), lambda _ms: None, clock=Later())
    settled = granted(context, [claim("a", deadline_ms=NOW + 4), claim("b", deadline_ms=NOW + 5)], now_ms=NOW)
    assert words(settled) == [None, (Word.GRANTED, None)]
    assert holders(desk) == [None, "f", None]


def claimed_meanwhile(
    store_of: Callable[[Datastore], Datastore],
) -> tuple[list[tuple[Word, Reason | None] | None], Any]:
    """What one is told who claims three jobs, of which another gets one as they are written; who holds which."""
    desk = Desk()
    for name in NAMES:
        desk.submit(name)
    store = Meanwhile(store_of(desk.store), lambda: desk.claim("b", by="g"))
    return words(at_once(desk, claims(), store=store)), holders(desk)


def test_a_job_that_another_gets_before_the_write_is_not_granted_twice() -> None:
    ours = (Word.GRANTED, None)
    assert claimed_meanwhile(lambda store: store) == ([ours, None, ours], ["f", "g", "f"])
    told_by_twin, held_in_twin = claimed_meanwhile(WritesAnyway)
    assert (told_by_twin[1], held_in_twin[1]) == (ours, "f"), "a broken store is not noticed"


def test_grants_whose_answer_was_lost_are_found_by_their_marks(desk: Desk) -> None:
    assert words(at_once(desk, claims(), store=AnswerLost(desk.store))) == [(Word.GRANTED, None)] * 3
    assert [job.document.rev for job in map(desk.job, NAMES)] == [2, 2, 2]


def test_what_the_store_does_not_take_is_told_so_and_what_was_proposed_is_offered_again(desk: Desk) -> None:
    full = Full(desk.store)
    named, proposed = at_once(desk, [claim("a"), claim(None, candidate="b")], store=full)
    assert words([named, proposed]) == [(Word.THROTTLED, Reason.STORE)] * 2
    assert named is not None
    assert proposed is not None
    assert (named.changes, [change.after for change in proposed.changes]) == ((), [desk.job("b")])
    assert holders(desk) == [None, None, None]


def test_a_grant_whose_payload_cannot_be_read_is_unknown_to_its_holder(desk: Desk) -> None:
    [settled] = at_once(desk, [claim("a")], store=SpecGone(desk.store))
    assert settled is not None
    assert words([settled]) == [(Word.OUTCOME_UNKNOWN, Reason.STORE)]
    assert settled.changes[0].after == desk.job("a")


def test_a_mistake_of_ours_is_left_to_each_claim_alone(desk: Desk) -> None:
    assert words(at_once(desk, claims(), store=Mistaken(desk.store))) == [None] * 3
    desk.context = desk.on(Mistaken(desk.store))
    assert words(in_turn(desk, [claim for claim, _ in claims()], at_once=True)) == [(Word.GRANTED, None)] * 3
    assert holders(desk) == ["f", "f", "f"]


def in_turn(desk: Desk, requests: Sequence[Request], *, at_once: bool, now_ms: int = NOW) -> list[Settlement]:
    def act(errand: Errand) -> Settlement:
        return settle(desk.context, errand[0], now_ms=now_ms, candidate=errand[1])

    def grant(asked: Sequence[Asked]) -> Sequence[Settlement | None]:
        return granted(desk.context, asked, now_ms=now_ms) if at_once else [None] * len(asked)

    found = side_by_side.in_turn(act, grant, [[(request, None)] for request in requests])
    return [each for [each] in found]


def anything(dice: random.Random, number: int) -> Request:
    """One of the requests that are about a job, or about more."""
    job_id = dice.choice((*NAMES, "d", "e"))
    op, body = dice.choice(
        (
            ("claim", {"job_id": job_id}),
            ("claim", {"job_id": job_id}),
            ("submit", {"job_id": job_id}),
            ("complete", {"job_id": job_id, "epoch": 1, "token": "t" * 32}),
            ("cancel", {"job_id": job_id}),
            ("revoke", {"job_id": job_id}),
            ("redrive", {"job_id": job_id}),
            ("hold", {"job_id": job_id}),
            ("lift", {"job_id": job_id}),
            ("pause_queue", {"queue": "default"}),
            ("resume_queue", {"queue": "default"}),
            ("renew_many", {"leases": [{"job_id": job_id, "epoch": 1, "token": "t" * 32}]}),
            ("list_jobs", {}),
        )
    )
    sender = {"factory_id": dice.choice("fgh"), "incarnation": "start-1", "instance": "x"}
    return REQUESTS.validate_python({"op": op, "request_id": f"r{number}", **sender, "body": body})


@pytest.mark.parametrize("seed", range(150))
def test_a_batch_comes_to_what_it_comes_to_one_by_one(seed: int) -> None:
    together, alone = Desk(), Desk()
    dice = random.Random(seed)
    for desk in (together, alone):
        for name in NAMES:
            desk.submit(name)
    for now_ms in (NOW, NOW + 2 * TTL):  # by then each lease has died
        requests = [anything(dice, now_ms + number) for number in range(dice.randrange(2, 24))]
        told = [in_turn(desk, requests, at_once=desk is together, now_ms=now_ms) for desk in (together, alone)]
        assert words(told[0]) == words(told[1])
    assert holders(together) == holders(alone)
    assert [standing(together, name) for name in NAMES] == [standing(alone, name) for name in NAMES]


def standing(desk: Desk, name: str) -> tuple[Any, ...]:
    """All that a job says but the secrets of its lease, and what is on record of its runs."""
    job = desk.job(name)
    lease = None if job.lease is None else structs.replace(job.lease, token="")
    runs = [read_run(desk.store, name, epoch) for epoch in range(1, job.epoch + 1)]
    return structs.replace(job, document=None, lease=lease), runs
