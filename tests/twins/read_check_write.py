"""The bug this product began with: a "compare-and-swap" that reads, checks, yields, and writes unconditionally.

Two writers that both read before either wrote both pass the check, and both are told that they won. Any `Gap` in the
place of the seed's `await` makes that happen every time. It is not a matter of the store beneath: that one is sound.
"""

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from datastore.interface import (
    UNSET,
    Ahead,
    Body,
    Conflict,
    CreateResult,
    Datastore,
    Document,
    Expected,
    Ok,
    Patch,
    UpdateResult,
    nothing_ahead,
)
from datastore.memory import MemoryDatastore
from datastore.sqlite import SqliteDatastore
from tests.twins.forwarding import Forwarding, write_anyway
from tests.twins.meeting import FileMeeting, Gap, ThreadMeeting


class ReadCheckWrite(Forwarding):
    """`Datastore` whose update is three steps with `gap` before the last. So is its create, given a `create_gap`."""

    def __init__(
        self, inner: Datastore | None = None, *, gap: Gap | None = None, create_gap: Gap | None = None
    ) -> None:
        super().__init__(MemoryDatastore() if inner is None else inner)
        self._gap = ThreadMeeting() if gap is None else gap
        self._create_gap = create_gap

    def update_if_match(self, id: str, partition_key: str, expected: Expected, patch: Patch) -> UpdateResult:
        found = self.inner.read(id, partition_key)
        if not isinstance(found, Ok):
            return found
        if not expected.matches(found.document):
            return Conflict(found.document)
        self._gap((partition_key, id, found.document.rev))
        replacement = {name: value for name, value in {**found.document.body, **patch}.items() if value is not UNSET}
        return self._replace(id, partition_key, replacement)

    def create(self, id: str, partition_key: str, body: Body) -> CreateResult:
        found = self.inner.read(id, partition_key)
        if self._create_gap is None or isinstance(found, Ok):
            return self.inner.create(id, partition_key, body)
        self._create_gap((partition_key, id, 0))
        created = self.inner.create(id, partition_key, body)
        if isinstance(created, Ok):
            return created
        replaced = self._replace(id, partition_key, body)
        assert isinstance(replaced, Ok)
        return replaced

    def batch(self, ahead: Ahead = nothing_ahead) -> AbstractContextManager[None]:  # noqa: ARG002
        return nullcontext()  # a transaction around all three steps would hide the bug

    def _replace(self, id: str, partition_key: str, body: Mapping[str, Any]) -> UpdateResult:
        found = self.inner.read(id, partition_key)
        stored: Document | None = found.document if isinstance(found, Ok) else None
        gone = {} if stored is None else dict.fromkeys(set(stored.body) - set(body), UNSET)
        return write_anyway(self.inner, id, partition_key, {**body, **gone})


def open_twin(path: str) -> Datastore:
    """The broken store over a SQLite file, for several processes: they meet in a folder beside it."""
    return ReadCheckWrite(SqliteDatastore(path), gap=FileMeeting(f"{path}.meeting"))
