"""The one way to search the store, by a closed list of fields: Cosmos DB indexes these and nothing else."""

from collections.abc import Iterator
from typing import Final

from datastore import Datastore, Filter, Page

SEARCHED: Final = (
    "kind",
    "state",
    "queue",
    "open",
    "updated_ms",
    "not_before_ms",
    "deadline_ms",
    "stuck_after_ms",
    "cancel.enforce_ms",
    "lease.expires_ms",
    "lease.run_deadline_ms",
    "lease.factory_id",
    "lease.request_id",
    "next_ms",
    "since_ms",
)
"""Dotted paths into the body that any search names. A search by another one looks at every document of a container,
whose index is made with the container: who adds a path here says so in CHANGELOG.md, with what fleets have to do."""

_ALLOWED: Final = frozenset((*SEARCHED, "partition_key"))


def search(store: Datastore, filter: Filter, *, limit: int, cursor: str | None = None) -> Page:
    """See `Datastore.find`."""
    assert filter.keys() <= _ALLOWED, f"{sorted(filter.keys() - _ALLOWED)} is not among SEARCHED"
    return store.find(filter, limit=limit, cursor=cursor)


def pages(store: Datastore, filter: Filter, *, limit: int) -> Iterator[Page]:
    """All pages of a search, one after the other as they are asked for."""
    cursor: str | None = None
    while True:
        page = search(store, filter, limit=limit, cursor=cursor)
        yield page
        if (cursor := page.cursor) is None:
            return
