"""Files that are taken away from under a SQLite store, or replaced: nothing is written where nobody will find it."""

import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from datastore import Conflict, Expected, NotFound, Ok, Unavailable
from datastore.sqlite import SqliteDatastore
from tests.processes import end, start_python, wait_for
from tests.unit.test_sqlite import put, run_python


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "jobs.db"


@pytest.fixture(params=["file", "link", "folder"])
def name(request: pytest.FixtureRequest, path: Path) -> Path:
    """What the store is opened by: the file itself, a link to it, or a link to its folder."""
    elsewhere = path.parent.with_name(f"{path.parent.name}-links")
    elsewhere.mkdir()
    match request.param:
        case "link":
            (elsewhere / "link.db").symlink_to(path)
            return elsewhere / "link.db"
        case "folder":
            (elsewhere / "folder").symlink_to(path.parent)
            return elsewhere / "folder" / path.name
        case _:
            return path


@pytest.fixture
def store(name: Path) -> Iterator[SqliteDatastore]:
    opened = SqliteDatastore(name)
    put(opened, "job", {"holder": None})
    yield opened
    opened.close()


def back_up(path: Path) -> Path:
    copy = path.with_name("copy")
    with closing(sqlite3.connect(path)) as original, closing(sqlite3.connect(copy)) as backup:
        original.backup(backup)
    return copy


def restore(copy: Path, path: Path) -> None:
    """As it should be done, but that nobody was stopped before."""
    for name in (path, Path(f"{path}-wal"), Path(f"{path}-shm")):
        name.unlink()
    copy.replace(path)


OTHER = """
import pathlib, sys
from datastore import Expected
from datastore.sqlite import SqliteDatastore
from tests.processes import wait_for
store = SqliteDatastore(sys.argv[1])
assert store.update_if_match("job", "p", Expected(rev=9), {}) and store.read("job", "p")
pathlib.Path(sys.argv[2]).touch()
wait_for(pathlib.Path(sys.argv[3]).exists, "the backup is restored", deadline_ms=60_000)
print(type(store.update_if_match("job", "p", Expected(rev=1), {"holder": "other"})).__name__)
"""


def test_of_two_who_claim_one_version_one_wins_also_where_a_backup_was_put_in_place_under_them(
    store: SqliteDatastore, path: Path, tmp_path: Path
) -> None:
    opened, restored = tmp_path / "opened", tmp_path / "restored"
    other = start_python(OTHER, str(path), str(opened), str(restored))
    try:
        wait_for(opened.exists, "the other process has the file open")
        restore(back_up(path), path)
        assert isinstance(store.update_if_match("job", "p", Expected(rev=1), {"holder": "we"}), Ok)
        restored.touch()
        said, _ = other.communicate(timeout=30)
        assert said.split() == [Conflict.__name__]
    finally:
        end(other)
    who = "import sys; from datastore.sqlite import SqliteDatastore as S; print(S(sys.argv[1]).read('job', 'p'))"
    assert "'we'" in run_python(who, str(path)).replace('"', "'")


def test_a_reader_sees_the_backup_too(store: SqliteDatastore, path: Path) -> None:
    copy = back_up(path)
    put(store, "later")
    assert isinstance(store.read("later", "p"), Ok)
    restore(copy, path)
    assert store.read("later", "p") == NotFound()
    assert isinstance(store.read("job", "p"), Ok)


def test_a_backup_that_came_without_a_log_is_written_with_one_and_others_may_open_it(
    store: SqliteDatastore, path: Path
) -> None:
    copy = path.with_name("copy")
    with closing(sqlite3.connect(path)) as original:
        original.execute("VACUUM INTO ?", (str(copy),))
    restore(copy, path)
    put(store, "later")
    with closing(SqliteDatastore(path)) as other:
        put(other, "of-another")
        put(store, "last")
        assert isinstance(store.read("of-another", "p"), Ok)
        assert isinstance(other.read("last", "p"), Ok)


def test_beside_the_log_of_another_file_nothing_is_read_or_written(store: SqliteDatastore, path: Path) -> None:
    back_up(path).replace(path)
    for _ in range(2):
        with pytest.raises(Unavailable, match="replaced while in use"):
            put(store, "later")
        with pytest.raises(Unavailable, match="replaced while in use"):
            store.read("job", "p")


def test_a_file_that_was_removed_is_unavailable_and_not_made_anew(store: SqliteDatastore, path: Path) -> None:
    assert isinstance(store.read("job", "p"), Ok)
    for file in path.parent.iterdir():
        file.unlink()
    with pytest.raises(Unavailable, match=r"was removed \(nothing was written\); put it, or a copy, there again$"):
        put(store, "into-the-void")
    with pytest.raises(Unavailable, match=r"was removed \(nothing was written\); put it, or a copy, there again$"):
        store.read("job", "p")
    assert not path.exists()


@pytest.mark.parametrize("left", ["nothing", "an empty file"])
def test_a_file_that_was_moved_away_finds_its_log_when_it_comes_back(
    store: SqliteDatastore, path: Path, left: str
) -> None:
    put(store, "last")
    away = path.rename(path.with_name("away.db"))
    if left == "an empty file":
        path.touch()
    with pytest.raises(Unavailable, match=r"committed last \(nothing was written\): put the file there again"):
        SqliteDatastore(str(path))
    away.replace(path)
    with closing(SqliteDatastore(str(path))) as again:
        assert isinstance(again.read("last", "p"), Ok)


@pytest.mark.parametrize("removed", ["-wal", "-shm"])
def test_without_its_log_nothing_is_written_and_what_was_is_there_after_a_restart(
    store: SqliteDatastore, path: Path, removed: str
) -> None:
    path.with_name(path.name + removed).unlink()
    for _ in range(2):
        with pytest.raises(Unavailable, match="removed while in use"):
            put(store, "later")
        with pytest.raises(Unavailable, match="removed while in use"):
            store.read("job", "p")
    store.close()
    with closing(SqliteDatastore(path)) as again:
        assert isinstance(again.read("job", "p"), Ok)
        put(again, "later")


def test_who_comes_by_a_link_and_who_comes_by_the_file_stand_in_one_queue(store: SqliteDatastore, path: Path) -> None:
    hasty, patient = SqliteDatastore(path, timeout_ms=5), SqliteDatastore(path)
    with closing(hasty), closing(patient):
        with store.batch(), pytest.raises(Unavailable, match="has held the write lock"):
            put(hasty, "given-up")
        put(patient, "later")


def test_a_link_that_leads_to_another_file_by_now_is_followed_by_nobody_who_came_by_it_before(path: Path) -> None:
    link = path.with_name("link.db")
    link.symlink_to(path)
    with closing(SqliteDatastore(link)) as used, closing(SqliteDatastore(link)) as unused:
        put(used, "before")
        other = back_up(path)
        link.unlink()
        for there in (other, path.with_name("nowhere"), None):
            if there is not None:
                link.symlink_to(there)
            for store in (used, unused):
                with pytest.raises(Unavailable, match="another file by now"):
                    put(store, "later")
                with pytest.raises(Unavailable, match="another file by now"):
                    store.read("before", "p")
            link.unlink(missing_ok=True)
        link.symlink_to(path)
        put(used, "again")
        assert isinstance(unused.read("again", "p"), Ok)


CLAIMS = """
import sys
from datastore import Expected
from datastore.sqlite import SqliteDatastore
store = SqliteDatastore(sys.argv[1])
print(type(store.update_if_match("job", "p", Expected(rev=1), {"holder": "other"})).__name__)
"""


def claimed_by_two(name: Path, path: Path) -> list[str]:
    """What two processes are told who claim one version of a job, where the log was removed under the first."""
    with closing(SqliteDatastore(path)) as before:
        put(before, "job", {"holder": None})
    with closing(SqliteDatastore(name)) as store:
        put(store, "other")
        for suffix in ("-wal", "-shm"):
            path.with_name(path.name + suffix).unlink()
        try:
            ours = type(store.update_if_match("job", "p", Expected(rev=1), {"holder": "we"})).__name__
        except Unavailable:
            ours = Unavailable.__name__
        return [ours, run_python(CLAIMS, str(name)).strip()]


def test_of_two_who_claim_one_version_one_wins_whatever_the_store_is_opened_by(name: Path, path: Path) -> None:
    assert claimed_by_two(name, path) == ["Unavailable", "Ok"]


def test_a_store_that_looked_for_the_log_beside_a_link_would_have_both_win(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    link = path.with_name("link.db")
    link.symlink_to(path)
    monkeypatch.setattr(os.path, "realpath", os.path.abspath)
    assert claimed_by_two(link, path) == ["Ok", "Ok"]
