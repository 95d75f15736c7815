"""A store that passes everything on, so that a broken one shows nothing but what is broken about it."""

from contextlib import AbstractContextManager
from typing import cast

from datastore.confirm import UpdateEach
from datastore.interface import (
    Ahead,
    Body,
    CreateResult,
    Datastore,
    Expected,
    Filter,
    Ok,
    Page,
    Patch,
    ReadResult,
    TakesSeveral,
    UpdateResult,
    nothing_ahead,
)

OVERWRITES_MAX = 10_000


class Forwarding:
    """`Datastore` on top of another one."""

    def __init__(self, inner: Datastore) -> None:
        self.inner = inner

    @property
    def concurrency(self) -> int:
        return self.inner.concurrency

    def read(self, id: str, partition_key: str) -> ReadResult:
        return self.inner.read(id, partition_key)

    def create(self, id: str, partition_key: str, body: Body) -> CreateResult:
        return self.inner.create(id, partition_key, body)

    def update_if_match(self, id: str, partition_key: str, expected: Expected, patch: Patch) -> UpdateResult:
        return self.inner.update_if_match(id, partition_key, expected, patch)

    @property
    def update_each(self) -> UpdateEach:
        """That of the store beneath, if it has it. A twin that does something to single updates has none, unless it
        says what it does to several: they would pass it by.

        Raises:
          AttributeError: there is none, as `hasattr` and `getattr` see it.
        """
        if type(self).update_if_match is not Forwarding.update_if_match:
            raise AttributeError(f"{type(self).__name__} sees to single updates alone")
        return cast("TakesSeveral", self.inner).update_each

    def find(self, filter: Filter, limit: int = 100, cursor: str | None = None) -> Page:
        return self.inner.find(filter, limit, cursor)

    def batch(self, ahead: Ahead = nothing_ahead) -> AbstractContextManager[None]:
        return self.inner.batch(ahead)

    def close(self) -> None:
        self.inner.close()


def write_anyway(store: Datastore, id: str, partition_key: str, patch: Patch) -> UpdateResult:
    """An unconditional write, which no store of ours offers: the last version is always the expected one."""
    for _ in range(OVERWRITES_MAX):
        found = store.read(id, partition_key)
        if not isinstance(found, Ok):
            return found
        result = store.update_if_match(id, partition_key, Expected(etag=found.document.etag), patch)
        if isinstance(result, Ok):
            return result
    raise AssertionError(f"{OVERWRITES_MAX} unconditional writes lost their race")
