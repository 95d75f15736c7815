"""What a SQLite store's failures mean: for each, whether it was written, and what was acknowledged before."""

import errno
import os
import re
import sqlite3
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing, nullcontext
from pathlib import Path
from types import SimpleNamespace

import pytest

from broker.cli import CommandError
from datastore import AtMost, Corrupt, Expected, NotApplied, NotFound, Ok, OutcomeUnknown, Rejected, Unavailable
from datastore import sqlite_session as session_module
from datastore.sqlite import SqliteDatastore
from datastore.sqlite_disk import MAKE_ROOM
from datastore.sqlite_file import SCHEMA_VERSION, translate
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


def run_on_writer(store: SqliteDatastore, sql: str) -> None:
    """On the connection that writes, past the store."""
    writer = store._session._writer
    assert writer is not None
    writer.execute(sql)


def fill_disk(store: SqliteDatastore) -> None:
    run_on_writer(store, "PRAGMA max_page_count=8")


def free_disk(store: SqliteDatastore) -> None:
    run_on_writer(store, "PRAGMA max_page_count=100000")


def test_a_full_disk_is_not_applied_and_leaves_what_was_acknowledged(store: SqliteDatastore, path: Path) -> None:
    fill_disk(store)
    with pytest.raises(NotApplied, match=rf"^{path}: .*full \(nothing was written\){MAKE_ROOM}$"):
        store.create("big", "p", {"payload": BIG})
    assert store.read("big", "p") == NotFound()
    assert isinstance(store.read("before", "p"), Ok)
    assert isinstance(store.update_if_match("before", "p", Expected(rev=1), {"n": 2}), Ok), "what fits still works"
    free_disk(store)
    assert isinstance(store.create("big", "p", {"payload": BIG}), Ok)


def failing(name: str) -> sqlite3.OperationalError:
    error = sqlite3.OperationalError("scripted")
    error.sqlite_errorname = name
    return error


@pytest.mark.parametrize(
    ("error", "blocks_left", "step"),
    [
        (failing("SQLITE_FULL"), 1_000, "make room on its disk"),  # there may be room again as it is looked at
        (failing("SQLITE_IOERR_SHMSIZE"), 7, "make room on its disk"),
        (failing("SQLITE_CANTOPEN"), 0, "make room on its disk"),
        (failing("SQLITE_IOERR_SHMSIZE"), 8, "run it again"),
        (failing("SQLITE_IOERR_SHMSIZE"), None, "run it again"),
        (failing("SQLITE_BUSY"), 0, "run it again"),
        (sqlite3.ProgrammingError("scripted"), 0, "run it again"),
    ],
    ids=lambda given: getattr(given, "sqlite_errorname", None),
)
def test_an_error_is_told_with_a_next_step_only_where_there_is_one(
    path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception, blocks_left: int | None, step: str
) -> None:
    def statvfs(folder: str) -> SimpleNamespace:
        assert folder == str(path.parent)
        if blocks_left is None:
            raise FileNotFoundError
        return SimpleNamespace(f_bavail=blocks_left, f_frsize=4096)

    monkeypatch.setattr(os, "statvfs", statvfs)
    told = CommandError.from_text(str(translate(str(path), error)), otherwise="run it again")
    assert (told.next_step, str(told)) == (step, f"{path}: scripted (nothing was written)")


@pytest.mark.parametrize("suffix", ["", ".lock"])
def test_a_file_that_can_not_be_made_for_want_of_room_says_what_to_do(
    path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str
) -> None:
    make = os.open

    def refuse(name: str, *how: int) -> int:
        if name == f"{path}{suffix}":
            raise OSError(errno.ENOSPC, "No space left on device")
        return make(name, *how)

    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(Unavailable, match=f"^{path}{suffix}: .*No space left on device{MAKE_ROOM}$"):
        SqliteDatastore(path)


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


def test_a_batch_that_goes_on_after_a_failed_write_writes_nothing_and_says_so(
    store: SqliteDatastore, path: Path
) -> None:
    # SQLite rolls back everything at such an error: what came after it would be written without what came before.
    fill_disk(store)

    def write_on() -> None:
        with store.batch():
            put(store, "earlier")
            with pytest.raises(NotApplied, match="full"):
                store.create("big", "p", {"payload": BIG})
            with pytest.raises(NotApplied, match="nothing of this batch"):
                put(store, "later")

    with pytest.raises(NotApplied, match=f"^{path}: nothing of this batch .*{MAKE_ROOM}$"):
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


def test_a_row_that_changed_under_the_write_lock_spoils_the_batch_that_had_read_it(store: SqliteDatastore) -> None:
    # As on a network disk, whose locks don't hold.
    def write_over_it() -> None:
        with store.batch():
            put(store, "earlier")
            store.read("before", "p")
            run_on_writer(store, "UPDATE documents SET etag = 'another' WHERE id = 'before'")
            store.update_if_match("before", "p", Expected(rev=1), {"n": 2})

    with pytest.raises(Unavailable, match="network disk"):
        write_over_it()
    assert store.read("earlier", "p") == NotFound()
    assert isinstance(store.update_if_match("before", "p", Expected(rev=1), {"n": 2}), Ok)


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
    with pytest.raises(Corrupt, match=f"^{path} .*backup"):
        SqliteDatastore(path)
    assert path.read_bytes() == content


def test_a_page_damaged_later_is_corrupt(store: SqliteDatastore, path: Path) -> None:
    put(store, "big", {"payload": BIG})
    store.close()
    size = path.stat().st_size
    with path.open("r+b") as file:
        file.seek(4096)
        file.write(b"\xff" * (size - 4096))
    with pytest.raises(Corrupt, match=f"^{path} .*backup"):
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
    uses: tuple[Callable[[], object], ...] = (
        lambda: store.read("spoilt", "p"),
        lambda: store.update_if_match("spoilt", "p", Expected(rev=1), {}),
        lambda: store.create("spoilt", "p", {}),
    )
    for use in uses:
        with pytest.raises(Corrupt, match=rf"^{path}: document 'spoilt' of 'p' does not parse \((?!None)"):
            use()
    put(store, "z-behind")
    page = store.find({}, limit=2)
    assert [document.id for document in page.documents] == ["before", "z-behind"]
    [unreadable] = page.unreadable
    assert re.match(rf"^{path}: document 'spoilt' of 'p' does not parse \((?!None)", unreadable)
    assert isinstance(store.read("before", "p"), Ok)


def damage(path: Path, before: bytes, after: bytes) -> None:
    """As a bad disk does it: SQLite takes no part, and no index follows."""
    content = path.read_bytes()
    assert len(before) == len(after)
    assert before in content
    path.write_bytes(content.replace(before, after))


@pytest.mark.parametrize("indexes", [(), ("state",)])
@pytest.mark.parametrize("inside", [nullcontext, SqliteDatastore.batch])
def test_a_text_that_is_no_json_hides_nothing_from_a_search_that_looks_into_it(
    path: Path, indexes: tuple[str, ...], inside: Callable[[SqliteDatastore], AbstractContextManager[None]]
) -> None:
    with closing(SqliteDatastore(path, indexes=indexes)) as made:
        for number in range(5):
            put(made, f"job-{number}", {"state": "leased", "kind": "job", "n": number})
    damage(path, b'{"state":"leased","kind":"job","n":2}', b'["state":"leased","kind":"job","n":2}')
    with closing(SqliteDatastore(path, indexes=indexes)) as store, inside(store):
        found: list[str] = []
        named: list[str] = []
        cursor = None
        while not found or cursor is not None:
            page = store.find({"state": "leased", "kind": "job", "n": AtMost(3)}, 1, cursor)
            found += [document.id for document in page.documents]
            named += page.unreadable
            cursor = page.cursor
        assert found == ["job-0", "job-1", "job-3"]
        assert [name for name in named if "'job-2' of 'p' does not parse" not in name] == []
        assert named != []
        put(store, "after")


def test_text_that_is_no_utf8_is_corrupt_and_stops_nobody_else(store: SqliteDatastore, path: Path) -> None:
    put(store, "spoilt", {"token": "secret", "umlaut": "ü"})
    store.close()
    damage(path, "ü".encode(), b"\xff\xff")
    with closing(SqliteDatastore(path)) as again:
        for use in (lambda: again.read("spoilt", "p"), lambda: again.create("spoilt", "p", {})):
            with pytest.raises(Corrupt, match="'spoilt' of 'p' does not parse") as raised:
                use()
            assert "secret" not in str(raised.value)
        with again.batch(lambda: [("spoilt", "p"), ("before", "p")]):
            assert isinstance(again.read("before", "p"), Ok)
            with pytest.raises(Corrupt):
                again.update_if_match("spoilt", "p", Expected(rev=1), {})
            put(again, "after")
        page = again.find({})
        assert [document.id for document in page.documents] == ["after", "before"]
        [unreadable] = page.unreadable
        assert "'spoilt' of 'p' does not parse" in unreadable


def test_a_name_that_is_no_utf8_is_one_of_what_a_search_can_t_read(store: SqliteDatastore, path: Path) -> None:
    put(store, "naïve")
    store.close()
    damage(path, "naïve".encode(), b"na\xff\xffve")
    with closing(SqliteDatastore(path)) as again:
        page = again.find({})
    assert [document.id for document in page.documents] == ["before"]
    assert len(page.unreadable) == 1


def test_a_page_that_is_damaged_further_on_in_what_a_batch_reads_is_corrupt(path: Path) -> None:
    with closing(SqliteDatastore(path)) as made:
        for number in range(9):
            put(made, f"job-{number}", {"payload": str(number) * 12_000})
    content = path.read_bytes()
    went_on_at = content.index(b"7" * 4_092) - 4  # a page that holds nothing else but where the document goes on
    assert went_on_at % 4_096 == 0
    path.write_bytes(content[:went_on_at] + b"\xff" * 4 + content[went_on_at + 4 :])
    with closing(SqliteDatastore(path)) as store, pytest.raises(Corrupt):  # noqa: SIM117
        with store.batch(lambda: [(f"job-{number}", "p") for number in range(9)]):
            pass


def test_a_file_of_a_newer_release_is_refused(store: SqliteDatastore, path: Path) -> None:
    store.close()
    connection = sqlite3.connect(path)
    assert connection.execute("PRAGMA user_version").fetchone() == (SCHEMA_VERSION,)
    connection.execute(f"PRAGMA user_version={SCHEMA_VERSION + 1}")
    connection.close()
    with pytest.raises(Rejected, match=f"^{path} has schema .* upgrade"):
        SqliteDatastore(path)


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


NAMELESS = "as the library's Python part raises it"


class FailingCommit(sqlite3.Connection):
    """Fails at COMMIT with the error that `failure` names, once."""

    failure = ""

    def execute(self, sql: str, parameters: object = (), /) -> sqlite3.Cursor:
        name = FailingCommit.failure
        if sql == "COMMIT" and name:
            FailingCommit.failure = ""
            error = sqlite3.OperationalError(f"scripted {name}")
            if name != NAMELESS:
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
        (NAMELESS, OutcomeUnknown),
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
    with pytest.raises(kind, match=f"^{path}: .*scripted"), store.batch():
        put(store)
    assert store.read("job", "p") == NotFound(), "rolled back"
    put(store)
    store.close()


NO_ROOM = """
import gc, os, resource, sys
from datastore import Unavailable
from datastore.sqlite import SqliteDatastore
path, said = sys.argv[1], []
_, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
gc.disable()  # which would close what was left open, sooner or later
SqliteDatastore(path).close()
opened = SqliteDatastore(path)
resource.setrlimit(resource.RLIMIT_FSIZE, (0, hard))
for use in (lambda: SqliteDatastore(path), lambda: opened.create("x", "p", {}), lambda: opened.read("x", "p")):
    try:
        use()
    except Unavailable:
        files = [os.path.realpath(f"/proc/self/fd/{number}") for number in os.listdir("/proc/self/fd")]
        said.append([file for file in files if file.startswith(path)])
resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
opened.create("after", "p", {})
opened.close()
print(said, [suffix for suffix in ("-wal", "-shm") if os.path.exists(path + suffix)])
"""


def test_a_store_that_can_t_be_opened_for_want_of_room_leaves_nothing_open(path: Path) -> None:
    assert run_python(NO_ROOM, str(path)).strip() == "[[], [], []] []"
    with closing(SqliteDatastore(path)) as store:
        assert [document.id for document in store.find({}).documents] == ["after"]
