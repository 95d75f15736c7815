"""The gate of a downstream system: the highest epoch passes, a lower one never after it."""

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from broker.client import FenceGate, GateBusy, StaleEpoch
from datastore import Datastore, Expected, OutcomeUnknown, UpdateResult, connect
from datastore.interface import Patch
from tests.processes import end, start_python
from tests.twins.forwarding import Forwarding, write_anyway


@pytest.fixture(params=["memory", "sqlite"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Datastore]:
    store = connect("memory://" if request.param == "memory" else f"sqlite:///{tmp_path}/fence.db")
    yield store
    store.close()


@pytest.fixture
def gate(store: Datastore) -> FenceGate:
    return FenceGate(store)


def test_the_same_epoch_passes_again_and_a_higher_one_too(gate: FenceGate) -> None:
    for epoch in (1, 1, 2, 7, 7):
        gate.admit("disk", epoch)
    assert gate.highest("disk") == 7


def test_a_lower_epoch_than_the_highest_seen_is_refused_and_changes_nothing(gate: FenceGate) -> None:
    gate.admit("disk", 5)
    with pytest.raises(StaleEpoch) as refused:
        gate.admit("disk", 4)
    assert (refused.value.resource, refused.value.epoch, refused.value.highest) == ("disk", 4, 5)
    assert gate.highest("disk") == 5


def test_resources_have_gates_of_their_own_whatever_their_names(gate: FenceGate) -> None:
    names = ["a", "A", "a/b?c#d", "ü" * 2_000, " a", "a "]
    for epoch, name in enumerate(names, start=1):
        gate.admit(name, epoch)
    assert [gate.highest(name) for name in names] == [1, 2, 3, 4, 5, 6]
    assert gate.highest("never seen") is None


@pytest.mark.parametrize("epoch", [0, -1])
def test_an_epoch_that_was_never_granted_is_a_mistake_of_the_caller(gate: FenceGate, epoch: int) -> None:
    with pytest.raises(ValueError, match="at least 1"):
        gate.admit("disk", epoch)


def race(gate: FenceGate) -> tuple[list[tuple[int, int]], int]:
    """Thirty-two writers at once. Each that is admitted looks at once: (its epoch, the highest it then sees)."""
    together = threading.Barrier(32)
    seen: list[tuple[int, int]] = []

    def write(epoch: int) -> None:
        together.wait()
        try:
            gate.admit("disk", epoch)
        except (StaleEpoch, GateBusy):
            return
        seen.append((epoch, gate.highest("disk") or 0))

    threads = [threading.Thread(target=write, args=(1 + number % 16,)) for number in range(32)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return seen, gate.highest("disk") or 0


def test_of_many_writers_at_once_none_lowers_the_mark(gate: FenceGate) -> None:
    seen, highest = race(gate)
    assert seen, "nobody was admitted: this tests nothing"
    assert [(epoch, after) for epoch, after in seen if after < epoch or highest < epoch] == []


class Paused(Forwarding):
    """Holds up the write of epoch 2 after its check. With `overwrite`, the bug of the seed, the write lands."""

    def __init__(self, inner: Datastore, *, overwrite: bool) -> None:
        super().__init__(inner)
        self._overwrite = overwrite
        self.checked = threading.Event()
        self.go_on = threading.Event()

    def update_if_match(self, id: str, partition_key: str, expected: Expected, patch: Patch) -> UpdateResult:
        if patch["epoch"] == 2:
            self.checked.set()
            assert self.go_on.wait(10)
            if self._overwrite:
                return write_anyway(self.inner, id, partition_key, patch)
        return self.inner.update_if_match(id, partition_key, expected, patch)


def overtaken(store: Paused) -> tuple[bool, int | None]:
    """Epoch 3 passes between the check and the write of epoch 2. Whether 2 was refused, and the mark afterwards."""
    gate = FenceGate(store)
    gate.admit("disk", 1)
    refused: list[StaleEpoch] = []

    def lower() -> None:
        try:
            gate.admit("disk", 2)
        except StaleEpoch as error:
            refused.append(error)

    thread = threading.Thread(target=lower)
    thread.start()
    assert store.checked.wait(10)
    gate.admit("disk", 3)
    store.go_on.set()
    thread.join()
    return bool(refused), gate.highest("disk")


def test_a_writer_overtaken_between_its_check_and_its_write_is_refused(store: Datastore) -> None:
    assert overtaken(Paused(store, overwrite=False)) == (True, 3)


def test_on_a_read_check_write_store_the_same_writer_would_pass_and_lower_the_mark(store: Datastore) -> None:
    assert overtaken(Paused(store, overwrite=True)) == (False, 2)


class Mute(Forwarding):
    """Writes, and then says that it does not know."""

    def __init__(self, inner: Datastore) -> None:
        super().__init__(inner)
        self.unknown = 0

    def update_if_match(self, id: str, partition_key: str, expected: Expected, patch: Patch) -> UpdateResult:
        self.inner.update_if_match(id, partition_key, expected, patch)
        self.unknown += 1
        raise OutcomeUnknown("the answer was lost")


def test_a_lost_answer_of_the_store_is_looked_up(store: Datastore) -> None:
    mute = Mute(store)
    gate = FenceGate(mute)
    gate.admit("disk", 1)
    gate.admit("disk", 2)
    assert mute.unknown == 1
    assert gate.highest("disk") == 2


class Lost(Mute):
    """Says so each time, and writes nothing as far as anybody sees."""

    def update_if_match(self, id: str, partition_key: str, expected: Expected, patch: Patch) -> UpdateResult:  # noqa: ARG002
        raise OutcomeUnknown("the answer was lost")


def test_where_no_answer_of_the_store_is_known_it_is_not_said_that_nothing_was_admitted(store: Datastore) -> None:
    gate = FenceGate(Lost(store))
    gate.admit("disk", 1)
    with pytest.raises(OutcomeUnknown):
        gate.admit("disk", 2)


def test_processes_share_one_gate_in_a_file(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/shared.db"
    gate = FenceGate.open(url)
    gate.admit("disk", 3)
    code = (
        "import sys; from broker.client import FenceGate; FenceGate.open(sys.argv[1]).admit('disk', int(sys.argv[2]))"
    )
    children = [start_python(code, url, epoch) for epoch in ("2", "9")]
    try:
        stale, fresh = (child.communicate(timeout=30)[0] for child in children)
        assert [child.returncode for child in children] == [1, 0], fresh
    finally:
        for child in children:
            end(child)
    assert "StaleEpoch: disk: epoch 2 is stale" in stale
    assert gate.highest("disk") == 9
    gate.close()
