"""Stores in a container of the emulator: one as patient as by default, and one that is not."""

from collections.abc import Iterator

import pytest

from datastore.cosmos import CosmosDatastore


@pytest.fixture
def store(cosmos_url: str) -> Iterator[CosmosDatastore]:
    """A store that waits as long for an answer as it does by default, or as its test says."""
    opened = CosmosDatastore.from_url(cosmos_url)
    yield opened
    opened.close()


@pytest.fixture
def impatient(cosmos_url: str) -> Iterator[CosmosDatastore]:
    """A store that waits half a second: only for answers that don't come, as a busy machine takes its time."""
    opened = CosmosDatastore.from_url(cosmos_url, read_timeout_ms=500)
    yield opened
    opened.close()
