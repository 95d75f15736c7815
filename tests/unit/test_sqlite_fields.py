"""Searched fields beside the body: whoever wrote a document, a search finds what stands in it."""

import json
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from datastore import UNSET, AtMost, Corrupt, Expected, Filter, JsonValue, Ok
from datastore.interface import Update
from datastore.memory import MemoryDatastore
from datastore.sqlite import SqliteDatastore
from datastore.sqlite_file import lock_path
from datastore.sqlite_lock import FileQueue
from datastore.sqlite_query import page_query
from tests.processes import end, start_python
from tests.unit.test_sqlite import INDEXES, put
from tests.unit.test_sqlite_files import back_up, restore

OLDER = (
    "CREATE TABLE IF NOT EXISTS documents (partition_key TEXT NOT NULL, id TEXT NOT NULL, rev INTEGER NOT NULL,"
    " etag TEXT NOT NULL, body TEXT NOT NULL, PRIMARY KEY (partition_key, id))",
    *(
        f'CREATE INDEX IF NOT EXISTS "by {field}" ON documents (json_extract(body, {path}), partition_key, id)'
        f" WHERE json_extract(body, {path}) IS NOT NULL"
        for field, path in (("state", "'$.\"state\"'"), ("lease.expires_ms", '\'$."lease"."expires_ms"\''))
    ),
    "PRAGMA user_version=1",
)
"""What the release before this one makes of a file when it opens it."""
INSERT = (
    "INSERT INTO documents (partition_key, id, rev, etag, body) VALUES (?, ?, ?, ?, ?)"
    " ON CONFLICT (partition_key, id) DO NOTHING"
)
UPDATE = "UPDATE documents SET rev = ?, etag = ?, body = ? WHERE partition_key = ? AND id = ? AND etag = ?"
"""How it writes."""
QUEUE_MS = 20_000


class OlderRelease:
    """The release before this one, as far as the file knows it. Its writers queue like those of this one."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(exist_ok=True)
        self.connection = sqlite3.connect(path, isolation_level=None)
        self.connection.execute("PRAGMA journal_mode=WAL").fetchone()
        self._queue = FileQueue(lock_path(str(path)))
        self.open()

    def open(self) -> None:
        for statement in OLDER:
            self.connection.execute(statement)

    def create(self, id: str, body: JsonValue) -> None:
        with self._queue.take(timeout_ms=QUEUE_MS):
            assert self.connection.execute(INSERT, ("p", id, 1, "etag", json.dumps(body))).rowcount == 1

    def update(self, id: str, body: JsonValue) -> None:
        with self._queue.take(timeout_ms=QUEUE_MS):
            [(rev, etag)] = self.connection.execute("SELECT rev, etag FROM documents WHERE id = ?", (id,)).fetchall()
            row = (rev + 1, f"older-{rev}", json.dumps(body), "p", id, etag)
            assert self.connection.execute(UPDATE, row).rowcount == 1

    def close(self) -> None:
        self.connection.close()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "jobs.db"


@pytest.fixture
def older(path: Path) -> Iterator[OlderRelease]:
    with closing(OlderRelease(path)) as release:
        yield release


def found(store: SqliteDatastore, filter: Filter) -> list[str]:
    return [document.id for document in store.find(filter).documents]


def test_a_file_of_the_release_before_is_searched_through_its_indexes_at_once(older: OlderRelease, path: Path) -> None:
    older.create("a", {"state": "leased", "lease": {"expires_ms": 5}})
    older.create("b", {"state": "ready"})
    with closing(SqliteDatastore(path, indexes=INDEXES)) as store:
        assert found(store, {"state": "leased"}) == ["a"]
        assert found(store, {"lease.expires_ms": AtMost(5)}) == ["a"]
    with closing(sqlite3.connect(path)) as connection:
        for field in INDEXES:
            sql, parameters = page_query({field: 1}, 10, None, indexes=INDEXES)
            plan = str(connection.execute(f"EXPLAIN QUERY PLAN {sql}", parameters).fetchall())
            assert f"SEARCH documents USING INDEX by {field} (" in plan


def test_beside_the_release_before_both_find_what_the_other_wrote(older: OlderRelease, path: Path) -> None:
    older.create("a", {"state": "ready"})
    with closing(SqliteDatastore(path, indexes=INDEXES)) as store:
        older.update("a", {"state": "leased", "lease": {"expires_ms": 5}})
        assert (found(store, {"state": "ready"}), found(store, {"state": "leased"})) == ([], ["a"])
        assert isinstance(store.update_if_match("a", "p", Expected(rev=2), {"state": "done", "lease": UNSET}), Ok)
        assert (found(store, {"state": "leased"}), found(store, {"state": "done"})) == ([], ["a"])
        assert found(store, {"lease.expires_ms": AtMost(5)}) == []
        older.update("a", {"state": "ready"})
        older.create("b", {"state": "done"})
        assert (found(store, {"state": "ready"}), found(store, {"state": "done"})) == (["a"], ["b"])
        by_state = "SELECT id FROM documents WHERE json_extract(body, '$.\"state\"') = 'done'"
        assert older.connection.execute(by_state).fetchall() == [("b",)]


def test_the_release_before_opens_the_file_again_and_takes_no_index_away(older: OlderRelease, path: Path) -> None:
    schema = "SELECT sql FROM sqlite_master ORDER BY name"
    with closing(SqliteDatastore(path, indexes=INDEXES)):
        made = older.connection.execute(schema).fetchall()
        older.open()
        assert older.connection.execute(schema).fetchall() == made
    with closing(SqliteDatastore(path, indexes=INDEXES)):
        assert older.connection.execute(schema).fetchall() == made


def test_who_was_told_of_other_fields_hides_nothing_from_those_who_search_for_them(path: Path) -> None:
    with (
        closing(SqliteDatastore(path, indexes=INDEXES)) as store,
        closing(SqliteDatastore(path, indexes=["queue"])) as other,
        closing(SqliteDatastore(path)) as third,
    ):
        put(other, "a", {"state": "ready", "queue": "q"})
        assert isinstance(store.update_if_match("a", "p", Expected(rev=1), {"state": "leased"}), Ok)
        assert (found(store, {"state": "leased"}), found(other, {"queue": "q"})) == (["a"], ["a"])
        assert isinstance(third.update_if_match("a", "p", Expected(rev=2), {"state": "done", "queue": "r"}), Ok)
        assert (found(store, {"state": "leased"}), found(store, {"state": "done"})) == ([], ["a"])
        assert (found(other, {"queue": "q"}), found(other, {"queue": "r"})) == ([], ["a"])


@pytest.mark.parametrize("first", ["read", "write"])
def test_a_backup_of_the_release_before_that_is_put_in_place_is_written_and_searched(path: Path, first: str) -> None:
    with closing(OlderRelease(path.with_name("older.db"))) as older:
        older.create("a", {"state": "ready"})
        copy = back_up(path.with_name("older.db"))
    with closing(SqliteDatastore(path, indexes=INDEXES)) as store:
        put(store, "gone", {"state": "ready"})
        assert found(store, {"state": "ready"}) == ["gone"]
        restore(copy, path)
        if first == "read":
            assert found(store, {"state": "ready"}) == ["a"]
        assert isinstance(store.update_if_match("a", "p", Expected(rev=1), {"state": "leased"}), Ok)
        assert (found(store, {"state": "ready"}), found(store, {"state": "leased"})) == ([], ["a"])


def test_a_document_that_is_no_json_keeps_no_file_of_the_release_before_closed(older: OlderRelease, path: Path) -> None:
    older.create("a", {"state": "ready"})
    older.connection.execute('DROP INDEX "by state"')
    older.connection.execute('DROP INDEX "by lease.expires_ms"')
    older.connection.execute(INSERT, ("p", "bad", 1, "etag", '{"state": "ready"'))
    with closing(SqliteDatastore(path, indexes=INDEXES)) as store:
        assert found(store, {"state": "ready"}) == ["a"]
        with pytest.raises(Corrupt):
            store.read("bad", "p")
        assert len(store.find({}).unreadable) == 1


def test_a_field_within_what_is_no_object_has_no_value(path: Path) -> None:
    with closing(SqliteDatastore(path, indexes=INDEXES)) as store:
        store.create("a", "p", {"state": "ready", "lease": "text"})
        assert found(store, {"lease.expires_ms": "text"}) == []
        assert found(store, {"state": "ready"}) == ["a"]


def test_a_search_trusts_what_stands_beside_the_body_as_long_as_its_version_is_that_of_the_row(path: Path) -> None:
    with closing(SqliteDatastore(path, indexes=INDEXES)) as store:
        store.create("a", "p", {"state": "ready"})
        with closing(sqlite3.connect(path, isolation_level=None)) as connection:
            connection.execute("""UPDATE documents SET body = '{"state": "done"}'""")
            assert found(store, {"state": "done"}) == []
            connection.execute("UPDATE documents SET rev = rev + 1")
        assert (found(store, {"state": "ready"}), found(store, {"state": "done"})) == ([], ["a"])


def test_a_file_that_has_one_index_is_given_the_others(path: Path) -> None:
    for fields in (INDEXES[:1], INDEXES):
        SqliteDatastore(path, indexes=fields).close()
    with closing(sqlite3.connect(path)) as connection:
        there = {name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'index'")}
    assert {f"by {field}" for field in INDEXES} <= there


OPENS = """
import sys
from datastore.sqlite import SqliteDatastore
store = SqliteDatastore(sys.argv[1], indexes=["state", "lease.expires_ms"])
for number in range(30):
    store.create(f"{sys.argv[2]}-{number}", "p", {"state": "ready"})
"""


def test_several_may_open_a_file_of_the_release_before_while_it_writes(older: OlderRelease, path: Path) -> None:
    for number in range(500):
        older.create(f"old-{number:03}", {"state": "ready", "payload": "x" * 300})
    processes = [start_python(OPENS, str(path), str(number)) for number in range(3)]
    try:
        written = 0
        while any(process.poll() is None for process in processes):
            older.update(f"old-{written % 500:03}", {"state": "done"})
            written += 1
        assert [process.communicate()[0] for process in processes] == [""] * 3
    finally:
        for process in processes:
            end(process)
    with closing(SqliteDatastore(path, indexes=INDEXES)) as store:
        done = min(written, 500)
        assert len(store.find({"state": "done"}, limit=1_000).documents) == done
        assert len(store.find({"state": "ready"}, limit=1_000).documents) == 500 - done + 90
    assert older.connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]


KILLED = """
import os, sys
from datastore import sqlite_file
from datastore.sqlite import SqliteDatastore
index = sqlite_file.index
def killed(connection, fields):
    index(connection, fields[:1])
    os._exit(9)
sqlite_file.index = killed
SqliteDatastore(sys.argv[1], indexes=["state", "lease.expires_ms"])
"""


def test_who_dies_while_it_adds_columns_leaves_the_file_as_it_was(older: OlderRelease, path: Path) -> None:
    older.create("a", {"state": "ready"})
    before = older.connection.execute("SELECT sql FROM sqlite_master ORDER BY name").fetchall()
    process = start_python(KILLED, str(path))
    try:
        process.communicate(timeout=30)
        assert process.returncode == 9
    finally:
        end(process)
    assert older.connection.execute("SELECT sql FROM sqlite_master ORDER BY name").fetchall() == before
    older.update("a", {"state": "leased"})
    with closing(SqliteDatastore(path, indexes=INDEXES)) as store:
        assert found(store, {"state": "leased"}) == ["a"]


VALUES: tuple[JsonValue, ...] = (
    *("", "ready", "a\0b", "世界", "1", "true", 0, 1, -1, 2**53 + 1, 2**63 - 1, 2**63, 10**30, 0.1, 1e300, 2.0),
    *(True, False, None, [], ["ready"], {}, {"state": "ready"}),
)


@pytest.mark.parametrize("together", [False, True], ids=["one", "each"])
def test_every_kind_of_value_is_found_as_the_memory_store_finds_it(path: Path, together: bool) -> None:
    memory = MemoryDatastore(indexes=["v"])
    with closing(SqliteDatastore(path, indexes=["v"])) as store:
        for each in (memory, store):
            for number, value in enumerate(VALUES):
                put_in, expected = f"{number:02}", Expected(rev=1)
                assert isinstance(each.create(put_in, "p", {"v": VALUES[number - 1]}), Ok)
                if together:
                    assert isinstance(each.update_each([Update(put_in, "p", expected, {"v": value})])[0], Ok)
                else:
                    assert isinstance(each.update_if_match(put_in, "p", expected, {"v": value}), Ok)
                assert isinstance(each.update_if_match(put_in, "p", Expected(rev=2), {"w": 1}), Ok)
        for value in VALUES:
            if isinstance(value, str | int):
                assert found(store, {"v": value}) == [document.id for document in memory.find({"v": value}).documents]
        ranges = [AtMost(value) for value in VALUES if isinstance(value, int | float)]
        for condition in ranges:
            wanted = [document.id for document in memory.find({"v": condition}).documents]
            assert found(store, {"v": condition}) == wanted
