"""The stores under which claims race."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from datastore import Datastore, connect


@pytest.fixture(params=["memory", "sqlite", pytest.param("cosmos", marks=pytest.mark.cosmos)])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Datastore]:
    if request.param == "cosmos":
        opened = connect(request.getfixturevalue("cosmos_url"))
    else:
        opened = connect("memory://" if request.param == "memory" else f"sqlite:///{tmp_path / 'jobs.db'}")
    yield opened
    opened.close()
