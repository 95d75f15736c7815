"""The proof's own proof: the very same races find the seed's bug, every time."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from datastore import Datastore
from datastore.memory import MemoryDatastore
from datastore.sqlite import SqliteDatastore
from tests.concurrency.contention import contend
from tests.concurrency.race import race
from tests.twins.ignores_etag import IgnoresEtag
from tests.twins.meeting import Gap, ThreadMeeting, Version
from tests.twins.read_check_write import ReadCheckWrite

EVERY_TIME = 20
PATIENT_MS = 20_000
"""Longer than any thread needs to arrive: it runs out only where nobody else comes."""


def at_version(rev: int) -> Gap:
    """A gap in which the writers of a job's version `rev` meet; every other write goes straight through."""
    meeting = ThreadMeeting(alone_ms=PATIENT_MS)

    def gap(version: Version) -> None:
        partition_key, id, of = version
        if partition_key == id and of == rev:
            meeting(version)

    return gap


@pytest.fixture(params=["memory", "sqlite"])
def sound(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Datastore]:
    """What the broken store stands on: the bug is not a matter of the store beneath."""
    store = MemoryDatastore() if request.param == "memory" else SqliteDatastore(str(tmp_path / "jobs.db"))
    yield store
    store.close()


def test_two_claims_on_one_freshly_read_job_are_both_granted_every_time(sound: Datastore) -> None:
    store = ReadCheckWrite(sound, gap=at_version(1))
    for _ in range(EVERY_TIME):
        verdict = race(store, claimers=2, read_first=True)
        assert verdict.granted == 2
        assert "2 of 2 claimers were granted the job" in verdict.faults
        assert "the job was written 2 times" in verdict.faults


def test_naming_the_etag_does_not_help_a_store_that_checks_and_then_writes(sound: Datastore) -> None:
    store = ReadCheckWrite(sound, gap=at_version(1))
    for _ in range(EVERY_TIME):
        assert race(store, claimers=2, read_first=True, name_the_etag=True).granted == 2


def test_of_64_claims_several_are_granted_every_time(sound: Datastore) -> None:
    store = ReadCheckWrite(sound, gap=at_version(1))
    for _ in range(EVERY_TIME):
        verdict = race(store, claimers=64)
        assert verdict.granted >= 2
        assert verdict.faults != ()


def test_history_forks_under_contention_every_time(sound: Datastore) -> None:
    store = ReadCheckWrite(sound, gap=at_version(2))
    for seed in range(EVERY_TIME):
        faults = contend(store, seed=seed)
        assert any(fault.startswith("history has forked") for fault in faults), faults


def test_a_store_that_ignores_the_etag_grants_one_version_twice_every_time(sound: Datastore) -> None:
    store = IgnoresEtag(sound)
    for _ in range(EVERY_TIME):
        assert race(store, claimers=2, read_first=True).granted == 2


def test_without_a_race_the_broken_store_looks_sound(sound: Datastore) -> None:
    # Why nobody saw it: one claim after the other is granted once, and the next is refused.
    store = ReadCheckWrite(sound, gap=lambda _version: None)
    for _ in range(EVERY_TIME):
        assert race(store, claimers=1).faults == ()
