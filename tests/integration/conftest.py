"""A broker in the test's own process, for tests that need every step in their hand."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from datastore import Datastore, connect
from tests.in_process import InProcess


@pytest.fixture
def broker(on_sqlite: InProcess) -> InProcess:
    """Where a module does not say on which stores."""
    return on_sqlite


@pytest.fixture
def on_sqlite(redis_client: redis.Redis, tmp_path: Path) -> Iterator[InProcess]:
    """On an empty Redis and an empty SQLite store."""
    store = connect(f"sqlite:///{tmp_path}/jobs.db")
    yield InProcess(store, redis_client)
    store.close()


@pytest.fixture
def anywhere(each_store: Datastore, redis_client: redis.Redis) -> InProcess:
    """On an empty Redis and an empty store of each kind."""
    return InProcess(each_store, redis_client)
