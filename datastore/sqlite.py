"""A store in one SQLite file: durable, for many processes and threads of one machine, nothing to install."""

import os
import random
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import islice
from typing import Any, Final

from datastore.cursor import cursor_after, decode_cursor, encode_cursor
from datastore.errors import Corrupt, Rejected
from datastore.frozen import FrozenDict, FrozenPatch, freeze_body, freeze_patch, freeze_patches
from datastore.interface import (
    Ahead,
    Body,
    Conflict,
    CreateResult,
    Document,
    DocumentName,
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
from datastore.json_body import UNPARSED, JsonBody, encode, parsed
from datastore.matching import LOOKS_MAX, check_query, matcher
from datastore.sqlite_fields import Writing
from datastore.sqlite_file import is_no_json, is_unicode
from datastore.sqlite_query import Key, key_query, page_query, window_query
from datastore.sqlite_session import Batch, Session

TIMEOUT_MS: Final = 5_000
"""How long a write waits for other writers before it is `Unavailable`; a batch takes a few milliseconds."""

_SELECT: Final = "SELECT rev, etag, body FROM documents WHERE partition_key = ? AND id = ?"
_SELECT_AHEAD: Final = (
    "SELECT d.partition_key, d.id, d.rev, d.etag, d.body"
    " FROM json_each(?) j CROSS JOIN documents d ON d.partition_key = j.value AND d.id = j.key"
)
AHEAD_MAX: Final = 1_024
"""Documents read ahead for one batch: what a batch of claims looks at, seven times."""


def random_etag() -> str:
    """Sixteen hex digits, so that no two processes and no two files share one. After a fork Python seeds anew."""
    return random.getrandbits(64).to_bytes(8).hex()


class SqliteDatastore:
    """`Datastore` in one file, written under `BEGIN IMMEDIATE` with a write-ahead log.

    A process has two connections, opened again after a fork: one writes, for one thread at a time, the
    other reads, so that a reader never waits for a commit. (One for each thread would leak with each thread
    that ends, and SQLite has one writer anyway.) A batch belongs to the thread that opened it: its reads
    see its own writes, those of other threads don't.
    """

    concurrency: Final = 1
    """See `Datastore.concurrency`."""

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        indexes: Sequence[str] = (),
        timeout_ms: int = TIMEOUT_MS,
        etag_source: Callable[[], str] = random_etag,
        create: bool = True,
        looks_max: int = LOOKS_MAX,
    ) -> None:
        """Open the file; where it is missing, make it (0600) unless `create` is false. Its folder must be there.

        `looks_max`: documents that a search looks at for one page.

        Raises:
          ValueError: the path is SQLite's `:memory:`, or an index is no dotted path.
          Missing: there is no such file, or no folder for it.
          Unavailable: the file can't be opened or written now.
          Rejected: a newer release wrote it, or its disk can't hold a write-ahead log.
          Corrupt: it is no SQLite database.
        """
        if os.fspath(path) == ":memory:":
            raise ValueError("a SQLite store is a file; for one in memory use memory://")
        name = os.path.abspath(path)  # connections are opened later, perhaps from another working directory
        self._path = os.path.realpath(name)  # as SQLite does: its log stands beside the file that a link leads to
        self._etag_source = etag_source
        self._indexes = frozenset(indexes)
        self._looks_max = looks_max
        self._session = Session(self._path, name=name, indexes=indexes, timeout_ms=timeout_ms)
        self._session.prepare(create=create)
        self._writing = Writing(indexes)

    def read(self, id: str, partition_key: str) -> ReadResult:
        """See `Datastore.read`. Inside a batch it sees the batch's own writes."""
        batch = self._session.own_batch()
        if batch is not None:
            document = batch.documents.get((partition_key, id)) or self._load(batch, partition_key, id)
            return NotFound() if document is None else Ok(document)
        rows = self._session.select(_SELECT, (partition_key, id))
        return Ok(self._parse(partition_key, id, *rows[0])) if rows else NotFound()

    def create(self, id: str, partition_key: str, body: Body) -> CreateResult:
        """See `Datastore.create`."""
        frozen = freeze_body(body)
        return self._session.write(self._create, partition_key, id, frozen)

    def update_if_match(self, id: str, partition_key: str, expected: Expected, patch: Patch) -> UpdateResult:
        """See `Datastore.update_if_match`. Compare and set stand in one transaction that holds the write lock."""
        fields, removed = freeze_patch(patch)
        return self._session.write(self._update, partition_key, id, expected, fields, removed)

    def update_each(self, updates: Sequence[Update]) -> list[UpdateResult]:
        """See `TakesSeveral.update_each`."""
        patches = freeze_patches(updates)
        return self._session.write(self._update_each, updates, patches)

    def find(self, filter: Filter, limit: int = 100, cursor: str | None = None) -> Page:
        """See `Datastore.find`. Fields named in `indexes` are searched through their index."""
        check_query(filter, limit)
        after = None if cursor is None else decode_cursor(cursor)
        until = self._window(filter, after)
        met = matcher(filter)
        found: list[Document] = []
        unreadable: list[str] = []
        while True:  # again only where SQL found rows that the filter does not mean, each time further on
            rows = self._search(filter, limit + 1, after, until)
            for row in rows:
                try:
                    document = self._parse(*row)
                except Corrupt as error:
                    unreadable.append(str(error))
                else:
                    found += [document] if met(document) else []
            if len(found) > limit:
                return Page(tuple(found[:limit]), encode_cursor(found[limit - 1]), tuple(unreadable))
            if len(rows) <= limit:
                return Page(tuple(found), None if until is None else cursor_after(until), tuple(unreadable))
            after = (rows[-1][0], rows[-1][1])

    @contextmanager
    def batch(self, ahead: Ahead = nothing_ahead) -> Iterator[None]:
        """See `Datastore.batch`: one transaction. What the block raises rolls all of it back and propagates.

        What lies ahead is read by one statement, at a third of the cost of as many.

        Raises:
          ValueError: this thread is in a batch already.
          NotApplied: nothing of the batch was written; also when a write in it failed and the block went on.
          Corrupt: nothing of the batch was written, since something that it read, or was to read, is damaged.
          OutcomeUnknown: the commit failed; all of it was written, or nothing.
        """
        if self._session.own_batch() is not None:
            raise ValueError("this thread is in a batch already: one batch is one transaction")
        transaction = self._session.transaction()
        try:
            for batch in transaction:
                self._read_ahead(batch, ahead())
                yield
        finally:
            transaction.close()

    def close(self) -> None:
        """See `Datastore.close`."""
        self._session.close()

    def _create(self, batch: Batch, partition_key: str, id: str, frozen: FrozenDict) -> CreateResult:
        current = batch.documents.get((partition_key, id))
        if current is not None:
            return Conflict(current)
        text = _as_text(frozen)
        document = Document(id, partition_key, 1, Etag(self._etag_source()), frozen)
        row = (partition_key, id, 1, document.etag, text, *self._writing.values(frozen))
        if batch.insert(self._writing.insert, row):
            batch.documents[partition_key, id] = document
            return Ok(document)
        current = self._load(batch, partition_key, id)
        assert current is not None, "it is there, and nobody else can write now"
        return Conflict(current)

    def _update(
        self,
        batch: Batch,
        partition_key: str,
        id: str,
        expected: Expected,
        fields: Mapping[str, Any],
        removed: tuple[str, ...],
    ) -> UpdateResult:
        current = self._load(batch, partition_key, id)
        if current is None:
            return NotFound()
        if not expected.matches(current):
            return Conflict(current)
        document, row = self._successor(current, fields, removed)
        batch.write(self._writing.update, row)
        batch.documents[partition_key, id] = document
        return Ok(document)

    def _update_each(
        self, batch: Batch, updates: Sequence[Update], patches: Sequence[FrozenPatch]
    ) -> list[UpdateResult]:
        results: list[UpdateResult] = []
        rows: list[Sequence[Any]] = []
        written: dict[tuple[str, str], Document] = {}
        for update, (fields, removed) in zip(updates, patches, strict=True):
            key = (update.partition_key, update.id)
            current = written.get(key) or batch.documents.get(key) or self._load(batch, *key)
            if current is None:
                results.append(NotFound())
            elif update.expected is not current and not update.expected.matches(current):
                results.append(Conflict(current))
            else:
                written[key], row = self._successor(current, fields, removed)
                rows.append(row)
                results.append(Ok(written[key]))
        batch.write_each(self._writing.update, rows)
        batch.documents.update(written)
        return results

    def _successor(
        self, current: Document, fields: Mapping[str, Any], removed: tuple[str, ...]
    ) -> tuple[Document, Sequence[Any]]:
        """The version that follows on `current`, and what writes it."""
        stored = current.body if type(current.body) is JsonBody else JsonBody(_as_text(current.body))
        whole = stored.patched(fields, removed)
        text = _as_text(whole)
        rev, etag = current.rev + 1, Etag(self._etag_source())
        row = (rev, etag, text, current.partition_key, current.id, current.etag, *self._writing.values(whole))
        return Document(current.id, current.partition_key, rev, etag, JsonBody(text)), row

    def _load(self, batch: Batch, partition_key: str, id: str) -> Document | None:
        """The document as this transaction sees it; parsed once, since nobody else can write meanwhile."""
        key = (partition_key, id)
        if key in batch.documents:
            return batch.documents[key]
        rows = batch.select(_SELECT, key)
        document = self._parse(*key, *rows[0]) if rows else None
        batch.documents[key] = document
        return document

    def _read_ahead(self, batch: Batch, keys: Iterable[DocumentName]) -> None:
        """Into the transaction's view, also that there is none: nobody else can write meanwhile."""
        named = dict(islice(keys, AHEAD_MAX))
        if not named:
            return
        try:
            text = encode(named)
        except UnicodeEncodeError:  # a name that no document can have
            return
        rows = batch.select(_SELECT_AHEAD, (text,))
        if "\\" not in text:  # some escapes SQLite's JSON reads otherwise: what it does not find may be there
            batch.documents.update(dict.fromkeys(zip(named.values(), named, strict=True)))
        for partition_key, id, rev, etag, text in rows:
            try:
                document = Document(id, partition_key, rev, Etag(etag), JsonBody(text, parsed(text)))
            except UNPARSED:  # which is told when it is read
                batch.documents.pop((partition_key, id), None)
            else:
                batch.documents[partition_key, id] = document

    def _window(self, filter: Filter, after: Key | None) -> Key | None:
        """The last key that one page looks at; None where it may look at all that are left."""
        query = window_query(filter, self._looks_max, after, indexes=self._indexes)
        keys = [] if query is None else self._session.select(*query)
        # A damaged name is no place to go on from.
        return keys[0] if len(keys) > 1 and all(map(is_unicode, keys[0])) else None

    def _search(self, filter: Filter, limit: int, after: Key | None, until: Key | None) -> list[Any]:
        # A text that is no JSON must not hide the others, and is to be named: twice the work, where there is one.
        for wary in (False, True):
            query = page_query(filter, limit, after, indexes=self._indexes, until=until, wary=wary)
            try:
                return self._session.select(*query)
            except Corrupt as error:
                if not is_no_json(error.__cause__):
                    break
        return self._one_by_one(filter, limit, after, until)

    def _one_by_one(self, filter: Filter, limit: int, after: Key | None, until: Key | None) -> list[Any]:
        """What such a search finds, and more; a document on a damaged page without its text, so that it is named.

        Raises:
          Corrupt: it is the keys that are damaged; or this is in a batch, which could not be committed any more.
        """
        rows: list[Any] = []
        for key in self._session.select(*key_query(filter, limit, after, indexes=self._indexes, until=until)):
            try:
                rows += [(*key, *row) for row in self._session.select(_SELECT, key)]
            except Corrupt:
                rows.append((*key, 0, "", ""))
        return rows

    def _parse(self, partition_key: str, id: str, rev: int, etag: str, text: str) -> Document:
        try:
            body = JsonBody(text, parsed(text))
        except UNPARSED as error:
            raise self._unreadable(partition_key, id, str(error)) from error
        return Document(id, partition_key, rev, Etag(etag), body)

    def _unreadable(self, partition_key: str, id: str, reason: str) -> Corrupt:
        return Corrupt(
            f"{self._path}: document {id!r} of {partition_key!r} does not parse ({reason}) and is left alone"
        )


def _as_text(body: Mapping[str, Any]) -> str:
    try:
        return encode(body)
    except (ValueError, OverflowError) as error:  # an integer with more digits than Python writes
        raise Rejected(f"the body can't be written as JSON: {error}") from error
