"""Fixtures for every test that needs a Cosmos account: the emulator behind a proxy that can lie."""

import os
from collections.abc import Iterator
from contextlib import nullcontext
from uuid import uuid4

import pytest

from datastore.cosmos import CosmosDatastore
from tests.cosmos.emulator import EMULATOR_VARIABLE, running_emulator
from tests.cosmos.fault_proxy import FaultProxy


@pytest.fixture(scope="session")
def cosmos_emulator() -> Iterator[int]:
    """The port of one emulator for the whole session. Use `cosmos_url`, which names a fresh database in it.

    `make mutation` starts it for thousands of sessions, and says in the environment where it is.
    """
    running = os.environ.get(EMULATOR_VARIABLE)
    with nullcontext(int(running)) if running else running_emulator() as port:
        yield port


@pytest.fixture
def cosmos_proxy(cosmos_emulator: int) -> Iterator[FaultProxy]:
    """The way to the emulator: honest until a test calls `script`."""
    with FaultProxy(cosmos_emulator).running() as proxy:
        yield proxy


@pytest.fixture
def cosmos_url(cosmos_proxy: FaultProxy) -> str:
    """URL of an empty container in a database of this test's own. Other processes may open it too."""
    return f"cosmos://127.0.0.1:{cosmos_proxy.port}/test-{uuid4().hex}/jobs?http=1&create=1"


@pytest.fixture
def cosmos_store(cosmos_url: str) -> Iterator[CosmosDatastore]:
    """An empty store on the emulator."""
    store = CosmosDatastore.from_url(cosmos_url)
    yield store
    store.close()
