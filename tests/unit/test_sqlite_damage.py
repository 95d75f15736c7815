"""Pages of a SQLite file that a bad disk has damaged: a search finds what can be read, and names what can't."""

import re
from contextlib import closing
from pathlib import Path

import pytest

from datastore import AnyOf, AtLeast, Corrupt, Filter, Ok, Page
from datastore.sqlite import SqliteDatastore
from tests.damaged_pages import PAGE_BYTES, damage
from tests.unit.test_sqlite import put

INDEXES = ("state",)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "jobs.db"


def stock(path: Path) -> None:
    """Nine documents, every third of them done, each of which goes on on pages of its own."""
    with closing(SqliteDatastore(path, indexes=INDEXES)) as made, made.batch():
        for number in range(9):
            state = "done" if number % 3 == 2 else "ready"
            put(made, f"job-{number}", {"payload": str(number) * 9_000, "state": state, "n": number})


def damage_of(path: Path, *numbers: int) -> None:
    """Where the payloads of these go on, on pages that hold nothing else, there is nothing SQLite can make sense of."""
    for number in numbers:
        damage(path, where=str(number).encode() * (PAGE_BYTES - 4))


def search(store: SqliteDatastore, filter: Filter, limit: int) -> tuple[list[str], list[str]]:
    """(what is found, what is named as unreadable), page by page."""
    found: list[str] = []
    named: list[str] = []
    page = Page((), None, ())
    while not found + named or page.cursor is not None:
        page = store.find(filter, limit, page.cursor)
        found += [document.id for document in page.documents]
        for reason in page.unreadable:
            told = re.search(r"jobs.db: document '(job-\d)' of 'p' does not parse \(", reason)
            assert told is not None
            named.append(told[1])
    return found, named


SEARCHES: tuple[tuple[Filter, list[int]], ...] = (
    ({"n": AtLeast(1)}, [1, 3, 4, 6, 8]),
    ({"n": AtLeast(1), "state": "ready"}, [1, 3, 4, 6]),
    ({"n": AtLeast(1), "state": AnyOf(("done", "ready"))}, [1, 3, 4, 6, 8]),
    ({"n": AtLeast(1), "partition_key": "p"}, [1, 3, 4, 6, 8]),
)


@pytest.mark.parametrize(("filter", "wanted"), SEARCHES, ids=str)
@pytest.mark.parametrize("limit", [1, 2, 100])
@pytest.mark.parametrize("looks_max", [2, 100])
def test_a_search_finds_all_that_can_be_read_in_order_and_names_the_others(
    path: Path, filter: Filter, wanted: list[int], limit: int, looks_max: int
) -> None:
    stock(path)
    damage_of(path, 2, 5, 7)
    with closing(SqliteDatastore(path, indexes=INDEXES, looks_max=looks_max)) as store:
        found, named = search(store, filter, limit)
        assert found == [f"job-{number}" for number in wanted]
        met = [number for number in (2, 5, 7) if filter.get("state") != "ready" or number % 3 != 2]
        assert sorted(set(named)) == [f"job-{number}" for number in met], "those of another state were not looked at"


def test_a_page_is_no_longer_than_asked_for_where_much_is_damaged(path: Path) -> None:
    stock(path)
    damage_of(path, 7, 8)
    with closing(SqliteDatastore(path, indexes=INDEXES)) as store:
        page = store.find({"n": AtLeast(0)}, 7)
        assert [document.id for document in page.documents] == [f"job-{number}" for number in range(7)]
        assert page.cursor is None or store.find({"n": AtLeast(0)}, 7, page.cursor).documents == ()


def test_a_batch_that_met_damage_tells_each_later_use_of_it(path: Path) -> None:
    stock(path)
    damage_of(path, 4)

    def read_on() -> None:
        with store.batch():
            for id in ("job-4", "job-0"):
                with pytest.raises(Corrupt, match=f"^{path} is damaged or no database .*backup"):
                    store.read(id, "p")

    with closing(SqliteDatastore(path, indexes=INDEXES)) as store:
        with pytest.raises(Corrupt, match=f"^{path} is damaged"):
            read_on()
        assert isinstance(store.read("job-0", "p"), Ok)
