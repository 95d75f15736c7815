"""The contract's own proof: each broken store is caught by the checks that are there for it, every time."""

from collections.abc import Callable
from pathlib import Path

import pytest

from datastore import Datastore, Ok, connect
from datastore.contract import CHECKS, RACE_CHECKS, Check, ContractViolation, require_conditional_writes
from tests.contract.racing import race_in_processes
from tests.twins.ignores_etag import IgnoresEtag
from tests.twins.meeting import ThreadMeeting
from tests.twins.read_check_write import ReadCheckWrite
from tests.twins.sloppy import (
    EtagOfContent,
    ForgetsTheRest,
    IgnoresRev,
    MergesDeeply,
    SearchesEverywhere,
    SharesState,
    Upserts,
)

UPDATE_RACES = tuple(check for check in RACE_CHECKS if "updates" in check.name)
[CREATE_RACE] = [check for check in RACE_CHECKS if "creates" in check.name]
EVERY_TIME = range(20)
PATIENT_MS = 20_000
"""Longer than any thread needs to arrive: it runs out only where nobody else comes."""


@pytest.mark.parametrize("_run", EVERY_TIME)
@pytest.mark.parametrize("race", UPDATE_RACES, ids=str)
def test_racing_updates_have_two_winners_on_read_check_write_every_time(race: Check, _run: int) -> None:
    with pytest.raises(ContractViolation, match="of 16 racing writers won"):
        race.run(ReadCheckWrite(gap=ThreadMeeting(alone_ms=PATIENT_MS)))


@pytest.mark.parametrize("_run", EVERY_TIME)
def test_racing_creates_have_two_winners_on_read_check_write_every_time(_run: int) -> None:
    with pytest.raises(ContractViolation, match="of 16 racing writers won"):
        CREATE_RACE.run(ReadCheckWrite(create_gap=ThreadMeeting(alone_ms=PATIENT_MS)))


def test_without_a_race_read_check_write_looks_sound() -> None:
    # Why the seed's tests, which ran one claim after the other, never saw it.
    store = ReadCheckWrite(gap=lambda _version: None)
    for check in CHECKS:
        if check not in RACE_CHECKS:
            check.run(store)


@pytest.mark.parametrize("_run", range(3))
def test_racing_processes_have_two_winners_on_read_check_write_every_time(tmp_path: Path, _run: int) -> None:
    path = tmp_path / "jobs.db"
    store = connect(f"sqlite:///{path}")
    assert isinstance(store.create("job", "job", {"winner": None}), Ok)
    winners = race_in_processes("tests.twins.read_check_write:open_twin", str(path), racers=4)
    assert len(winners) >= 2
    store.close()


def test_the_start_check_refuses_a_store_that_ignores_the_etag() -> None:
    with pytest.raises(ContractViolation, match="ignores If-Match"):
        require_conditional_writes(IgnoresEtag())


@pytest.mark.parametrize(
    ("opened", "caught_by"),
    [
        (
            IgnoresEtag,
            ["a bogus etag", "a stale etag", "a stale rev", "an etag and a rev", "of sixteen racing updates"],
        ),
        (Upserts, ["a second create"]),
        (IgnoresRev, ["a stale rev", "an etag and a rev", "of sixteen racing updates by rev"]),
        (EtagOfContent, ["an etag is never", "a matching etag", "a stale etag"]),
        (MergesDeeply, ["a patch replaces"]),
        (SharesState, ["stored state", "what is not json", "reserved fields"]),
        (ForgetsTheRest, ["pages lose nothing"]),
        (SearchesEverywhere, ["a search finds equal", "true is not one", "at most", "any of", "a search spans"]),
    ],
)
def test_a_sloppy_store_is_caught(opened: Callable[[], Datastore], caught_by: list[str]) -> None:
    caught = [check.name for check in CHECKS if _breaks(check, opened())]
    for start in caught_by:
        assert any(name.startswith(start) for name in caught), f"{start}… did not notice; noticed: {caught}"


def _breaks(check: Check, store: Datastore) -> bool:
    try:
        check.run(store)
    except ContractViolation:
        return True
    return False
