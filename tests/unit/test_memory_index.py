"""Which keys a search of the memory store looks at: those of the rarest value it asks for, as they are now."""

from typing import Any

import pytest

from datastore import AnyOf, memory_index
from datastore.interface import Condition
from datastore.memory_index import MemoryIndex
from datastore.sorted_keys import Key

ONE, TWO, THREE = ("p", "1"), ("p", "2"), ("p", "3")


def body(**fields: Any) -> dict[str, Any]:
    return fields


@pytest.fixture
def index() -> MemoryIndex:
    """Two jobs that are ready and one that is leased, added in no order."""
    made = MemoryIndex(("state", "open"))
    made.add(TWO, body(state="ready", open=True))
    made.add(THREE, body(state="leased", open=True))
    made.add(ONE, body(state="ready", n=1))
    return made


def keys(index: MemoryIndex, *, after: Key | None = None, again: bool = False, **filter: Any) -> list[Key]:
    found, end = index.portion(filter, after, again=again, at_most=100)
    assert end is None
    return list(found)


def test_a_search_looks_at_keys_of_the_value_it_asks_for_in_order(index: MemoryIndex) -> None:
    assert keys(index, state="ready") == [ONE, TWO]
    assert keys(index, state="leased") == [THREE]
    assert keys(index, state="gone") == []


def test_of_two_values_the_rarer_one_is_looked_at(index: MemoryIndex) -> None:
    assert keys(index, open=True, state="leased") == keys(index, state="leased", open=True) == [THREE]
    assert keys(index, state="ready", open=False) == []


def test_a_search_for_one_of_several_values_looks_at_keys_of_each_in_order(index: MemoryIndex) -> None:
    assert keys(index, state=AnyOf(("leased", "ready", "leased", "gone"))) == [ONE, TWO, THREE]
    assert keys(index, state=AnyOf(("leased", "gone")), open=True) == [THREE]
    assert keys(index, state=AnyOf(())) == []
    assert keys(index, state=AnyOf(("leased", 1))) == [ONE, TWO, THREE], "of numbers it knows nothing"


def test_a_search_for_anything_else_looks_at_every_key(index: MemoryIndex) -> None:
    assert keys(index) == keys(index, n=1) == [ONE, TWO, THREE]


def test_a_document_that_changed_is_found_by_its_new_value_alone(index: MemoryIndex) -> None:
    index.move(TWO, body(state="ready", open=True), body(state="leased"))
    assert keys(index, state="ready") == [ONE]
    assert keys(index, state="leased") == [TWO, THREE]
    assert keys(index, open=True) == [THREE]
    index.move(ONE, body(state="ready"), body(state="ready", open=True))
    assert keys(index, open=True) == [ONE, THREE]


def test_a_search_that_goes_on_looks_at_what_was_there_as_it_began(index: MemoryIndex) -> None:
    first = keys(index, state="ready")
    index.move(ONE, body(state="ready"), body(state="leased"))
    assert keys(index, again=True, state="ready") == first
    assert keys(index, state="ready") == [TWO]
    assert keys(index, again=True, state="ready") == [TWO], "a new search has begun since"


def test_a_value_of_another_type_is_not_indexed(index: MemoryIndex) -> None:
    index.add(("p", "4"), body(state=1, open=1))
    assert keys(index, open=True) == [TWO, THREE]
    index.move(("p", "4"), body(state=1, open=1), body(state="ready", open=True))
    assert keys(index, state="ready") == [ONE, TWO, ("p", "4")]


@pytest.fixture
def large(monkeypatch: pytest.MonkeyPatch) -> MemoryIndex:
    """Every third of thirty jobs is leased; neither set is small."""
    monkeypatch.setattr(memory_index, "SORTED_MAX", 5)
    monkeypatch.setattr(memory_index, "PASSED_MAX", 2)
    made = MemoryIndex(("state",))
    for number in range(29, -1, -1):
        made.add(("p", f"{number:02}"), body(state="ready" if number % 3 else "leased"))
    return made


@pytest.mark.parametrize("state", ["leased", AnyOf(("leased", "gone"))])
@pytest.mark.parametrize("sorted_max", [5, 100])
@pytest.mark.parametrize("at_most", [1, 2, 3, 7, 10, 11])
def test_portions_lose_nothing_and_repeat_nothing(
    large: MemoryIndex, monkeypatch: pytest.MonkeyPatch, state: Condition, sorted_max: int, at_most: int
) -> None:
    monkeypatch.setattr(memory_index, "SORTED_MAX", sorted_max)
    found: list[Key] = []
    end: Key | None = None
    for turn in range(40):
        part, end = large.portion({"state": state}, end, again=turn > 0, at_most=at_most)
        assert len(part) <= at_most
        found += part
        if end is None:
            break
    assert end is None
    assert found == [("p", f"{number:02}") for number in range(0, 30, 3)]


def test_of_a_value_that_many_have_a_portion_passes_so_many_keys(large: MemoryIndex) -> None:
    asked: list[object] = []

    class Watched(dict[Any, Any]):
        def __contains__(self, key: object) -> bool:
            asked.append(key)
            return super().__contains__(key)

    large._of["state"]["leased"] = Watched(large._of["state"]["leased"])
    found, end = large.portion({"state": "leased"}, None, again=False, at_most=4)
    assert (list(found), end) == ([("p", "00"), ("p", "03"), ("p", "06")], ("p", "07"))
    assert len(asked) == 8


def test_a_search_of_a_set_that_became_small_meanwhile_goes_on_with_it_as_it_is(
    large: MemoryIndex, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory_index, "SORTED_MAX", 100)
    keys(large, state="leased")
    monkeypatch.setattr(memory_index, "SORTED_MAX", 5)
    _, end = large.portion({"state": "leased"}, None, again=False, at_most=1)
    large.move(("p", "01"), body(state="ready"), body(state="leased"))
    large.move(("p", "29"), body(state="ready"), body(state="leased"))
    monkeypatch.setattr(memory_index, "SORTED_MAX", 100)
    assert ("p", "29") in keys(large, after=end, again=True, state="leased")
