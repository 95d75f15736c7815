"""Renewing many leases with one message: each is judged for itself, on the version that its write insists on."""

from collections.abc import Callable
from typing import Any

import pytest
from msgspec import structs

from broker.answers import Answer, Reason, Word
from broker.controls import FLEET_ID, Controls
from broker.coordinator import Context, Settlement
from broker.documents import Job, State
from broker.entropy import SeededEntropy
from broker.fence import Fence
from broker.known_jobs import JOBS_MAX, NAMES_MAX, KnownJobs
from broker.messages import REQUESTS, RenewMany
from broker.renewing import Held, Renewing, halves, joined
from broker.settle import settle
from broker.settlement import CAS_ATTEMPTS_MAX, CAS_PAUSE_MS, Change, raced
from broker.transitions import Rules
from datastore import Datastore, Document, Unavailable
from datastore.interface import Expected, Patch, ReadResult, UpdateResult
from tests.twins.forwarding import Forwarding, write_anyway
from tests.twins.several import Full, Meanwhile, OneByOne, WritesAnyway
from tests.unit.desk import NOW, TTL, Desk

NAMES = ("a", "b", "c")


class Unreadable(Forwarding):
    """Fails to read one document, and counts how often it is asked for."""

    def __init__(self, inner: Datastore, unreadable: str) -> None:
        super().__init__(inner)
        self._unreadable = unreadable
        self.asked = 0

    def read(self, id: str, partition_key: str) -> ReadResult:
        if id == self._unreadable:
            self.asked += 1
            raise Unavailable("scripted")
        return super().read(id, partition_key)


class Contended(OneByOne):
    """Somebody else writes before every write."""

    reads = 0
    writes = 0

    def read(self, id: str, partition_key: str) -> ReadResult:
        self.reads += 1
        return super().read(id, partition_key)

    def update_if_match(self, id: str, partition_key: str, expected: Expected, patch: Patch) -> UpdateResult:
        self.writes += 1
        write_anyway(self.inner, id, partition_key, {"noise": self.writes})
        return super().update_if_match(id, partition_key, expected, patch)


@pytest.fixture
def desk() -> Desk:
    return Desk()


def claimed(desk: Desk, **body: Any) -> dict[str, Fence]:
    for name in NAMES:
        desk.submit(name, **body)
    return {name: desk.claim(name) for name in NAMES}


def leases(fences: dict[str, Fence]) -> list[dict[str, Any]]:
    return [{"job_id": name, "epoch": fence.epoch, "token": fence.token} for name, fence in fences.items()]


def renewed(
    desk: Desk, fences: dict[str, Fence], *, now_ms: int = NOW + 5, store: Datastore | None = None
) -> Settlement:
    return desk.ask("renew_many", now_ms=now_ms, store=store, leases=leases(fences))


def told(settled: Settlement) -> list[tuple[str, str | None]]:
    return [(each["answer"], each["reason"]) for each in settled.answer.body["results"]]


def renewals(desk: Desk) -> list[int]:
    """How often the lease of each was renewed."""
    return [job.lease.renewals for job in map(desk.job, NAMES) if job.lease is not None]


def test_each_is_extended_and_nothing_else_follows_from_it(desk: Desk) -> None:
    settled = renewed(desk, claimed(desk), now_ms=NOW + 5)
    assert told(settled) == [("renewed", None)] * 3
    for job in map(desk.job, NAMES):
        assert job.lease is not None
        assert (job.lease.expires_ms, job.lease.renewals, job.updated_ms) == (NOW + 5 + TTL, 1, NOW + 5)
    assert settled.extended == tuple(map(desk.job, NAMES)), "what it says of the jobs is what is stored"
    assert settled.changes == ()


def test_no_mark_is_that_of_another_round(desk: Desk) -> None:
    fences = claimed(desk)
    marks: set[object] = set()
    for round_ in range(3):
        renewed(desk, fences, now_ms=NOW + round_)
        marks |= {desk.job(name).document.body["write_id"] for name in NAMES}
    assert len(marks) == 9


def taken_over_meanwhile(store_of: Callable[[Datastore], Datastore]) -> tuple[list[tuple[str, str | None]], str | None]:
    """What the holder of three leases is told, one of which goes to another factory as they are written; who has it."""
    desk = Desk()
    fences = claimed(desk)
    dead_ms = NOW + TTL + Rules().skew_ms + 1
    store = Meanwhile(store_of(desk.store), lambda: desk.claim("b", by="g", now_ms=dead_ms))
    settled = renewed(desk, fences, now_ms=dead_ms, store=store)
    lease = desk.job("b").lease
    return told(settled), None if lease is None else lease.factory_id


def test_one_that_is_taken_over_before_its_write_is_lost_and_the_others_are_not() -> None:
    lost = ("lease_lost", "superseded")
    assert taken_over_meanwhile(lambda store: store) == ([("renewed", None), lost, ("renewed", None)], "g")
    told_by_twin, holder = taken_over_meanwhile(WritesAnyway)
    assert (told_by_twin[1], holder) == (("renewed", None), "f"), "a broken store is not noticed"


def test_one_that_is_written_to_meanwhile_is_judged_again_and_renewed(desk: Desk) -> None:
    fences = claimed(desk)
    settled = renewed(desk, fences, store=Meanwhile(desk.store, lambda: desk.ask("cancel", job_id="b")))
    results = settled.answer.body["results"]
    assert [(each["answer"], each["directives"]) for each in results] == [
        ("renewed", []),
        ("renewed", ["cancel"]),
        ("renewed", []),
    ]
    assert [change.after.id for change in settled.changes] == ["b"]


def test_one_that_keeps_losing_its_race_is_tried_as_often_as_a_single_renewal(desk: Desk) -> None:
    fences = claimed(desk)
    together, alone = Contended(desk.store), Contended(desk.store)
    pauses: list[float] = []
    context = Context(together, Rules(), SeededEntropy(9), pauses.append, controls=Controls(desk.store))
    lost = Renewing(context, "f", now_ms=NOW + 5).each([Held("b", fences["b"])])
    assert [isinstance(each, Settlement) and each.answer for each in lost] == [raced("b")]
    assert (len(pauses), together.reads) == (CAS_ATTEMPTS_MAX - 1, 1), "the lost race has shown what came first"
    assert all(0 <= pause < CAS_PAUSE_MS for pause in pauses)
    assert desk.ask("renew", now_ms=NOW + 5, store=alone, **leases(fences)[1]).answer.word is Word.CONFLICT
    assert together.writes == alone.writes == CAS_ATTEMPTS_MAX


def test_a_run_that_took_too_long_is_ended_and_the_others_go_on(desk: Desk) -> None:
    desk.submit("b", run_timeout_ms=1_000)
    fences = {"b": desk.claim("b")}
    for name in "ac":
        desk.submit(name)
        fences[name] = desk.claim(name)
    settled = renewed(desk, fences, now_ms=NOW + 1_001)
    assert told(settled) == [("lease_lost", "timed_out"), ("renewed", None), ("renewed", None)]
    assert (desk.job("b").state, desk.run(1, "b").outcome) == (State.SCHEDULED, "timed_out")


def test_one_that_the_store_fails_on_leaves_the_others_alone(desk: Desk) -> None:
    settled = renewed(desk, claimed(desk), store=Unreadable(desk.store, "b"))
    assert told(settled) == [("renewed", None), ("throttled", "store"), ("renewed", None)]
    assert [each["job_id"] for each in settled.answer.body["results"]] == list(NAMES)


def test_one_that_is_no_job_any_more_as_it_is_written_leaves_the_others_alone(desk: Desk) -> None:
    fences = claimed(desk)
    store = Meanwhile(desk.store, lambda: write_anyway(desk.store, "b", "b", {"state": 7}))
    settled = renewed(desk, fences, store=store)
    assert told(settled) == [("renewed", None), ("invalid", "corrupt"), ("renewed", None)]
    assert settled.extended == (desk.job("a"), desk.job("c"))


def test_what_operators_have_set_is_asked_for_once_where_it_cannot_be_read(desk: Desk) -> None:
    fences = claimed(desk)
    store = Unreadable(desk.store, FLEET_ID)
    desk.context = Context(store, Rules(), SeededEntropy(9), lambda _ms: None, controls=Controls(store))
    assert told(renewed(desk, fences)) == [("renewed", None)] * 3
    assert store.asked == 1


def test_one_that_does_not_exist_is_not_found_and_the_others_are_renewed(desk: Desk) -> None:
    fences = claimed(desk)
    asked = {"a": fences["a"], "none": fences["b"], "c": fences["c"]}
    assert told(renewed(desk, asked)) == [("renewed", None), ("not_found", None), ("renewed", None)]


def test_what_the_store_does_not_take_is_told_so_and_not_sent_again(desk: Desk) -> None:
    fences = claimed(desk)
    full = Full(desk.store)
    assert told(renewed(desk, fences, store=full)) == [("throttled", "store")] * 3
    assert full.sent == 1
    assert renewals(desk) == [0, 0, 0]


def test_one_that_is_named_twice_is_renewed_twice(desk: Desk) -> None:
    fences = claimed(desk)
    both = [*leases(fences), leases(fences)[0]]
    settled = desk.ask("renew_many", now_ms=NOW + 5, leases=both)
    assert told(settled) == [("renewed", None)] * 4
    lease = desk.job("a").lease
    assert lease is not None
    assert lease.renewals == 2


def test_what_is_known_of_a_job_is_not_taken_for_what_was_written_since(desk: Desk) -> None:
    fences = claimed(desk)
    renewed(desk, fences)
    assert desk.ask("cancel", job_id="b", store=desk.store).answer.good, "by a worker that shares nothing but the store"
    settled = renewed(desk, fences, now_ms=NOW + 6)
    assert [each["directives"] for each in settled.answer.body["results"]] == [[], ["cancel"], []]
    assert settled.changes == (), "it was read as it is, and not found out by a lost race"
    assert renewals(desk) == [2, 2, 2]


def test_what_was_written_last_is_known_and_not_parsed_again(desk: Desk) -> None:
    fences = claimed(desk)
    assert desk.context.known_jobs.of(desk.job("a").document) == desk.job("a")
    [a, b, c] = renewed(desk, fences).extended
    known = desk.context.known_jobs
    assert [known.of(job.document) is job for job in (a, b, c)] == [True] * 3
    renewed(desk, fences, now_ms=NOW + 6)
    assert known.of(a.document) == a, "an earlier version is not taken for the one that is known"
    assert known.of(a.document) is not a


def test_a_bounded_number_of_jobs_is_known(desk: Desk) -> None:
    desk.submit("a")
    job = desk.job("a")
    known = KnownJobs()
    for number in range(JOBS_MAX + 1):
        known.keep(job_named(job, f"job-{number}"))
    assert len(known._jobs) <= JOBS_MAX
    last = job_named(job, f"job-{JOBS_MAX}")
    assert known.of(last.document) == last


def test_a_job_that_is_written_again_takes_nobodys_place(desk: Desk) -> None:
    desk.submit("a")
    jobs = [job_named(desk.job("a"), f"job-{number}") for number in range(JOBS_MAX)]
    known = KnownJobs()
    for job in [*jobs, jobs[0]]:
        known.keep(job)
    assert [known.of(job.document) is job for job in (jobs[0], jobs[1], jobs[-1])] == [True] * 3


def test_a_job_that_takes_much_room_is_parsed_each_time(desk: Desk) -> None:
    desk.submit("a", depends_on=[f"parent-{number}" for number in range(NAMES_MAX)])
    desk.submit("b", depends_on=[f"parent-{number}" for number in range(NAMES_MAX + 1)])
    desk.submit("c")
    desk.ask("fail", job_id="c", error="x" * 1_000, epoch=(fence := desk.claim("c")).epoch, token=fence.token)
    known = KnownJobs()
    kept = [desk.job(name) for name in NAMES]
    for job in kept:
        known.keep(job)
    assert [known.of(job.document) is job for job in kept] == [True, False, False]


def test_a_job_that_has_come_to_take_much_room_is_forgotten(desk: Desk) -> None:
    desk.submit("a")
    known = KnownJobs()
    known.keep(job := desk.job("a"))
    assert known.of(job.document) is job
    known.keep(structs.replace(job, locks=tuple(f"lock-{number}" for number in range(NAMES_MAX + 1))))
    assert known.of(job.document) is not job


def job_named(job: Job, name: str) -> Job:
    read: Document = job.document
    return Job.from_document(Document(name, name, read.rev, read.etag, read.body))


def message(desk: Desk) -> RenewMany:
    """All leases of a client, to be renewed together."""
    address = {"request_id": "r", "factory_id": "f", "incarnation": "start-1", "instance": "x"}
    request = REQUESTS.validate_python({"op": "renew_many", **address, "body": {"leases": leases(claimed(desk))}})
    assert isinstance(request, RenewMany)
    return request


def test_a_message_that_is_taken_apart_is_answered_as_one(desk: Desk) -> None:
    parts = halves(message(desk))
    assert [[lease.job_id for lease in part.body.leases] for part in parts] == [["a"], ["b", "c"]]
    assert {part.request_id for part in parts} == {"r"}
    became = joined(parts, [settle(desk.context, part, now_ms=NOW + 1) for part in parts])
    assert became.answer.word is Word.OK
    each = [(result["job_id"], result["answer"]) for result in became.answer.body["results"]]
    assert each == [(name, Word.RENEWED) for name in NAMES]
    assert list(became.extended) == [desk.job(name) for name in NAMES]
    assert became.changes == ()


def test_leases_of_a_part_that_failed_are_told_so_each(desk: Desk) -> None:
    parts = halves(message(desk))
    over = Change(desk.job("b"), desk.job("b"))
    settled = [Settlement(Answer(Word.THROTTLED, Reason.STORE), (over,)), settle(desk.context, parts[1], now_ms=NOW)]
    became = joined(parts, settled)
    each = [(result["job_id"], result["answer"], result["reason"]) for result in became.answer.body["results"]]
    assert each == [("a", Word.THROTTLED, Reason.STORE), ("b", Word.RENEWED, None), ("c", Word.RENEWED, None)]
    assert became.changes == (over,)


def test_a_single_lease_is_not_taken_apart(desk: Desk) -> None:
    [one, _] = halves(message(desk))
    assert list(halves(one)) == []
