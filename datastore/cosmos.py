"""Jobs in Azure Cosmos DB: one conditional replace decides who wins, wherever the workers run."""

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Any, Final

from azure.core import MatchConditions
from azure.core.exceptions import AzureError
from azure.cosmos import ContainerProxy, CosmosClient
from azure.cosmos.exceptions import (
    CosmosAccessConditionFailedError,
    CosmosResourceExistsError,
    CosmosResourceNotFoundError,
)

from datastore.cosmos_account import CONNECTIONS_MAX, CosmosAddress, OnCharge, open_client, open_container
from datastore.cosmos_errors import is_missing_item, translated
from datastore.cosmos_query import build_query
from datastore.cursor import encode_cursor
from datastore.errors import Corrupt, DatastoreError, Rejected, Unavailable
from datastore.frozen import freeze_body, freeze_patch, merge
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
    OnTrouble,
    Page,
    Patch,
    ReadResult,
    UpdateResult,
    nothing_ahead,
)
from datastore.matching import check_query

CONNECT_TIMEOUT_MS: Final = 2_000
READ_TIMEOUT_MS: Final = 5_000
"""Below a request's default time-out of 10 s, so that a lost answer can still be confirmed within it."""

ID_BYTES_MAX: Final = 1_023
PAGE_ITEMS_MAX: Final = 1_000
EXACT_INTEGER_MAX: Final = 2**53
"""Cosmos keeps numbers as IEEE 754 doubles: above this an integer comes back as another one, a float as an integer."""

_SERVICES: Final = frozenset({"_rid", "_self", "_etag", "_attachments", "_ts"})
_NOT_BODY: Final = frozenset({"id", "pk", "rev"}) | _SERVICES
_UNUSABLE: Final = frozenset({"pk", "ttl"}) | _SERVICES
"""Names a body can't have: they are the item's own, or the service would act on them (`ttl` deletes)."""


class CosmosDatastore:
    """`Datastore` in one Cosmos container; an item is `{id, pk, rev, …body}` and its etag is the service's.

    Writes are `create_item` and `replace_item` with If-Match, and nothing else; each is sent once. Safe under
    threads. A forked child opens its own: on a shared connection it could read an answer meant for another.
    """

    concurrency: Final = CONNECTIONS_MAX
    """See `Datastore.concurrency`: one call for each connection that is kept open."""

    def __init__(self, client: CosmosClient, container: ContainerProxy, on_trouble: OnTrouble | None = None) -> None:
        """Takes over `client`, which `close` closes. See `from_url`."""
        self._client = client
        self._container = container
        self._on_trouble = on_trouble
        self._closed = False
        self._opened_by_pid = os.getpid()

    @classmethod
    def from_url(
        cls,
        url: str,
        *,
        key: str | None = None,
        on_charge: OnCharge | None = None,
        on_trouble: OnTrouble | None = None,
        searched: Sequence[str] | None = None,
        connect_timeout_ms: int = CONNECT_TIMEOUT_MS,
        read_timeout_ms: int = READ_TIMEOUT_MS,
    ) -> "CosmosDatastore":
        """Open `cosmos://HOST[:PORT]/DATABASE/CONTAINER`.

        Options in the URL: `create=1` creates what is missing (for development and a schema step), `http=1`
        speaks plain HTTP to an emulator on loopback, `discovery=0` stays with this one endpoint.
        `key` is the account key; without it Entra is asked (an emulator gets its public key). Without `create=1` the
        container has to be there: partition key `/pk`, no time to live, a composite index on (`/pk`, `/id`).
        `searched`: what `create=1` has indexed, as dotted paths; None: everything.
        `read_timeout_ms` bounds the wait for one answer; a write not answered by then is OutcomeUnknown.

        Raises:
          ValueError: the URL is not one, or holds credentials.
          Rejected: no usable credential, several write regions, or a container that is not laid out as ours.
          Denied: the account does not let us in, or has no such container. Only raised, not told to `on_trouble`.
          Unavailable: the account could not be reached.
        """
        address = CosmosAddress.parse(url)
        with ExitStack() as undo, translated(f"opening {address.host}", write=False):
            client = open_client(address, key, on_charge, connect_timeout_ms, read_timeout_ms)
            undo.callback(client.close)
            store = cls(client, open_container(client, address, on_trouble, searched), on_trouble)
            undo.pop_all()
        return store

    def read(self, id: str, partition_key: str) -> ReadResult:
        """See `Datastore.read`."""
        _check_id(id)
        with self._calling("read", id, write=False):
            try:
                return Ok(_answered(id, self._container.read_item(id, partition_key)))
            except CosmosResourceNotFoundError as error:
                if not is_missing_item(error):
                    raise
                return NotFound()

    def create(self, id: str, partition_key: str, body: Body) -> CreateResult:
        """See `Datastore.create`."""
        _check_id(id)
        item = _item(id, partition_key, 1, freeze_body(body))
        with self._calling("create", id, write=True):
            try:
                return Ok(_answered(id, self._container.create_item(item)))
            except CosmosResourceExistsError:
                pass
        return Conflict(self._current(id, partition_key))

    def update_if_match(self, id: str, partition_key: str, expected: Expected, patch: Patch) -> UpdateResult:
        """See `Datastore.update_if_match`. One request if `expected.known` has the expected etag, else two."""
        fields, removed = freeze_patch(patch)
        base = expected.known
        if base is None or expected.etag is None or not _is(base, id, partition_key) or not expected.matches(base):
            found = self.read(id, partition_key)
            if isinstance(found, NotFound):
                return found
            base = found.document
            if not expected.matches(base):
                return Conflict(base)
        item = _item(id, partition_key, base.rev + 1, merge(base.body, fields, removed))
        with self._calling("replace", id, write=True):
            try:
                # The etag read pins the rev, so an expected rev needs no condition of its own.
                written = self._container.replace_item(
                    id, item, etag=base.etag, match_condition=MatchConditions.IfNotModified
                )
                return Ok(_answered(id, written))
            except CosmosAccessConditionFailedError:
                pass
            except CosmosResourceNotFoundError as error:
                if not is_missing_item(error):
                    raise
                return NotFound()
        current = self._current(id, partition_key)
        # A replica that still shows the version that was just refused knows less than we do.
        return Conflict(None if current is not None and current.etag == base.etag else current)

    def find(self, filter: Filter, limit: int = 100, cursor: str | None = None) -> Page:
        """See `Datastore.find`. Without a partition key it asks every partition."""
        check_query(filter, limit)
        query = build_query(filter, cursor)
        partition_key = filter.get("partition_key")
        scope: dict[str, Any] = (
            {"enable_cross_partition_query": True} if partition_key is None else {"partition_key": partition_key}
        )
        found: list[Document] = []
        unreadable: list[str] = []
        with self._calling("find", ", ".join(filter), write=False):
            for item in self._container.query_items(
                query.sql, parameters=query.parameters, max_item_count=min(limit + 1, PAGE_ITEMS_MAX), **scope
            ):
                try:
                    found.append(_document(item))
                except Corrupt as error:
                    unreadable.append(str(error))
                if len(found) > limit:
                    break
        page = tuple(found[:limit])
        return Page(page, encode_cursor(page[-1]) if len(found) > limit else None, tuple(unreadable))

    @contextmanager
    def batch(self, ahead: Ahead = nothing_ahead) -> Iterator[None]:  # noqa: ARG002 - a read costs one call
        """See `Datastore.batch`. Each write stands for itself: a transactional batch would ignore If-Match."""
        yield

    def close(self) -> None:
        """See `Datastore.close`."""
        if not self._closed:
            self._closed = True
            self._client.close()

    def _current(self, id: str, partition_key: str) -> Document | None:
        """What a lost race left behind; None where it can't be told."""
        try:
            found = self.read(id, partition_key)
        except DatastoreError:
            return None
        return found.document if isinstance(found, Ok) else None

    def _calling(self, operation: str, name: str, *, write: bool) -> AbstractContextManager[None]:
        if self._closed:
            raise Unavailable("this Cosmos store was closed")
        if self._opened_by_pid != os.getpid():
            raise Rejected("this Cosmos store was opened before a fork: open one in each process")
        return translated(f"{operation} {name!r}", write=write, on_trouble=self._on_trouble)


def _is(document: Document, id: str, partition_key: str) -> bool:
    return document.id == id and document.partition_key == partition_key


def _check_id(id: str) -> None:
    wrong = not id or len(id.encode()) > ID_BYTES_MAX or id.endswith(" ") or not set("/\\?#").isdisjoint(id)
    if wrong or id in (".", ".."):  # which stand in an address for other resources
        raise Rejected(
            f"{id!r} can't be an id: 1 to {ID_BYTES_MAX} bytes, none of / \\ ? #, no space at the end, not . or .."
        )


def _item(id: str, partition_key: str, rev: int, body: Body) -> dict[str, Any]:
    if not _UNUSABLE.isdisjoint(body):
        names = ", ".join(sorted(_UNUSABLE.intersection(body)))
        raise Rejected(f"{id!r}: Cosmos keeps {names} for itself: name the field otherwise")
    _check_numbers(id, body)
    return {**body, "id": id, "pk": partition_key, "rev": rev}


def _check_numbers(id: str, value: object) -> None:
    if isinstance(value, int) and not -EXACT_INTEGER_MAX <= value <= EXACT_INTEGER_MAX:
        raise Rejected(f"{id!r}: {value} is beyond 2**53, where Cosmos rounds: store it as text")
    if isinstance(value, Mapping):
        value = value.values()
    elif not isinstance(value, list):
        return
    for inner in value:
        _check_numbers(id, inner)


def _answered(id: str, item: Mapping[str, Any]) -> Document:
    """The document in an answer about the item `id`. One that is about none comes from something in between."""
    if item.get("id") != id:
        raise AzureError(f"an answer that does not name {id!r}; is there a proxy or a gateway that answers by itself?")
    return _document(item)


def _as_kept(value: Any) -> Any:
    """The value with each integer as the float that it was written as, where it can't have been one."""
    if isinstance(value, int):
        return value if -EXACT_INTEGER_MAX <= value <= EXACT_INTEGER_MAX else float(value)
    if isinstance(value, dict):
        return {name: _as_kept(inner) for name, inner in value.items()}
    return [_as_kept(inner) for inner in value] if isinstance(value, list) else value


def _document(item: Mapping[str, Any]) -> Document:
    name, pk, rev, etag = item.get("id"), item.get("pk"), item.get("rev"), item.get("_etag")
    if not (isinstance(name, str) and isinstance(pk, str) and isinstance(rev, int) and isinstance(etag, str)):
        raise Corrupt(f"item {name!r} of partition {pk!r} was not written by this store: look at it, or move it away")
    try:
        body = freeze_body({field: _as_kept(value) for field, value in item.items() if field not in _NOT_BODY})
    except (ValueError, OverflowError, Rejected) as error:
        raise Corrupt(f"item {name!r} of partition {pk!r}: {error}") from error
    return Document(name, pk, rev, Etag(etag), body)
