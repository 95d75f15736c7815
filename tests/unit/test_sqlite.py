"""What the SQLite store promises beyond the contract: files, transactions, threads and searches."""

import sqlite3
import stat
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from threading import Thread

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from datastore import (
    AnyOf,
    AtLeast,
    AtMost,
    Conflict,
    Corrupt,
    Document,
    Expected,
    Filter,
    JsonValue,
    Missing,
    NotFound,
    Ok,
    Rejected,
    Unavailable,
)
from datastore.interface import Ahead, DocumentName, nothing_ahead
from datastore.memory import MemoryDatastore
from datastore.sqlite import AHEAD_MAX, SqliteDatastore
from datastore.sqlite_query import page_query
from tests.processes import end, start_python, wait_for

INDEXES = ("state", "lease.expires_ms")
DEADLINE_S = 30


@pytest.fixture
def path(tmp_path: Path) -> Path:
    (tmp_path / "state").mkdir()
    return tmp_path / "state" / "jobs.db"


@pytest.fixture
def store(path: Path) -> Iterator[SqliteDatastore]:
    opened = SqliteDatastore(path, indexes=INDEXES)
    yield opened
    opened.close()


def put(store: SqliteDatastore, id: str = "job", body: dict[str, JsonValue] | None = None) -> Document:
    result = store.create(id, "p", body or {})
    assert isinstance(result, Ok)
    return result.document


def run_python(code: str, *arguments: str) -> str:
    """What the code printed; it must exit with 0."""
    process = start_python(code, *arguments)
    try:
        output, _ = process.communicate(timeout=DEADLINE_S)
        assert process.returncode == 0, output
        return output
    finally:
        end(process)


def test_all_its_files_are_the_owners_alone(store: SqliteDatastore, path: Path) -> None:
    put(store)
    modes = {file.name: stat.S_IMODE(file.stat().st_mode) for file in path.parent.iterdir()}
    assert modes == dict.fromkeys(["jobs.db", "jobs.db-wal", "jobs.db-shm", "jobs.db.lock"], 0o600)


def test_who_only_looks_makes_no_file_and_nobody_makes_a_folder(path: Path) -> None:
    with pytest.raises(Missing, match="no file"):
        SqliteDatastore(path, create=False)
    with pytest.raises(Missing, match="no folder"):
        SqliteDatastore(path.parent / "typo" / "jobs.db")
    assert list(path.parent.iterdir()) == []
    SqliteDatastore(path).close()
    SqliteDatastore(path, create=False).close()


def test_what_was_written_is_there_when_the_file_is_opened_again(store: SqliteDatastore, path: Path) -> None:
    document = put(store, body={"text": "世界"})
    store.close()
    again = SqliteDatastore(path)
    assert again.read("job", "p") == Ok(document)
    again.close()


def test_commits_are_synced_in_full(store: SqliteDatastore) -> None:
    put(store)
    writer = store._session._writer
    assert writer is not None
    assert writer.execute("PRAGMA synchronous").fetchone() == (2,), "2 is FULL"
    assert writer.execute("PRAGMA journal_mode").fetchone() == ("wal",)


def test_an_exception_in_a_batch_rolls_all_of_it_back_and_propagates(store: SqliteDatastore) -> None:
    before = put(store, body={"n": 0})

    def write_and_fail() -> None:
        with store.batch():
            store.update_if_match("job", "p", Expected(rev=1), {"n": 1})
            put(store, "other")
            raise KeyError("the caller's")

    with pytest.raises(KeyError, match="the caller's"):
        write_and_fail()
    assert store.read("job", "p") == Ok(before)
    assert store.read("other", "p") == NotFound()


def test_a_refused_body_does_not_spoil_the_batch(store: SqliteDatastore) -> None:
    with store.batch():
        put(store)
        with pytest.raises(Rejected):
            store.create("\ud800", "p", {})
        with pytest.raises(ValueError, match="rev"):
            store.create("bad", "p", {"rev": 1})
        put(store, "other")
    assert [document.id for document in store.find({}).documents] == ["job", "other"]


def test_in_a_batch_too_what_is_not_there_is_not_found(store: SqliteDatastore) -> None:
    with store.batch():
        for _ in range(2):
            assert store.read("job", "p") == NotFound()
        assert store.update_if_match("job", "p", Expected(rev=1), {}) == NotFound()
        document = put(store)
        assert store.read("job", "p") == Ok(document)


def test_a_batch_sees_what_was_there_and_what_it_wrote_itself_however_often_it_looks(store: SqliteDatastore) -> None:
    before = put(store, body={"n": 0})
    with store.batch():
        assert [store.read("job", "p") for _ in range(2)] == [Ok(before)] * 2
        updated = store.update_if_match("job", "p", Expected(rev=1), {"n": 1})
        assert isinstance(updated, Ok)
        other = put(store, "other", {"n": 1})
        assert store.find({"n": 1}).documents == (updated.document, other)


def selects(store: SqliteDatastore, *reads: DocumentName, ahead: Ahead = nothing_ahead) -> int:
    """How often a batch that reads these asks for documents."""
    statements: list[str] = []
    with store.batch(ahead):
        writer = store._session._writer
        assert writer is not None
        writer.set_trace_callback(statements.append)
        for key in reads:
            store.read(*key)
    writer.set_trace_callback(None)
    return sum(statement.startswith("SELECT") for statement in statements)


def test_what_lies_ahead_is_not_asked_for_again(store: SqliteDatastore) -> None:
    keys = [(put(store, name).id, "p") for name in ("a", "b:spec", 'é"\\')]
    assert selects(store, *keys) == 3
    assert selects(store, *keys, ahead=lambda: keys) == 0
    assert selects(store, *keys, ahead=lambda: keys[:2]) == 1


def test_what_is_not_found_ahead_is_not_asked_for_again_either(store: SqliteDatastore) -> None:
    absent = [("none", "p"), ("later", "p")]
    assert selects(store, *absent, ahead=lambda: absent) == 0
    with store.batch(lambda: absent):
        document = put(store, "later")
        assert store.read("later", "p") == Ok(document)
        assert store.read("none", "p") == NotFound()


def test_no_more_than_so_much_is_read_ahead(store: SqliteDatastore) -> None:
    absent = [(f"none-{number}", "p") for number in range(AHEAD_MAX + 1)]
    assert selects(store, *absent[-2:], ahead=lambda: absent) == 1


def test_of_one_name_in_two_partitions_both_are_read_as_they_are(store: SqliteDatastore) -> None:
    documents = [store.create("twice", partition_key, {}) for partition_key in ("p", "q")]
    with store.batch(lambda: [("twice", "p"), ("twice", "q")]):
        assert [store.read("twice", partition_key) for partition_key in ("p", "q")] == documents


def test_a_name_that_sqlites_json_reads_otherwise_is_looked_at_when_it_is_read(store: SqliteDatastore) -> None:
    beyond = put(store, "a\0b")  # it ends a text at a null character
    with store.batch(lambda: [("a\0b", "p"), ("none", "p")]):
        assert store.read("a\0b", "p") == Ok(beyond)
        assert store.read("none", "p") == NotFound()


def test_a_name_that_no_document_can_have_spoils_no_batch_that_it_lies_ahead_of(store: SqliteDatastore) -> None:
    document = put(store)
    with store.batch(lambda: [("\ud800", "p"), ("job", "p")]):
        assert store.read("job", "p") == Ok(document)


@pytest.mark.parametrize("bad", ["bad", 'b"\\d'])
def test_a_document_that_does_not_parse_spoils_no_batch_that_it_lies_ahead_of(
    store: SqliteDatastore, path: Path, bad: str
) -> None:
    put(store, "a")
    put(store, bad)
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("UPDATE documents SET body = '[]' WHERE id <> 'a'")
    with store.batch(lambda: [(bad, "p"), ("a", "p")]):
        assert isinstance(store.read("a", "p"), Ok)
        with pytest.raises(Corrupt):
            store.read(bad, "p")


def test_a_batch_in_a_batch_is_a_value_error(store: SqliteDatastore) -> None:
    with store.batch(), pytest.raises(ValueError, match="already"), store.batch():
        pass


def test_closing_in_a_batch_is_a_value_error(store: SqliteDatastore) -> None:
    with store.batch(), pytest.raises(ValueError, match="after the batch"):
        store.close()


def test_a_store_that_is_closed_in_the_midst_of_a_write_ends_with_it(path: Path) -> None:
    def closes() -> str:  # as the handler of a signal may
        closed.close()
        return "tag"

    closed = SqliteDatastore(path, etag_source=closes)
    document = put(closed)
    with pytest.raises(Unavailable, match="closed"):
        closed.read("job", "p")
    with closing(SqliteDatastore(path)) as again:
        assert again.read("job", "p") == Ok(document)


def test_a_page_holds_a_hundred_documents_unless_told(store: SqliteDatastore) -> None:
    with store.batch():
        for number in range(101):
            put(store, f"{number:03}")
    page = store.find({})
    assert len(page.documents) == 100
    assert [document.id for document in store.find({}, cursor=page.cursor).documents] == ["100"]


def test_another_thread_reads_the_last_commit_at_once_and_not_an_open_batch(store: SqliteDatastore) -> None:
    before = put(store, body={"n": 0})
    seen: list[object] = []
    with store.batch():
        store.update_if_match("job", "p", Expected(rev=1), {"n": 1})
        thread = Thread(target=lambda: seen.append(store.read("job", "p")))
        thread.start()
        thread.join(DEADLINE_S)
        assert seen == [Ok(before)]


def test_another_threads_write_is_not_part_of_an_open_batch(store: SqliteDatastore) -> None:
    thread = Thread(target=lambda: put(store, "theirs"))

    def write_and_fail() -> None:
        with store.batch():
            put(store, "ours")
            thread.start()
            raise KeyError("the caller's")

    with pytest.raises(KeyError, match="the caller's"):
        write_and_fail()
    thread.join(DEADLINE_S)
    assert [document.id for document in store.find({}).documents] == ["theirs"]


def test_a_conflict_shows_the_version_that_won(store: SqliteDatastore) -> None:
    put(store)
    won = store.update_if_match("job", "p", Expected(rev=1), {"n": 2})
    assert isinstance(won, Ok)
    assert store.update_if_match("job", "p", Expected(rev=1), {"n": 3}) == Conflict(won.document)
    assert store.create("job", "p", {}) == Conflict(won.document)


def test_a_closed_store_says_so(store: SqliteDatastore) -> None:
    store.close()
    store.close()
    for use in (lambda: store.read("job", "p"), lambda: put(store), lambda: store.find({})):
        with pytest.raises(Unavailable, match="closed"):
            use()


def test_many_processes_may_make_the_same_file_at_once(path: Path) -> None:
    code = """
import sys
from pathlib import Path
from datastore.sqlite import AHEAD_MAX, SqliteDatastore
from tests.processes import wait_for
wait_for(Path(sys.argv[2]).exists, "the start")
SqliteDatastore(sys.argv[1], indexes=["state"]).create(sys.argv[3], "p", {})
"""
    go = path.parent.parent / "go"
    processes = [start_python(code, str(path), str(go), f"{number}") for number in range(6)]
    try:
        go.touch()
        outputs = [process.communicate(timeout=DEADLINE_S)[0] for process in processes]
        assert [process.returncode for process in processes] == [0] * 6, outputs
    finally:
        for process in processes:
            end(process)
    store = SqliteDatastore(path)
    assert len(store.find({}).documents) == 6
    store.close()


@pytest.mark.parametrize(
    ("filter", "used", "sorted_"),
    [
        ({"state": "ready"}, "by state", False),
        ({"state": "ready", "queue": "builds"}, "by state", False),
        ({"state": AnyOf(("ready", "leased"))}, "by state", False),
        ({"state": AnyOf(tuple("abcdefghijklmnop"))}, "by state", False),
        ({"state": AnyOf(tuple("abcdefghijklmnopq"))}, "by state", True),
        ({"state": AnyOf(("ready",)), "queue": "builds"}, "by state", False),
        ({"lease.expires_ms": AtMost(10)}, "by lease.expires_ms", True),
        ({"state": "leased", "lease.expires_ms": AtMost(10)}, "by lease.expires_ms", True),
        ({"lease.expires_ms": 10, "state": AtMost(3)}, "by state", True),
        ({"state": "leased", "lease.expires_ms": AtLeast(10)}, "by lease.expires_ms", True),
        ({"lease.expires_ms": AnyOf((10, 11)), "state": "ready"}, "by state", False),
        ({"partition_key": "p", "state": "ready"}, "sqlite_autoindex_documents_1", False),
    ],
    ids=str,
)
def test_a_search_goes_through_the_index_that_narrows_most(
    store: SqliteDatastore, path: Path, filter: Filter, used: str, sorted_: bool
) -> None:
    put(store)
    connection = sqlite3.connect(path)
    for after in (None, ("p", "a")):
        sql, parameters = page_query(filter, 10, after, indexes=INDEXES)
        plan = str(connection.execute(f"EXPLAIN QUERY PLAN {sql}", parameters).fetchall())
        assert f"SEARCH documents USING INDEX {used} (" in plan
        assert ("USE TEMP B-TREE" in plan) == sorted_, plan
    connection.close()


@pytest.mark.parametrize("index", ["state')--", "", "a b", "a.", "a'"])
def test_an_index_that_is_no_path_is_a_value_error(path: Path, index: str) -> None:
    with pytest.raises(ValueError, match="dotted path"):
        SqliteDatastore(path, indexes=[index])
    assert not path.exists()


@pytest.mark.parametrize(
    ("stored", "filter", "found"),
    [
        ("a\0b", {"n": "a\0b"}, True),
        ("a\0b", {"n": AnyOf(("x", "a\0b"))}, True),
        ("a\0c", {"n": "a\0b"}, False),
        (2**63 - 1, {"n": 2**63 - 1}, True),
        (-(2**63) + 1, {"n": -(2**63) + 1}, True),
        (2**63, {"n": 2**63 - 1}, False),
        (2**70, {"n": AtMost(10**400)}, True),
        (-(2**70), {"n": AtMost(-(10**400))}, False),
    ],
)
def test_a_value_beyond_what_sqlite_holds_is_found_all_the_same(
    store: SqliteDatastore, stored: JsonValue, filter: Filter, found: bool
) -> None:
    document = put(store, body={"n": stored})
    assert store.find(filter).documents == ((document,) if found else ())


def test_a_search_goes_on_behind_rows_that_only_sql_takes_for_found(store: SqliteDatastore) -> None:
    # `true` is 1 to SQLite, and 1 is at most 5; to a filter it is no number.
    for partition_key in ("p", "a", "z"):
        for number in range(9):
            body: dict[str, JsonValue] = {"n": 5 if number in (3, 4, 8) else True}
            store.create(f"{number}", partition_key, body)
    found, cursor, pages = [], None, 0
    while pages == 0 or cursor is not None:
        page = store.find({"n": AtMost(5)}, 2, cursor)
        found += [document.partition_key + document.id for document in page.documents]
        cursor, pages = page.cursor, pages + 1
        assert pages <= 9
    assert found == [partition_key + number for partition_key in "apz" for number in "348"]


VALUES = st.sampled_from(
    [None, True, False, 0, 1, 1.0, 2, -1, 2**63, 2**70, 0.5, "", "1", "a", "a\0b", "é", [1], {"x": 1}]
)
SCALARS: st.SearchStrategy[str | int | bool] = st.sampled_from(
    [True, False, 0, 1, 2, 2**63, 2**70, "", "1", "a", "a\0b", "é", '{"x":1}', "[1]"]
)
BODIES = st.dictionaries(st.sampled_from(["a", "b"]), VALUES | st.fixed_dictionaries({"c": VALUES}), max_size=2)
CONDITIONS = (
    SCALARS
    | st.lists(SCALARS, max_size=3).map(lambda values: AnyOf(tuple(values)))
    | st.sampled_from([-1, 0, 1, 1.5, 2**63, 2**70, 10**400]).map(AtMost)
    | st.sampled_from([-1, 0, 1, 1.5, 2**63, 2**70, 10**400]).map(AtLeast)
)
FILTERS = st.dictionaries(st.sampled_from(["a", "b", "a.c", "b.c"]), CONDITIONS, min_size=1, max_size=2)


@settings(deadline=None, database=None)
@given(bodies=st.lists(BODIES, max_size=6), filter=FILTERS, limit=st.integers(1, 3))
def test_it_finds_what_the_memory_store_finds(
    tmp_path_factory: pytest.TempPathFactory, bodies: list[dict[str, JsonValue]], filter: Filter, limit: int
) -> None:
    memory = MemoryDatastore()
    sqlite = SqliteDatastore(tmp_path_factory.mktemp("find") / "jobs.db", indexes=["a", "b.c"])
    with sqlite.batch():
        for number, body in enumerate(bodies):
            memory.create(f"{number}", "p", body)
            sqlite.create(f"{number}", "p", body)
    for store_cursor in [None, '["p", "0"]']:
        ours, theirs = sqlite.find(filter, limit, store_cursor), memory.find(filter, limit, store_cursor)
        assert [one.id for one in ours.documents] == [one.id for one in theirs.documents]
        assert [dict(one.body) for one in ours.documents] == [dict(one.body) for one in theirs.documents]
        assert ours.cursor == theirs.cursor
    sqlite.close()


def test_a_waiting_process_gets_its_turn_between_the_batches_of_a_busy_one(store: SqliteDatastore, path: Path) -> None:
    code = """
import sys
from datastore.sqlite import AHEAD_MAX, SqliteDatastore
store = SqliteDatastore(sys.argv[1])
for number in range(1_000_000):
    with store.batch():
        store.create(f"busy-{number}", "p", {})
"""
    busy = start_python(code, str(path))
    try:
        wait_for(lambda: store.find({}).documents, "the busy writer writes")
        for number in range(5):
            put(store, f"ours-{number}")  # Unavailable after 5 s if it were starved
    finally:
        end(busy)


def test_in_a_batch_a_second_creation_is_told_of_the_first(store: SqliteDatastore) -> None:
    with store.batch():
        document = put(store, body={"n": 0})
        assert store.create("job", "p", {"n": 1}) == Conflict(document)


def test_no_number_is_below_one_that_is_less_than_any_float(store: SqliteDatastore) -> None:
    put(store, body={"n": 0})
    assert store.find({"n": AtMost(-(10**400))}).documents == ()
    assert page_query({"n": AtMost(-(10**400))}, 1, None, indexes=())[1][0] == float("-inf")
