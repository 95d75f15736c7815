"""Stores that break one smaller promise each, so that every part of the contract has been seen to fail."""

from collections.abc import Mapping
from typing import Any

from datastore.interface import (
    Body,
    Conflict,
    CreateResult,
    Document,
    Etag,
    Expected,
    Filter,
    Ok,
    Page,
    Patch,
    UpdateResult,
)
from datastore.memory import MemoryDatastore


class Upserts(MemoryDatastore):
    """A create of what exists replaces it."""

    def create(self, id: str, partition_key: str, body: Body) -> CreateResult:
        result = super().create(id, partition_key, body)
        if isinstance(result, Conflict) and result.current is not None:
            written = self.update_if_match(id, partition_key, Expected(etag=result.current.etag), body)
            return written if isinstance(written, Ok) else result
        return result


class IgnoresRev(MemoryDatastore):
    """Only the etag counts; with a rev alone everything matches."""

    def update_if_match(self, id: str, partition_key: str, expected: Expected, patch: Patch) -> UpdateResult:
        found = self.read(id, partition_key)
        if not isinstance(found, Ok):
            return found
        etag = found.document.etag if expected.etag is None else expected.etag
        return super().update_if_match(id, partition_key, Expected(etag=etag), patch)


class EtagOfContent(MemoryDatastore):
    """The etag is a digest of the body, so that the same content has the same etag again."""

    def _next_etag(self) -> Etag:
        return Etag("digest")


class MergesDeeply(MemoryDatastore):
    """A patch is merged into nested fields as well, and None removes."""

    def update_if_match(self, id: str, partition_key: str, expected: Expected, patch: Patch) -> UpdateResult:
        found = self.read(id, partition_key)
        old: Body = found.document.body if isinstance(found, Ok) else {}
        deep: dict[str, Any] = {}
        for name, value in patch.items():
            nested = old.get(name)
            deep[name] = {**nested, **value} if isinstance(nested, Mapping) and isinstance(value, Mapping) else value
        return super().update_if_match(id, partition_key, expected, deep)


class SharesState(MemoryDatastore):
    """What it gives out is what it keeps, and can be changed."""

    def create(self, id: str, partition_key: str, body: Body) -> CreateResult:
        document = Document(id, partition_key, 1, self._next_etag(), body)
        self._documents[partition_key, id] = document
        self._index.add((partition_key, id), body)
        return Ok(document)


class ForgetsTheRest(MemoryDatastore):
    """A search gives its first page and says that it was the last."""

    def find(self, filter: Filter, limit: int = 100, cursor: str | None = None) -> Page:
        return Page(super().find(filter, limit, cursor).documents, None)


class SearchesEverywhere(MemoryDatastore):
    """A search ignores its conditions."""

    def find(self, filter: Filter, limit: int = 100, cursor: str | None = None) -> Page:
        del filter  # the bug
        return super().find({}, limit, cursor)
