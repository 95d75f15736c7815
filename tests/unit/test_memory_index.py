"""Which keys a search of the memory store looks at: those of the rarest value it asks for, as they are now."""

from typing import Any

import pytest

from datastore.memory_index import Key, MemoryIndex

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


def keys(index: MemoryIndex, *, again: bool = False, **filter: Any) -> list[Key]:
    return list(index.keys(filter, again=again))


def test_a_search_looks_at_keys_of_the_value_it_asks_for_in_order(index: MemoryIndex) -> None:
    assert keys(index, state="ready") == [ONE, TWO]
    assert keys(index, state="leased") == [THREE]
    assert keys(index, state="gone") == []


def test_of_two_values_the_rarer_one_is_looked_at(index: MemoryIndex) -> None:
    assert keys(index, open=True, state="leased") == keys(index, state="leased", open=True) == [THREE]
    assert keys(index, state="ready", open=False) == []


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
