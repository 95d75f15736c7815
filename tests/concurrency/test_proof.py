"""Issue 2 §4 on memory, SQLite and the Cosmos emulator alike."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from datastore import Datastore, connect
from datastore.cosmos import CosmosDatastore
from tests.concurrency.proof import ClaimProof


class TestMemory(ClaimProof):
    rounds = 300

    @pytest.fixture
    def store(self) -> Iterator[Datastore]:
        store = connect("memory://")
        yield store
        store.close()


class TestSqlite(ClaimProof):
    rounds = 100

    @pytest.fixture
    def store(self, tmp_path: Path) -> Iterator[Datastore]:
        store = connect(f"sqlite:///{tmp_path}/jobs.db")
        yield store
        store.close()


@pytest.mark.cosmos
class TestCosmos(ClaimProof):
    rounds = 20

    @pytest.fixture
    def store(self, cosmos_store: CosmosDatastore) -> Datastore:
        return cosmos_store
