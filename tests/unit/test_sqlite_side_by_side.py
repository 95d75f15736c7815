"""Several stores on one file in one process: what one opens or closes takes no lock of SQLite's from another.

Closing any descriptor of a file gives up all locks that its process has on it. Another process then takes itself for
the last to close the file, and removes the log that is in use here.
"""

import os
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from datastore import Expected, Ok
from datastore.sqlite import SqliteDatastore
from tests.processes import end, start_python, wait_for
from tests.unit.test_sqlite import put, run_python


class LooksAtTheFile(SqliteDatastore):
    """The broken twin: sees whether it may write the file by opening and closing it."""

    def __init__(self, path: Path) -> None:
        os.close(os.open(path, os.O_RDWR))
        super().__init__(path)


OTHER = """
import pathlib, sys
from datastore import Expected
from datastore.sqlite import SqliteDatastore
from tests.processes import wait_for
store = SqliteDatastore(sys.argv[1])
store.create("of-another", "p", {})
pathlib.Path(sys.argv[2]).touch()
wait_for(pathlib.Path(sys.argv[3]).exists, "the job is claimed", deadline_ms=60_000)
print(type(store.update_if_match("job", "p", Expected(rev=1), {"holder": "other"})).__name__)
"""


def claimed_by_two(path: Path, open_second: Callable[[Path], SqliteDatastore]) -> list[str]:
    """What two processes are told who claim one version of a job, one of them through the second of its two stores."""
    opened, claimed = path.with_name("opened"), path.with_name("claimed")
    with closing(SqliteDatastore(path)) as first:
        put(first, "job", {"holder": None})
        with closing(open_second(path)) as second:
            other = start_python(OTHER, str(path), str(opened), str(claimed))
            try:
                wait_for(opened.exists, "the other process has the file open")
                ours = second.update_if_match("job", "p", Expected(rev=1), {"holder": "we"})
                claimed.touch()
                said, _ = other.communicate(timeout=60)
            finally:
                end(other)
    return [type(ours).__name__, said.strip()]


def test_of_two_processes_one_wins_also_where_one_has_two_stores_on_the_file(tmp_path: Path) -> None:
    assert claimed_by_two(tmp_path / "jobs.db", SqliteDatastore) == ["Ok", "Conflict"]


def test_a_store_that_opens_and_closes_the_file_by_itself_would_have_both_win(tmp_path: Path) -> None:
    assert claimed_by_two(tmp_path / "jobs.db", LooksAtTheFile) == ["Ok", "Ok"]


BACK_UP = """
import sqlite3, sys
with sqlite3.connect(sys.argv[1]) as original, sqlite3.connect(sys.argv[2]) as copy:
    original.backup(copy)
original.close()
"""


def test_a_backup_by_another_process_leaves_two_stores_of_this_one_their_log(tmp_path: Path) -> None:
    path = tmp_path / "jobs.db"
    with closing(SqliteDatastore(path)) as first:
        put(first, "first")
        with closing(SqliteDatastore(path)) as second:
            run_python(BACK_UP, str(path), str(tmp_path / "copy.db"))
            put(second, "second")
            put(first, "again")
    with closing(SqliteDatastore(path)) as later:
        assert [document.id for document in later.find({}).documents] == ["again", "first", "second"]


@pytest.mark.parametrize("create", [True, False])
def test_a_store_opened_beside_another_leaves_the_file_to_it_also_when_it_is_closed(
    tmp_path: Path, *, create: bool
) -> None:
    path = tmp_path / "jobs.db"
    with closing(SqliteDatastore(path)) as store:
        put(store, "before")
        for _ in range(2):
            SqliteDatastore(path, create=create).close()
        run_python("import sys; from datastore.sqlite import SqliteDatastore as S; S(sys.argv[1]).close()", str(path))
        put(store, "after")
        assert isinstance(store.read("before", "p"), Ok)
