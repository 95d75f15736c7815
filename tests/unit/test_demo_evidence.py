"""The demo's verdict on crafted evidence: what went wrong must be found, whoever it would embarrass."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from datastore import connect
from workers.demo.evidence import Ledger, Summary, percentile, summarize
from workers.demo.records import Event, Record, append, read_records

FIRST = "factory-01"
SECOND = "factory-02"


def record(event: Event, job: str, epoch: int, factory: str, **more: Any) -> Record:
    return Record(event, factory, f"{factory}-1", 1, job, epoch, sent_ms=10, received_ms=14, **more)


def run(job: str, epoch: int, factory: str, outcome: str) -> dict[str, Any]:
    fields = {"job_id": job, "epoch": epoch, "factory_id": factory, "incarnation": f"{factory}-1"}
    return {**fields, "outcome": outcome}


def ledger(*runs: Mapping[str, Any], state: str = "succeeded") -> Ledger:
    jobs = {each["job_id"]: {"state": state, "epoch": each["epoch"]} for each in runs}
    return Ledger(jobs, runs)


TAKEN_OVER = ledger(run("a", 1, FIRST, "expired"), run("a", 2, SECOND, "succeeded"))
WITNESSED = [
    record(Event.CLAIMED, "a", 1, FIRST),
    record(Event.LOST, "a", 1, FIRST),
    record(Event.CLAIMED, "a", 2, SECOND),
    record(Event.COMPLETED, "a", 2, SECOND, answer="ok"),
    record(Event.REFUSED, "a", 1, FIRST, late=True, answer="lease_lost", reason="superseded"),
]


def judged(records: list[Record], found: Ledger = TAKEN_OVER, submitted: tuple[str, ...] = ("a",)) -> Summary:
    return summarize(submitted, found, records)


def test_a_takeover_with_a_refused_late_answer_holds() -> None:
    summary = judged(WITNESSED)
    assert summary.fields() == (
        "jobs=1 completed=1 double_grants=0 lost=0 takeovers=1 stale_refused=1 p50_ms=4 p99_ms=4"
    )
    assert summary.holds(jobs=1)


def test_an_epoch_granted_to_two_factories_is_found() -> None:
    summary = judged([*WITNESSED, record(Event.CLAIMED, "a", 2, "factory-03")])
    assert summary.double_grants == 1
    assert not summary.holds(jobs=1)


def test_an_epoch_granted_to_two_starts_of_one_factory_is_found() -> None:
    again = Record(Event.CLAIMED, SECOND, "another-start", 2, "a", 2, sent_ms=1, received_ms=2)
    assert judged([*WITNESSED, again]).double_grants == 1


def test_a_grant_the_store_knows_nothing_of_is_found() -> None:
    stolen = [each for each in WITNESSED if each.event is not Event.CLAIMED]
    assert judged([*stolen, record(Event.CLAIMED, "a", 1, SECOND)]).double_grants == 1


def test_a_job_completed_twice_is_found() -> None:
    accepted = record(Event.COMPLETED, "a", 1, FIRST, late=True, answer="ok")
    summary = judged([*WITNESSED, accepted])
    assert summary.double_grants == 1
    assert not summary.holds(jobs=1)


def test_the_same_grant_told_twice_is_no_double_grant() -> None:
    assert judged([*WITNESSED, WITNESSED[2]]).double_grants == 0


@pytest.mark.parametrize("state", ["ready", "leased", "failed", "cancelled"])
def test_a_job_that_did_not_succeed_is_lost(state: str) -> None:
    found = Ledger({"a": {"state": state, "epoch": 2}}, TAKEN_OVER.runs)
    summary = judged(WITNESSED, found)
    assert (summary.completed, summary.lost) == (0, 1)
    assert not summary.holds(jobs=1)


def test_a_job_that_vanished_from_the_store_is_lost() -> None:
    summary = judged(WITNESSED, submitted=("a", "b"))
    assert (summary.jobs, summary.completed, summary.lost) == (2, 1, 1)
    assert not summary.holds(jobs=2)


def test_a_job_that_was_never_submitted_is_missed() -> None:
    assert not judged(WITNESSED).holds(jobs=2)


def test_an_expiry_that_nobody_followed_is_no_takeover() -> None:
    summary = judged(WITNESSED, ledger(run("a", 1, FIRST, "expired")))
    assert summary.takeovers == 0
    assert not summary.holds(jobs=1)


def test_a_refusal_counts_only_where_the_store_has_moved_on() -> None:
    summary = judged([record(Event.REFUSED, "a", 2, SECOND, late=True, answer="lease_lost")])
    assert summary.stale_refused == 0
    assert not summary.holds(jobs=1)


def test_claims_that_waited_parked_do_not_count_as_slow_ones() -> None:
    parked = Record(Event.CLAIMED, SECOND, f"{SECOND}-1", 1, "a", 2, sent_ms=0, received_ms=5_000, waited=True)
    assert judged([*WITNESSED, parked]).p99_ms == 4
    assert judged([parked]).p99_ms is None
    assert not judged([parked]).holds(jobs=1)


def test_percentiles_are_the_nearest_rank() -> None:
    hundred = list(range(1, 101))
    assert (percentile(hundred, 0.50), percentile(hundred, 0.99), percentile([], 0.5)) == (50, 99, None)
    assert percentile([7], 0.99) == 7


def test_the_ledger_reads_jobs_and_runs_as_they_are_stored(tmp_path: Path) -> None:
    store = connect(f"sqlite:///{tmp_path / 'jobs.db'}")
    store.create("a", "a", {"kind": "job", "state": "succeeded", "epoch": 2})
    store.create("a:spec", "a", {"kind": "spec"})
    for each in TAKEN_OVER.runs:
        store.create(f"a:run:{each['epoch']}", "a", {"kind": "run", **each})
    read = Ledger.read(store)
    store.close()
    assert read.succeeded() == {"a"}
    assert [(first["epoch"], then["epoch"]) for first, then in read.takeovers()] == [(1, 2)]


def test_a_line_cut_off_by_a_kill_is_left_out(tmp_path: Path) -> None:
    for each in WITNESSED[:2]:
        append(tmp_path / "factory-01.jsonl", each)
    with (tmp_path / "factory-01.jsonl").open("ab") as file:
        file.write(b'{"event": "cla')
    assert read_records(tmp_path) == WITNESSED[:2]
