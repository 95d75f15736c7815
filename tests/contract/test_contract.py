"""One contract, every provider."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from datastore import Datastore, Ok, connect
from datastore.contract import CHECKS, Check, require_conditional_writes, run_checks
from tests.contract.racing import race_in_processes

INDEXES = ("state", "lease.expires_ms", "lease.holder.name")


@pytest.mark.parametrize("check", CHECKS, ids=str)
class DatastoreContract:
    """Runs every check on the store that a subclass's fixture `store` opens."""

    def test_the_store_keeps_this_promise(self, store: Datastore, check: Check) -> None:
        check.run(store)


class TestMemory(DatastoreContract):
    @pytest.fixture
    def store(self) -> Iterator[Datastore]:
        store = connect("memory://")
        yield store
        store.close()


class TestMemoryWithIndexes(DatastoreContract):
    @pytest.fixture
    def store(self) -> Iterator[Datastore]:
        store = connect("memory://", indexes=INDEXES)
        yield store
        store.close()


class TestSqlite(DatastoreContract):
    @pytest.fixture
    def store(self, tmp_path: Path) -> Iterator[Datastore]:
        store = connect(f"sqlite:///{tmp_path}/jobs.db", indexes=INDEXES)
        yield store
        store.close()


class TestSqliteWithoutIndexes(DatastoreContract):
    @pytest.fixture
    def store(self, tmp_path: Path) -> Iterator[Datastore]:
        store = connect(f"sqlite:///{tmp_path}/jobs.db")
        yield store
        store.close()


def test_the_start_check_accepts_a_good_store_however_often_it_runs() -> None:
    store = connect("memory://")
    for _ in range(3):
        require_conditional_writes(store)
    assert len(store.find({}).documents) == 1, "the check leaves one document, not one for each start"


def test_check_store_finds_nothing_wrong_with_a_good_store() -> None:
    findings = list(run_checks(connect("memory://")))
    assert [finding for finding in findings if finding.failure is not None] == []
    assert findings[0].name.startswith("a bogus etag"), "the check without which nothing counts comes first"


def test_of_sixteen_racing_processes_exactly_one_wins(tmp_path: Path) -> None:
    store = connect(f"sqlite:///{tmp_path}/jobs.db")
    assert isinstance(store.create("job", "job", {"winner": None}), Ok)
    winners = race_in_processes("datastore.sqlite:SqliteDatastore", str(tmp_path / "jobs.db"), racers=16)
    assert len(winners) == 1
    result = store.read("job", "job")
    assert isinstance(result, Ok)
    assert (result.document.rev, result.document.body["winner"]) == (2, winners[0])
    store.close()
