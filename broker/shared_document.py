"""Documents that many write to, such as slots and controls: each change is one conditional write, judged anew."""

from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

from broker.entropy import Entropy
from datastore import Conflict, Datastore, Document, Expected, NotFound, Ok, Unavailable
from datastore.confirm import confirmed_create, confirmed_update

WRITES_MAX = 64
"""Tries to change a document that others change too. A lost race costs one read and one write."""

REREADS_MAX = 3
"""Further looks where a read shows nothing, or less of it than the caller has seen."""

Judge: TypeAlias = Callable[[Mapping[str, Any]], dict[str, Any] | None]
"""The change that the stored body calls for; None where it calls for none."""


def read_body(store: Datastore, name: str) -> Mapping[str, Any] | None:
    """What is stored under `name`, which is its partition key too."""
    found = store.read(name, name)
    return found.document.body if isinstance(found, Ok) else None


def read_known(store: Datastore, name: str) -> Document | None:
    """The document under `name`. A read that shows none may be stale, and is repeated."""
    for _ in range(1 + REREADS_MAX):
        if isinstance(found := store.read(name, name), Ok):
            return found.document
    return None


def change(
    store: Datastore,
    entropy: Entropy,
    name: str,
    judge: Judge,
    *,
    empty: Mapping[str, Any] | None = None,
    writes_max: int = WRITES_MAX,
) -> None:
    """Apply `judge` to each version until its change lands, or it has nothing to change.

    `empty`: what a missing document begins with; None: a missing one is left missing. `writes_max`: 1 for a change that
    must not be made twice, since one that landed may be answered as a lost race.

    Raises:
      NotApplied: it was not changed. OutcomeUnknown: it may have been.
    """
    document = _read(store, entropy, name, empty)
    for _ in range(writes_max):
        if document is None or (patch := judge(document.body)) is None:
            return
        expected = Expected(etag=document.etag, known=document)
        match confirmed_update(store, name, name, expected, patch, write_id=entropy.write_id()):
            case Ok(_) | NotFound():
                return
            case Conflict(current):
                document = current or _read(store, entropy, name, empty)
    raise Unavailable(f"{name!r}: {writes_max} swaps in a row lost")


def _read(store: Datastore, entropy: Entropy, name: str, empty: Mapping[str, Any] | None) -> Document | None:
    if empty is None:
        return read_known(store, name)
    found = store.read(name, name)
    if isinstance(found, Ok):
        return found.document
    match confirmed_create(store, name, name, empty, write_id=entropy.write_id()):
        case Ok(document):
            return document
        case Conflict(current):
            return current
