"""A search looks at so many documents for one page, however many there are; its pages find what one look does."""

import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from random import Random
from typing import Any, Protocol

import pytest

from datastore import AnyOf, AtLeast, AtMost, Filter, JsonValue, Page
from datastore.memory import MemoryDatastore
from datastore.sqlite import SqliteDatastore
from datastore.sqlite_query import page_query, window_query

LOOKS = 5
Found = list[tuple[str, str]]


class Searchable(Protocol):
    def find(self, filter: Filter, limit: int = 100, cursor: str | None = None) -> Page: ...


def open_sqlite(path: Path, looks_max: int) -> SqliteDatastore:
    return SqliteDatastore(path / "jobs.db", indexes=("state",), looks_max=looks_max)


def open_memory(_path: Path, looks_max: int) -> MemoryDatastore:
    return MemoryDatastore(indexes=("state",), looks_max=looks_max)


Open = Callable[[Path, int], SqliteDatastore | MemoryDatastore]
on_both = pytest.mark.parametrize("opened", [open_sqlite, open_memory], ids=["sqlite", "memory"])


def stock(store: SqliteDatastore | MemoryDatastore, seed: int = 1) -> None:
    dice = Random(seed)
    with store.batch():
        for number in range(60):
            body: dict[str, JsonValue] = {"kind": "job", "queue": dice.choice("ab"), "n": number}
            if (state := dice.choice(("ready", "leased", "done", None))) is not None:
                body["state"] = state
            store.create(f"{dice.randrange(1_000):03}-{number}", dice.choice("pqr"), body)


def pages(store: Searchable, filter: Filter, limit: int = 100) -> list[Page]:
    found = [store.find(filter, limit)]
    while (cursor := found[-1].cursor) is not None:
        found.append(store.find(filter, limit, cursor))
        assert len(found) < 200
    return found


def names(found: list[Page]) -> Found:
    return [(one.partition_key, one.id) for page in found for one in page.documents]


FILTERS: tuple[Filter, ...] = (
    {},
    {"kind": "job"},
    {"kind": "nothing"},
    {"queue": "a"},
    {"n": 59, "kind": "job"},
    {"state": "ready"},
    {"kind": "job", "state": "ready", "queue": "b"},
    {"kind": "job", "state": "ready", "queue": "none"},
    {"kind": "job", "state": AnyOf(("leased", "ready")), "queue": "b"},
    {"state": AnyOf(("gone", "done", "leased", "ready", "done")), "n": AtLeast(30)},
    {"state": AnyOf(("done",)), "queue": AnyOf(("a",))},
    {"state": AnyOf(())},
    {"partition_key": "q", "queue": "a"},
    {"partition_key": "q", "state": "ready", "queue": "a"},
    {"partition_key": "none", "queue": "a"},
)


@on_both
@pytest.mark.parametrize("filter", FILTERS, ids=str)
def test_pages_that_end_by_what_was_looked_at_lose_nothing_and_repeat_nothing(
    opened: Open, tmp_path: Path, filter: Filter
) -> None:
    whole = MemoryDatastore()
    stock(whole)
    wanted = names([whole.find(filter)])
    store = opened(tmp_path, LOOKS)
    stock(store)
    for limit in (1, 3, 100):
        found = pages(store, filter, limit)
        assert names(found) == wanted
        assert all(len(page.documents) <= limit for page in found)
    store.close()


def work(store: SqliteDatastore | MemoryDatastore, filter: Filter, monkeypatch: pytest.MonkeyPatch) -> int:
    """Of the first page of a search for what is nowhere: documents looked at, or steps of SQLite's machine."""
    counted = 0

    def count() -> None:
        nonlocal counted
        counted += 1

    class Counted(dict[Any, Any]):
        def __getitem__(self, key: Any) -> Any:
            count()
            return super().__getitem__(key)

    if isinstance(store, MemoryDatastore):
        with monkeypatch.context() as patched:
            patched.setattr(store, "_documents", Counted(store._documents))
            page = store.find(filter)
    else:
        store.read("nothing", "p")
        connection = store._session._reader
        assert connection is not None
        connection.set_progress_handler(count, 1)
        page = store.find(filter)
        connection.set_progress_handler(None, 1)
    assert page.documents == ()
    return counted


def many(store: SqliteDatastore | MemoryDatastore, first: int, count: int) -> None:
    with store.batch():
        for number in range(first, first + count):
            store.create(f"job-{number:05}", "p", {"kind": "job", "queue": "a", "state": "ready"})


NOWHERE: tuple[Filter, ...] = (
    {"kind": "job", "queue": "none"},
    {"kind": "job", "state": "ready", "queue": "none"},
    {"kind": "job", "state": AnyOf(("leased", "ready")), "queue": "none"},
)


@on_both
@pytest.mark.parametrize("filter", NOWHERE, ids=str)
@pytest.mark.parametrize(("looks_max", "grows"), [(50, False), (1_000_000, True)])
def test_a_page_is_no_more_work_where_there_is_more_to_look_at_and_is_in_a_store_without_that_bound(
    opened: Open, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, filter: Filter, looks_max: int, grows: bool
) -> None:
    store = opened(tmp_path, looks_max)
    many(store, 0, 200)
    few = work(store, filter, monkeypatch)
    many(store, 200, 1_800)
    assert few > 0
    assert (work(store, filter, monkeypatch) > 2 * few) is grows
    store.close()


def test_a_page_that_is_found_at_once_is_looked_for_no_further(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = open_memory(tmp_path, 50)
    many(store, 0, 200)
    looked_at: list[object] = []

    class Counted(dict[Any, Any]):
        def __getitem__(self, key: Any) -> Any:
            looked_at.append(key)
            return super().__getitem__(key)

    monkeypatch.setattr(store, "_documents", Counted(store._documents))
    assert len(store.find({"kind": "job"}, limit=3).documents) == 3
    assert len(looked_at) == 4


def test_values_of_one_condition_are_searched_through_their_index_in_order(tmp_path: Path) -> None:
    with closing(open_sqlite(tmp_path, LOOKS)), closing(sqlite3.connect(tmp_path / "jobs.db")) as connection:
        filter: Filter = {"kind": "job", "state": AnyOf(("ready", "leased", "ready")), "queue": "a"}
        for after in (None, ("p", "a")):
            sql, parameters = page_query(filter, 10, after, indexes=("state",), until=("q", "z"))
            plan = str(connection.execute(f"EXPLAIN QUERY PLAN {sql}", parameters).fetchall())
            assert plan.count("SEARCH documents USING INDEX by state (<expr>=?") == 2
            assert "SCAN" not in plan
            assert "TEMP B-TREE" not in plan


def test_where_a_page_may_end_is_asked_of_an_index_in_its_order(tmp_path: Path) -> None:
    with closing(open_sqlite(tmp_path, LOOKS)), closing(sqlite3.connect(tmp_path / "jobs.db")) as connection:
        for filter in NOWHERE:
            query = window_query(filter, 50, ("p", "a"), indexes=("state",))
            assert query is not None
            plan = str(connection.execute(f"EXPLAIN QUERY PLAN {query[0]}", query[1]).fetchall())
            assert "SEARCH documents USING" in plan
            assert "INDEX" in plan
            assert "TEMP B-TREE" not in plan


def test_where_a_search_looks_at_nothing_else_its_pages_end_by_count() -> None:
    assert window_query({"state": "ready"}, 50, None, indexes=("state",)) is None
    assert window_query({}, 50, None, indexes=("state",)) is None
    assert window_query({"lease.expires_ms": AtMost(3), "kind": "job"}, 50, None, indexes=("lease.expires_ms",)) is None


def test_a_page_does_not_end_at_a_damaged_name(tmp_path: Path) -> None:
    with closing(open_sqlite(tmp_path, LOOKS)) as store:
        many(store, 0, 20)
        with closing(sqlite3.connect(tmp_path / "jobs.db")) as connection:
            connection.execute("UPDATE documents SET id = CAST(x'6a6f622d30303030ff' AS TEXT) WHERE id = 'job-00004'")
            connection.commit()
        found = pages(store, {"kind": "job", "queue": "none"})
        assert names(found) == []
        assert names(pages(store, {"kind": "job", "queue": "a"})) == [
            ("p", f"job-{number:05}") for number in range(20) if number != 4
        ]
