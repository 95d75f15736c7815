"""A store that counts what it is asked for."""

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from datastore.interface import (
    Ahead,
    Body,
    CreateResult,
    Datastore,
    Expected,
    Filter,
    Page,
    Patch,
    ReadResult,
    TakesSeveral,
    Update,
    UpdateResult,
    nothing_ahead,
)
from tests.twins.forwarding import Forwarding


class CountingStore(Forwarding):
    """Passes everything on, and counts it."""

    calls: Counter[str]
    """By the name of the call: `batch` is a group of writes, `written` are the documents that `update` calls write."""

    @classmethod
    def of(cls, store: Datastore) -> "CountingStore":
        """Around `store`. It takes several updates with one call where that does."""
        kind = CountingGrouped if isinstance(store, TakesSeveral) else CountingStore
        return kind(store)

    def count(self) -> "CountingStore":
        """Begin to count, or begin anew."""
        self.calls = Counter()
        return self

    def read(self, id: str, partition_key: str) -> ReadResult:
        self.calls["read"] += 1
        return super().read(id, partition_key)

    def create(self, id: str, partition_key: str, body: Body) -> CreateResult:
        self.calls["create"] += 1
        return super().create(id, partition_key, body)

    def update_if_match(self, id: str, partition_key: str, expected: Expected, patch: Patch) -> UpdateResult:
        self.calls.update(("update", "written"))
        return super().update_if_match(id, partition_key, expected, patch)

    def find(self, filter: Filter, limit: int = 100, cursor: str | None = None) -> Page:
        self.calls["find"] += 1
        return super().find(filter, limit, cursor)

    @contextmanager
    def batch(self, ahead: Ahead = nothing_ahead) -> Iterator[None]:
        self.calls["batch"] += 1
        with super().batch(ahead):
            yield


class CountingGrouped(CountingStore):
    """Takes several updates with one call."""

    def update_each(self, updates: Sequence[Update]) -> list[UpdateResult]:
        assert isinstance(self.inner, TakesSeveral)
        self.calls["update"] += 1
        self.calls["written"] += len(updates)
        return self.inner.update_each(updates)
