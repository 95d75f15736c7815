"""What the memory store promises beyond the contract: frozen documents, shared and not copied."""

import copy
import json
import os
import pickle
import signal
from collections import UserList
from collections.abc import Callable
from enum import IntEnum, StrEnum
from random import Random
from threading import Thread
from types import MappingProxyType
from typing import Any

import pytest

from datastore import (
    UNSET,
    Conflict,
    Datastore,
    Document,
    Expected,
    NotFound,
    Ok,
    Rejected,
    Unavailable,
    connect,
    memory,
)
from datastore.frozen import DEPTH_MAX, FrozenDict, FrozenList, freeze, freeze_body, freeze_patch
from datastore.interface import AnyOf, AtMost, Filter, Page
from datastore.matching import LIMIT_MAX
from datastore.memory import MemoryDatastore
from tests.unit.test_sqlite_forks import FORKS, a_child_ends_here, ended_well

CHANGES: list[Callable[[Any], object]] = [
    lambda body: body.update(a=1),
    lambda body: body.__setitem__("a", 1),
    lambda body: body.__delitem__("list"),
    lambda body: body.__ior__({"a": 1}),
    lambda body: body.clear(),
    lambda body: body.pop("list"),
    lambda body: body.popitem(),
    lambda body: body.setdefault("a", 1),
    lambda body: body["list"].append(1),
    lambda body: body["list"].extend([1]),
    lambda body: body["list"].insert(0, 1),
    lambda body: body["list"].pop(),
    lambda body: body["list"].remove(2),
    lambda body: body["list"].clear(),
    lambda body: body["list"].sort(),
    lambda body: body["list"].reverse(),
    lambda body: body["list"].__setitem__(0, 1),
    lambda body: body["list"].__delitem__(0),
    lambda body: body["list"].__iadd__([1]),
    lambda body: body["list"].__imul__(2),
    lambda body: body["nested"].update(a=1),
    lambda body: body["list"][1].update(a=1),
]


def put(store: MemoryDatastore, body: Any) -> Document:
    result = store.create("job", "job", body)
    assert isinstance(result, Ok)
    return result.document


@pytest.mark.parametrize("change", CHANGES)
def test_a_document_given_out_refuses_every_change(change: Callable[[Any], object]) -> None:
    store = MemoryDatastore()
    body: dict[str, Any] = {"list": [2, {"n": 1}], "nested": {"n": 1}}
    document = put(store, body)
    with pytest.raises(TypeError, match="read-only"):
        change(document.body)
    assert store.read("job", "job") == Ok(document)
    assert document.body == body


def test_a_frozen_body_compares_encodes_copies_and_pickles_like_the_plain_one() -> None:
    plain = {"list": [1, {"a": None}], "text": "x"}
    frozen = freeze(plain)
    assert frozen == plain
    assert json.dumps(frozen) == json.dumps(plain)
    assert copy.deepcopy(frozen) is frozen
    assert copy.copy(frozen["list"]) is frozen["list"]
    restored = pickle.loads(pickle.dumps(frozen))  # noqa: S301  # our own bytes
    assert restored == plain
    assert type(restored["list"]) is FrozenList


def test_what_a_patch_leaves_alone_is_shared_and_not_copied() -> None:
    store = MemoryDatastore()
    first = put(store, {"payload": {"big": [1, 2]}, "n": 1})
    result = store.update_if_match("job", "job", Expected(rev=1), {"n": 2})
    assert isinstance(result, Ok)
    assert result.document.body["payload"] is first.body["payload"]
    assert first.body["n"] == 1, "the version given out before stays as it was"


def test_other_kinds_of_mapping_sequence_text_and_number_become_plain_json() -> None:
    class State(StrEnum):
        READY = "ready"

    class Priority(IntEnum):
        HIGH = 7

    frozen = freeze({"m": MappingProxyType({"t": (1, 2)}), "s": State.READY, State.READY: True})
    assert frozen == {"m": {"t": [1, 2]}, "s": "ready", "ready": True}
    assert type(frozen["s"]) is str
    assert type(frozen["m"]) is FrozenDict
    rare = freeze({"sequence": range(2), "deque": UserList([Priority.HIGH]), "half": Half(0.5)})
    assert rare == {"sequence": [0, 1], "deque": [7], "half": 0.5}
    assert [type(rare["deque"]), type(rare["deque"][0]), type(rare["half"])] == [FrozenList, int, float]


class Half(float):
    """A float of a kind of its own."""


@pytest.mark.parametrize(
    "wrap", [lambda v: [v], lambda v: {"n": v}, lambda v: UserList([v])], ids=["list", "dict", "rare"]
)
def test_nesting_has_a_bound(wrap: Callable[[Any], Any]) -> None:
    value: Any = 1
    for _ in range(DEPTH_MAX - 1):
        value = [value]
    freeze(wrap(value))
    freeze_body({"deep": value})
    freeze_patch({"deep": value})
    for too_deep in (
        lambda: freeze(wrap(wrap(value))),
        lambda: freeze_body({"deep": wrap(value)}),
        lambda: freeze_patch({"deep": wrap(value)}),
    ):
        with pytest.raises(Rejected, match="nested"):
            too_deep()


def test_a_page_may_hold_ten_thousand_documents_and_no_more() -> None:
    assert MemoryDatastore().find({}, LIMIT_MAX) == Page((), None)
    for limit in (0, LIMIT_MAX + 1):
        with pytest.raises(ValueError, match=f"limit={limit}: use 1 to 10000"):
            MemoryDatastore().find({}, limit)


def test_every_field_of_the_stores_own_that_a_body_names_is_named_back() -> None:
    with pytest.raises(ValueError, match=r"^id, rev: "):
        freeze_body({"rev": 1, "id": "x"})


def test_a_page_holds_a_hundred_documents_unless_told() -> None:
    store = MemoryDatastore()
    for number in range(101):
        store.create(f"{number:03}", "p", {})
    page = store.find({})
    assert len(page.documents) == 100
    assert [document.id for document in store.find({}, cursor=page.cursor).documents] == ["100"]


def test_a_loop_in_a_body_is_rejected() -> None:
    loop: dict[str, Any] = {}
    loop["self"] = loop
    with pytest.raises(Rejected, match="nested"):
        put(MemoryDatastore(), loop)


def test_etags_of_two_stores_differ() -> None:
    assert put(MemoryDatastore(), {}).etag != put(MemoryDatastore(), {}).etag


def test_etags_that_begin_alike_make_two_runs_alike() -> None:
    etags = [put(MemoryDatastore(etag_prefix="world-7"), {}).etag for _ in range(2)]
    assert etags[0] == etags[1]
    assert etags[0].startswith("world-7")


def test_each_connect_is_a_new_store() -> None:
    first, second = connect("memory://"), connect("memory://")
    first.create("job", "job", {})
    assert second.find({}).documents == ()


def test_a_closed_store_says_so() -> None:
    store = MemoryDatastore()
    store.close()
    store.close()
    with pytest.raises(Unavailable, match="closed"):
        store.read("job", "job")
    with pytest.raises(Unavailable, match="closed"):
        put(store, {})


def test_a_search_beside_writers_finds_all_that_was_there_before() -> None:
    store = MemoryDatastore()
    there = [f"{number:04}" for number in range(0, 2_000, 2)]
    for id_ in there:
        store.create(id_, "p", {"state": "ready"})

    def write() -> None:
        for number in range(1, 2_000, 2):
            store.create(f"{number:04}", "p", {"state": "ready"})

    writer = Thread(target=write)
    writer.start()
    found: list[str] = []
    cursor = None
    for _ in range(1_000):
        page = store.find({"state": "ready"}, 7, cursor)
        found += [document.id for document in page.documents]
        cursor = page.cursor
        if cursor is None:
            break
    writer.join()
    assert cursor is None
    assert found == sorted(set(found)), "in order and nothing twice"
    assert set(there) <= set(found)


def test_a_conflict_shows_the_version_that_won() -> None:
    store = MemoryDatastore()
    put(store, {"n": 1})
    won = store.update_if_match("job", "job", Expected(rev=1), {"n": 2})
    assert isinstance(won, Ok)
    assert store.update_if_match("job", "job", Expected(rev=1), {"n": 3}) == Conflict(won.document)


STATES: tuple[Any, ...] = ("ready", "leased", True, False, 1, 0, 1.0, "1", None, ["ready"], UNSET)


def test_a_search_through_an_index_finds_what_one_without_finds() -> None:
    dice = Random(7)
    stores = [MemoryDatastore(indexes=("state", "open")), MemoryDatastore()]
    for step in range(400):
        id = f"job-{dice.randrange(60)}"
        fields = {name: dice.choice(STATES) for name in dice.sample(("state", "open", "other"), 2)}
        for store in stores:
            body = {name: value for name, value in fields.items() if value is not UNSET}
            if isinstance(created := store.create(id, id, body), Conflict):
                assert created.current is not None
                store.update_if_match(id, id, Expected(rev=created.current.rev), fields)
        if step % 20 == 0:
            for filter in FILTERS:
                assert every(stores[0], filter) == every(stores[1], filter), filter


def test_a_search_through_an_index_looks_at_nothing_else() -> None:
    store = MemoryDatastore(indexes=("state",))
    for number in range(50):
        store.create(f"job-{number}", f"job-{number}", {"state": "ready", "number": number})
    store.create("one", "one", {"state": "leased", "number": 99})
    looked_at: list[str] = []

    class Watched(dict[Any, Any]):
        def __getitem__(self, key: Any) -> Any:
            looked_at.append(key[1])
            return super().__getitem__(key)

    store._documents = Watched(store._documents)
    [found] = store.find({"state": "leased", "number": AtMost(100)}).documents
    assert found.id == "one"
    assert looked_at == ["one"]


FILTERS: tuple[Filter, ...] = (
    {"state": "ready"},
    {"state": "leased", "open": True},
    {"state": True},
    {"state": 1, "open": "ready"},
    {"open": AnyOf(("ready", "1"))},
    {"open": False, "other": "1"},
    {"state": "ready", "partition_key": "job-7"},
)


def every(store: Datastore, filter: Filter) -> list[str]:
    found, cursor = [], None
    while True:
        page = store.find(filter, limit=3, cursor=cursor)
        found += [document.id for document in page.documents]
        cursor = page.cursor
        if cursor is None:
            return found


@FORKS
def test_a_child_goes_on_with_its_copy_whoever_held_the_lock_of_its_parent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "FORK_PATIENCE_S", 0)
    store = MemoryDatastore(indexes=("state",))
    with a_child_ends_here(), store._lock:
        if (child := os.fork()) == 0:
            signal.alarm(20)  # ends it if it waits for good
            assert isinstance(store.create("child", "p", {}), Ok)
    assert ended_well(child)
    assert isinstance(store.create("child", "p", {}), Ok), "the parent has its own"


def test_nothing_is_written_while_a_process_forks() -> None:
    store = MemoryDatastore()
    store.before_fork()
    thread = Thread(target=lambda: store.create("job", "p", {}))
    thread.start()
    assert store.read("job", "p") == NotFound()
    store.after_fork_in_parent()
    thread.join()
    assert isinstance(store.read("job", "p"), Ok)


def test_what_a_child_begins_with_is_held_by_nobody() -> None:
    store = MemoryDatastore()
    store.before_fork()
    store.after_fork_in_child()
    assert isinstance(store.create("job", "p", {}), Ok)
    assert not store._is_still
    store.before_fork()
    store.after_fork_in_parent()
    assert isinstance(store.create("other", "p", {}), Ok)
    assert not store._is_still
