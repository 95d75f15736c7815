"""The product's command line on a store that reads, checks and then writes whatever was written since."""

from typing import Any

from datastore import Datastore, connect
from datastore.sqlite import SqliteDatastore
from tests.twins.meeting import FileMeeting
from tests.twins.read_check_write import ReadCheckWrite
from workers import local_fleet, runtime
from workers.cli import main

ALONE_MS = 20
"""How long a writer waits for another one at the same version, between its check and its write."""


def broken(url: str, **options: Any) -> Datastore:
    """The store at `url`, as the seed of this product would have written to it."""
    store = connect(url, **options)
    if not isinstance(store, SqliteDatastore):
        return store
    path = url.removeprefix("sqlite:///")
    return ReadCheckWrite(store, gap=FileMeeting(f"{path}.meeting", alone_ms=ALONE_MS))


if __name__ == "__main__":
    vars(runtime)["connect"] = broken
    local_fleet.MODULE = "tests.chaos.read_check_write"
    main()
