"""Processes that write to one SQLite file as hard as they can, and say what was acknowledged."""

import os
from multiprocessing.connection import Connection
from multiprocessing.synchronize import Barrier

from datastore import Conflict, Expected, NotApplied, Ok, Unavailable
from datastore.sqlite import SqliteDatastore
from tests.contract.racing import open_store
from tests.processes import wait_for

START_S = 60
PATIENCE_MS = 20
PAGES_EACH = 20
"""Rows in a batch: enough that a checkpoint has something to copy."""


def storm(opener: str, path: str, start: Barrier, additions: int, told: Connection) -> None:
    """Add one to a shared counter `additions` times, however often it takes; tell how many were acknowledged."""
    store = open_store(opener, path)
    start.wait(START_S)
    done = busy = 0
    while done < additions:
        found = store.read("counter", "counter")
        assert isinstance(found, Ok)
        before = found.document.body["n"]
        assert isinstance(before, int)
        expected = Expected(etag=found.document.etag, known=found.document)
        try:
            result = store.update_if_match("counter", "counter", expected, {"n": before + 1})
        except NotApplied:
            busy += 1  # another process had the file for longer than we wait: certainly not written
            continue
        if isinstance(result, Conflict):
            continue
        done += 1
    told.send((done, busy))
    store.close()


def open_impatient(path: str) -> SqliteDatastore:
    """A store that waits so long for its turn, and no longer: in a storm it often has none, at its opening neither."""

    def opened() -> SqliteDatastore | None:
        try:
            return SqliteDatastore(path, timeout_ms=PATIENCE_MS)
        except Unavailable:
            return None

    return wait_for(opened, "the file is open", deadline_ms=START_S * 1_000)


def checkpoint(path: str, told: Connection) -> None:
    """Write batches, each acknowledged over the pipe; then say so, and copy the log back into the file. For ever."""
    store = SqliteDatastore(path)
    number = 0
    while True:
        number += 1
        with store.batch():
            for row in range(PAGES_EACH):
                name = f"{os.getpid()}-{number}-{row}"
                assert isinstance(store.create(name, name, {"batch": f"{os.getpid()}-{number}", "x": "x" * 3_000}), Ok)
        told.send(f"{os.getpid()}-{number}")
        writer = store._session._writer
        assert writer is not None
        told.send(None)
        writer.execute("PRAGMA wal_checkpoint(TRUNCATE)")
