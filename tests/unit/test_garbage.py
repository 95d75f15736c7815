"""A worker looks for cyclic garbage among what is young, and leaves what it keeps alone."""

import gc
import weakref
from collections.abc import Iterator

import pytest

from workers.garbage import YOUNG_MAX, Garbage


class Thing:
    """Something that a cycle can go through."""

    def __init__(self) -> None:
        self.itself: object = self


def much() -> list[list[object]]:
    """More containers than are left behind without a look."""
    return [[] for _ in range(2 * YOUNG_MAX)]


@pytest.fixture
def garbage() -> Iterator[Garbage]:
    with Garbage() as garbage:
        yield garbage


def test_garbage_in_cycles_goes_once_much_was_made(garbage: Garbage) -> None:
    lost = weakref.ref(Thing())
    garbage.after_batch()
    assert lost() is not None, "a look costs time: not after every batch"
    kept = much()
    garbage.after_batch()
    assert lost() is None
    assert kept


def test_what_was_kept_is_not_looked_at_again(garbage: Garbage) -> None:
    before = gc.get_freeze_count()
    kept = much()
    garbage.after_batch()
    assert gc.get_freeze_count() - before > len(kept)


def test_python_collects_by_itself_only_outside(garbage: Garbage) -> None:
    assert not gc.isenabled()
    garbage.__exit__()
    assert gc.isenabled()
    assert not gc.get_freeze_count()
