"""What a SQLite store's failures mean: for each, whether it was written, and what was acknowledged before."""

import os
import sqlite3
import tempfile
from collections.abc import Iterator
from pathlib import Path
from threading import Thread

import pytest

from datastore import Corrupt, Expected, NotApplied, NotFound, Ok, OutcomeUnknown, Rejected, Unavailable
from datastore import sqlite_session as session_module
from datastore.sqlite import SqliteDatastore
from datastore.sqlite_file import SCHEMA_VERSION
from tests.processes import end, start_python, wait_for
from tests.unit.test_sqlite import put, run_python

BIG = "x" * 100_000


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "jobs.db"


@pytest.fixture
def store(path: Path) -> Iterator[SqliteDatastore]:
    opened = SqliteDatastore(path, timeout_ms=10_000)
    put(opened, "before", {"n": 1})
    yield opened
    opened.close()


def run_on_writer(store: SqliteDatastore, pragma: str) -> None:
    """Set what only holds for the connection that writes."""
    writer = store._session._writer
    assert writer is not None
    writer.execute(pragma)


def fill_disk(store: SqliteDatastore) -> None:
    run_on_writer(store, "PRAGMA max_page_count=8")


def free_disk(store: SqliteDatastore) -> None:
    run_on_writer(store, "PRAGMA max_page_count=100000")


def test_a_full_disk_is_not_applied_and_leaves_what_was_acknowledged(store: SqliteDatastore) -> None:
    fill_disk(store)
    with pytest.raises(NotApplied, match="full"):
        store.create("big", "p", {"payload": BIG})
    assert store.read("big", "p") == NotFound()
    assert isinstance(store.read("before", "p"), Ok)
    assert isinstance(store.update_if_match("before", "p", Expected(rev=1), {"n": 2}), Ok), "what fits still works"
    free_disk(store)
    assert isinstance(store.create("big", "p", {"payload": BIG}), Ok)


def test_a_full_disk_in_a_batch_is_not_applied_for_all_of_it(store: SqliteDatastore) -> None:
    fill_disk(store)

    def write_too_much() -> None:
        with store.batch():
            put(store, "in-batch")
            store.create("big", "p", {"payload": BIG})

    with pytest.raises(NotApplied, match="full"):
        write_too_much()
    free_disk(store)
    assert store.read("in-batch", "p") == NotFound()
    assert isinstance(store.read("before", "p"), Ok)


def test_a_batch_that_goes_on_after_a_failed_write_writes_nothing_and_says_so(store: SqliteDatastore) -> None:
    # SQLite rolls back everything at such an error: what came after it would be written without what came before.
    fill_disk(store)

    def write_on() -> None:
        with store.batch():
            put(store, "earlier")
            with pytest.raises(NotApplied, match="full"):
                store.create("big", "p", {"payload": BIG})
            with pytest.raises(NotApplied, match="nothing of this batch"):
                put(store, "later")

    with pytest.raises(NotApplied, match="nothing of this batch"):
        write_on()
    free_disk(store)
    assert [document.id for document in store.find({}).documents] == ["before"]


def test_a_document_larger_than_sqlite_takes_is_rejected_and_nothing_is_written(store: SqliteDatastore) -> None:
    writer = store._session._writer
    assert writer is not None
    writer.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, 10_000)  # a thousand million by default
    with pytest.raises(Rejected, match="larger than SQLite takes"):
        put(store, "big", {"payload": BIG})
    put(store, "small")
    assert [document.id for document in store.find({}).documents] == ["before", "small"]


def test_a_read_only_database_is_unavailable_and_nothing_is_written(store: SqliteDatastore) -> None:
    run_on_writer(store, "PRAGMA query_only=ON")
    with pytest.raises(Unavailable, match="readonly"):
        put(store)
    run_on_writer(store, "PRAGMA query_only=OFF")
    assert store.read("job", "p") == NotFound()


def test_a_file_that_may_not_be_written_is_unavailable_at_once() -> None:
    # Not in pytest's folder, which nobody but its owner may enter.
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "jobs.db"
        SqliteDatastore(path).close()
        path.chmod(0o444)
        Path(folder).chmod(0o555)
        code = """
import os, sys
from datastore import Unavailable
from datastore.sqlite import SqliteDatastore
if os.geteuid() == 0:
    os.setuid(65534)  # root may write everything; nobody may not
try:
    SqliteDatastore(sys.argv[1])
except Unavailable as error:
    print(error)
"""
        assert "may write" in run_python(code, str(path))
        Path(folder).chmod(0o755)


def test_a_path_that_is_no_file_is_unavailable(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for path in (tmp_path, tmp_path / "file" / "jobs.db"):
        with pytest.raises(Unavailable, match="may write"):
            SqliteDatastore(path)


def test_a_folder_that_is_gone_is_unavailable_and_not_written_into_the_void(store: SqliteDatastore, path: Path) -> None:
    for file in path.parent.iterdir():
        file.unlink()
    path.parent.rmdir()
    with pytest.raises(Unavailable, match="lock file"):
        put(store)
    path.parent.mkdir()


def test_a_damaged_header_is_corrupt_and_the_file_is_left_alone(path: Path) -> None:
    content = b"this is no database at all" * 1_000
    path.write_bytes(content)
    with pytest.raises(Corrupt, match="backup"):
        SqliteDatastore(path)
    assert path.read_bytes() == content


def test_a_page_damaged_later_is_corrupt(store: SqliteDatastore, path: Path) -> None:
    put(store, "big", {"payload": BIG})
    store.close()
    size = path.stat().st_size
    with path.open("r+b") as file:
        file.seek(4096)
        file.write(b"\xff" * (size - 4096))
    with pytest.raises(Corrupt, match="backup"):
        SqliteDatastore(path).read("before", "p")


@pytest.mark.parametrize("body", ["not json", "[1]", "null", '{"a": NaN}', '{"a": "\\ud800"}'])
def test_a_body_that_does_not_parse_is_corrupt_and_stops_nobody_else(
    store: SqliteDatastore, path: Path, body: str
) -> None:
    put(store, "spoilt")
    connection = sqlite3.connect(path)
    connection.execute("UPDATE documents SET body = ? WHERE id = 'spoilt'", (body,))
    connection.commit()
    connection.close()
    for use in (
        lambda: store.read("spoilt", "p"),
        lambda: store.update_if_match("spoilt", "p", Expected(rev=1), {}),
        lambda: store.create("spoilt", "p", {}),
        lambda: store.find({}),
    ):
        with pytest.raises(Corrupt, match="spoilt"):
            use()
    assert isinstance(store.read("before", "p"), Ok)


def test_a_search_over_a_body_that_is_no_json_is_corrupt(store: SqliteDatastore, path: Path) -> None:
    connection = sqlite3.connect(path)
    connection.execute("UPDATE documents SET body = 'not json'")
    connection.commit()
    connection.close()
    with pytest.raises(Corrupt, match="no JSON"):
        store.find({"n": 1})


def test_a_file_of_a_newer_release_is_refused(store: SqliteDatastore, path: Path) -> None:
    store.close()
    connection = sqlite3.connect(path)
    assert connection.execute("PRAGMA user_version").fetchone() == (SCHEMA_VERSION,)
    connection.execute(f"PRAGMA user_version={SCHEMA_VERSION + 1}")
    connection.close()
    with pytest.raises(Rejected, match="upgrade"):
        SqliteDatastore(path)


HOLD = """
import pathlib, sys
from datastore.sqlite import SqliteDatastore
from tests.processes import wait_for
store = SqliteDatastore(sys.argv[1])
with store.batch():
    store.create("held-1", "p", {})
    store.create("held-2", "p", {})
    pathlib.Path(sys.argv[2]).touch()
    wait_for(pathlib.Path(sys.argv[3]).exists, "the release", deadline_ms=60_000)
"""


GIVE_UP = """
import sys
from datastore import Unavailable
from datastore.sqlite_lock import file_lock
try:
    with file_lock(sys.argv[1] + ".lock", timeout_ms=10):
        print("no other process held it")
except Unavailable as error:
    print(error)
"""


def test_a_write_waits_for_another_process_s_batch(store: SqliteDatastore, path: Path, tmp_path: Path) -> None:
    held, release = tmp_path / "held", tmp_path / "release"
    holder = start_python(HOLD, str(path), str(held), str(release))
    try:
        wait_for(held.exists, "the other process holds a batch")
        written: list[object] = []
        thread = Thread(target=lambda: written.append(put(store)))
        thread.start()
        wait_for(lambda: _waits_for_the_lock(path), "our write waits")
        assert written == []
        release.touch()
        thread.join(20)
        assert len(written) == 1
        assert isinstance(store.read("held-2", "p"), Ok)
    finally:
        end(holder)


def _waits_for_the_lock(path: Path) -> bool:
    # /proc/locks marks who waits with "->"; elsewhere there is no such view, and the write is simply given its time.
    if not os.path.exists("/proc/locks"):
        return True
    inode = os.stat(f"{path}.lock").st_ino
    lines = Path("/proc/locks").read_text().splitlines()
    return any("->" in line and f":{inode} " in line for line in lines)


def test_a_write_that_waited_too_long_is_unavailable_and_reads_go_on(path: Path, tmp_path: Path) -> None:
    store = SqliteDatastore(path, timeout_ms=100)
    put(store, "before")
    held, release = tmp_path / "held", tmp_path / "release"
    holder = start_python(HOLD, str(path), str(held), str(release))
    try:
        wait_for(held.exists, "the other process holds a batch")
        with pytest.raises(Unavailable, match="another process"):
            put(store)
        assert isinstance(store.read("before", "p"), Ok)
        assert "another process" in run_python(GIVE_UP, str(path)), "and a process that gave up can end"
        assert holder.poll() is None
        release.touch()
        wait_for(lambda: isinstance(store.read("held-1", "p"), Ok), "the other process commits")
        assert isinstance(store.create("job", "p", {}), Ok), "the turn we gave up came back"
    finally:
        end(holder)
        store.close()


def test_a_foreign_program_s_lock_is_unavailable_too(path: Path) -> None:
    store = SqliteDatastore(path, timeout_ms=50)
    foreign = sqlite3.connect(path, isolation_level=None)
    foreign.execute("BEGIN IMMEDIATE")
    with pytest.raises(Unavailable, match="locked"):
        put(store)
    foreign.execute("ROLLBACK")
    foreign.close()
    put(store)
    store.close()


def test_a_thread_that_waited_too_long_is_unavailable(path: Path) -> None:
    store = SqliteDatastore(path, timeout_ms=50)
    failures: list[Exception] = []

    def write() -> None:
        try:
            put(store)
        except Unavailable as error:
            failures.append(error)

    with store.batch():
        thread = Thread(target=write)
        thread.start()
        thread.join(20)
    assert [str(error) for error in failures if "another thread" in str(error)] != []
    store.close()


def test_a_process_killed_in_mid_batch_leaves_nothing_of_it_and_holds_nobody_up(
    store: SqliteDatastore, path: Path, tmp_path: Path
) -> None:
    held = tmp_path / "held"
    holder = start_python(HOLD, str(path), str(held), str(tmp_path / "never"))
    wait_for(held.exists, "the other process holds a batch")
    end(holder)
    assert isinstance(store.create("after", "p", {}), Ok)
    assert [document.id for document in store.find({}).documents] == ["after", "before"]


def test_a_file_size_limit_hit_by_the_commit_is_outcome_unknown_and_earlier_writes_stay(path: Path) -> None:
    code = """
import os, resource, sys
from datastore import Ok, OutcomeUnknown
from datastore.sqlite import SqliteDatastore
store = SqliteDatastore(sys.argv[1])
assert isinstance(store.create("before", "p", {}), Ok)
limit = os.path.getsize(sys.argv[1] + "-wal") + 4096
_, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
try:
    store.create("big", "p", {"payload": "x" * 60_000})
except OutcomeUnknown as error:
    message = str(error)
resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
assert isinstance(store.read("before", "p"), Ok)
assert isinstance(store.create("after", "p", {}), Ok)
print(message)
store.close()
"""
    assert "read before any other write" in run_python(code, str(path))
    store = SqliteDatastore(path)
    assert [document.id for document in store.find({}).documents] == ["after", "before"]
    store.close()


class FailingCommit(sqlite3.Connection):
    """Fails at COMMIT with the error that `failure` names, once."""

    failure = ""

    def execute(self, sql: str, parameters: object = (), /) -> sqlite3.Cursor:
        name = FailingCommit.failure
        if sql == "COMMIT" and name:
            FailingCommit.failure = ""
            error = sqlite3.OperationalError(f"scripted {name}")
            error.sqlite_errorname = name
            raise error
        return super().execute(sql, parameters)  # type: ignore[arg-type]  # passed on as they came


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("SQLITE_BUSY", NotApplied),
        ("SQLITE_BUSY_SNAPSHOT", NotApplied),
        ("SQLITE_FULL", NotApplied),
        ("SQLITE_IOERR_FSYNC", OutcomeUnknown),
        ("SQLITE_IOERR_WRITE", OutcomeUnknown),
        ("SQLITE_CORRUPT", OutcomeUnknown),
    ],
)
def test_an_error_of_the_commit_is_not_applied_only_where_that_is_certain(
    path: Path, monkeypatch: pytest.MonkeyPatch, name: str, kind: type[Exception]
) -> None:
    monkeypatch.setattr(
        session_module,
        "open_connection",
        lambda path, timeout_ms: sqlite3.connect(
            path, timeout=timeout_ms, isolation_level=None, check_same_thread=False, factory=FailingCommit
        ),
    )
    store = SqliteDatastore(path)
    put(store, "before")
    FailingCommit.failure = name
    with pytest.raises(kind, match="scripted"), store.batch():
        put(store)
    assert store.read("job", "p") == NotFound(), "rolled back"
    put(store)
    store.close()
