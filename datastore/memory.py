"""A store in this process's memory, for tests and single-process use: nothing survives the process."""

import secrets
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import count, islice, takewhile
from threading import Lock
from typing import Any, Final

from datastore.cursor import cursor_after, decode_cursor, encode_cursor
from datastore.errors import Unavailable
from datastore.forks import tell_of_forks
from datastore.frozen import freeze_body, freeze_patch, freeze_patches, merge
from datastore.interface import (
    Ahead,
    Body,
    Conflict,
    CreateResult,
    Document,
    Etag,
    Expected,
    Filter,
    NotFound,
    Ok,
    Page,
    Patch,
    ReadResult,
    Update,
    UpdateResult,
    nothing_ahead,
)
from datastore.matching import LOOKS_MAX, check_query, matcher
from datastore.memory_index import MemoryIndex
from datastore.sorted_keys import Key, Place

FORK_PATIENCE_S: Final = 5
"""For writes under way, which take microseconds: only one that a signal's handler forks in does not end."""


class MemoryDatastore:
    """`Datastore` in one process, safe under threads.

    Documents are frozen and copied on write: a caller can reach stored state neither through what it
    passed in nor through what it got. A fork gets a copy that nobody else sees; share one by passing it on.
    """

    concurrency: Final = 1
    """See `Datastore.concurrency`."""

    def __init__(
        self, *, etag_prefix: str | None = None, indexes: Sequence[str] = (), looks_max: int = LOOKS_MAX
    ) -> None:
        """`etag_prefix` sets this store's etags apart from another's; random unless given.

        `indexes`: fields that searches name; those of one value are then found without a look at the others.
        `looks_max`: documents that a search looks at for one page.
        """
        self._documents: dict[Key, Document] = {}
        self._index = MemoryIndex(indexes)
        self._lock = Lock()
        self._prefix = secrets.token_hex(4) if etag_prefix is None else etag_prefix
        self._writes = count(1)
        self._looks_max = looks_max
        self._closed = False
        self._is_still = False
        tell_of_forks(self)

    def before_fork(self) -> None:
        """See `Forked`."""
        self._is_still = self._lock.acquire(timeout=FORK_PATIENCE_S)

    def after_fork_in_parent(self) -> None:
        """See `Forked`."""
        if self._is_still:
            self._is_still = False
            self._lock.release()

    def after_fork_in_child(self) -> None:
        """See `Forked`."""
        self._is_still = False
        self._lock = Lock()

    def read(self, id: str, partition_key: str) -> ReadResult:
        """See `Datastore.read`."""
        if self._closed:
            raise self._gone()
        document = self._documents.get((partition_key, id))
        return NotFound() if document is None else Ok(document)

    def create(self, id: str, partition_key: str, body: Body) -> CreateResult:
        """See `Datastore.create`."""
        frozen = freeze_body(body)
        key = (partition_key, id)
        with self._lock:
            if self._closed:
                raise self._gone()
            current = self._documents.get(key)
            if current is not None:
                return Conflict(current)
            document = Document(id, partition_key, 1, self._next_etag(), frozen)
            self._documents[key] = document
            self._index.add(key, frozen)
        return Ok(document)

    def update_if_match(self, id: str, partition_key: str, expected: Expected, patch: Patch) -> UpdateResult:
        """See `Datastore.update_if_match`. Compare and set are one locked block without I/O."""
        fields, removed = freeze_patch(patch)
        key = (partition_key, id)
        with self._lock:
            if self._closed:
                raise self._gone()
            return self._swap(key, expected, fields, removed)

    def update_each(self, updates: Sequence[Update]) -> list[UpdateResult]:
        """See `TakesSeveral.update_each`."""
        frozen = freeze_patches(updates)
        with self._lock:
            if self._closed:
                raise self._gone()
            return [
                self._swap((update.partition_key, update.id), update.expected, fields, removed)
                for update, (fields, removed) in zip(updates, frozen, strict=True)
            ]

    def find(self, filter: Filter, limit: int = 100, cursor: str | None = None) -> Page:
        """See `Datastore.find`. Looks at no more than an index narrows it to; without one at everything."""
        check_query(filter, limit)
        met = matcher(filter)
        keys, end = self._candidates(filter, cursor)
        documents = (self._documents[key] for key in keys)
        found = list(islice((document for document in documents if met(document)), limit + 1))
        if len(found) > limit:
            return Page(tuple(found[:limit]), encode_cursor(found[limit - 1]))
        return Page(tuple(found), None if end is None else cursor_after(end))

    @contextmanager
    def batch(self, ahead: Ahead = nothing_ahead) -> Iterator[None]:  # noqa: ARG002 - it reads at no cost
        """See `Datastore.batch`. Each write stands for itself; nothing is rolled back."""
        yield

    def close(self) -> None:
        """See `Datastore.close`."""
        self._closed = True

    def _candidates(self, filter: Filter, cursor: str | None) -> tuple[Sequence[Key], Key | None]:
        """Keys that may match, in order, as many as one page looks at; and the last that it takes in if not all.

        A search that goes on may look at those that were there as it began.
        """
        after: Place | None = None if cursor is None else decode_cursor(cursor)
        here = filter.get("partition_key")
        if isinstance(here, str):
            after = (here,) if after is None else max(after, (here,))
        with self._lock:
            if self._closed:
                raise self._gone()
            again = cursor is not None
            keys, end = self._index.portion(filter, after, again=again, at_most=self._looks_max)
        if not isinstance(here, str):
            return keys, end
        return list(takewhile(lambda key: key[0] == here, keys)), end if end is not None and end[0] == here else None

    def _swap(
        self, key: Key, expected: Expected | Document, fields: Mapping[str, Any], removed: tuple[str, ...]
    ) -> UpdateResult:
        """Compare and set, in the lock."""
        current = self._documents.get(key)
        if current is None:
            return NotFound()
        if expected is not current and not expected.matches(current):  # its very version, as nearly always
            return Conflict(current)
        body = merge(current.body, fields, removed)
        document = Document(key[1], key[0], current.rev + 1, self._next_etag(), body)
        self._documents[key] = document
        if removed or not self._index.fields.isdisjoint(fields):
            self._index.move(key, current.body, body)
        return Ok(document)

    def _next_etag(self) -> Etag:
        return Etag(f"{self._prefix}-{next(self._writes)}")

    def _gone(self) -> Unavailable:
        return Unavailable("this memory store was closed")
