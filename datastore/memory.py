"""A store in this process's memory, for tests and single-process use: nothing survives the process."""

import secrets
from bisect import bisect_right
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count, islice
from threading import Lock

from datastore.cursor import decode_cursor, encode_cursor
from datastore.errors import Unavailable
from datastore.frozen import freeze_body, freeze_patch, merge
from datastore.interface import (
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
    UpdateResult,
)
from datastore.matching import check_query, matches

Key = tuple[str, str]
"""(partition key, id): the order of `find`."""


class MemoryDatastore:
    """`Datastore` in one process, safe under threads.

    Documents are frozen and copied on write: a caller can reach stored state neither through what it
    passed in nor through what it got. A fork gets a copy that nobody else sees; share one by passing it on.
    """

    def __init__(self, *, etag_prefix: str | None = None) -> None:
        """`etag_prefix` sets this store's etags apart from another's; random unless given."""
        self._documents: dict[Key, Document] = {}
        self._keys: list[Key] = []
        self._lock = Lock()
        self._prefix = secrets.token_hex(4) if etag_prefix is None else etag_prefix
        self._writes = count(1)
        self._closed = False

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
            document = Document(id, partition_key, 1, Etag(f"{self._prefix}-{next(self._writes)}"), frozen)
            self._documents[key] = document
            self._keys.append(key)
        return Ok(document)

    def update_if_match(self, id: str, partition_key: str, expected: Expected, patch: Patch) -> UpdateResult:
        """See `Datastore.update_if_match`. Compare and set are one locked block without I/O."""
        fields, removed = freeze_patch(patch)
        key = (partition_key, id)
        with self._lock:
            if self._closed:
                raise self._gone()
            current = self._documents.get(key)
            if current is None:
                return NotFound()
            if not expected.matches(current):
                return Conflict(current)
            body = merge(current.body, fields, removed)
            etag = Etag(f"{self._prefix}-{next(self._writes)}")
            document = Document(id, partition_key, current.rev + 1, etag, body)
            self._documents[key] = document
        return Ok(document)

    def find(self, filter: Filter, limit: int = 100, cursor: str | None = None) -> Page:
        """See `Datastore.find`. Scans in key order: cheap with a partition key, linear without."""
        check_query(filter, limit)
        found = list(islice((one for one in self._scan(filter, cursor) if matches(one, filter)), limit + 1))
        page = tuple(found[:limit])
        return Page(page, encode_cursor(page[-1]) if len(found) > limit else None)

    @contextmanager
    def batch(self) -> Iterator[None]:
        """See `Datastore.batch`. Each write stands for itself; nothing is rolled back."""
        yield

    def close(self) -> None:
        """See `Datastore.close`."""
        self._closed = True

    def _scan(self, filter: Filter, cursor: str | None) -> Iterator[Document]:
        after = decode_cursor(cursor) if cursor is not None else None
        partition_key = filter.get("partition_key")
        with self._lock:
            if self._closed:
                raise self._gone()
            self._keys.sort()  # nearly sorted already: new keys were appended since the last search
            start = 0 if after is None else bisect_right(self._keys, after)
            if isinstance(partition_key, str):
                start = max(start, bisect_right(self._keys, (partition_key,)))
            keys = self._keys[start:]
        for key in keys:  # without the lock: each document is frozen, and a search only proposes
            if isinstance(partition_key, str) and key[0] != partition_key:
                return
            yield self._documents[key]

    def _gone(self) -> Unavailable:
        return Unavailable("this memory store was closed")
