"""The contract of a datastore: versioned documents, written by compare-and-swap."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from enum import Enum
from typing import TYPE_CHECKING, Any, Final, NewType, Protocol, TypeAlias, runtime_checkable

from datastore.value import Value

JsonValue: TypeAlias = "str | int | float | bool | Sequence[JsonValue] | Mapping[str, JsonValue] | None"
Body: TypeAlias = Mapping[str, JsonValue]
"""Top-level fields of a document. Read-only for whoever receives it."""

if TYPE_CHECKING:
    Etag = NewType("Etag", str)
    """Opaque version of a stored document. Equality only; never parsed or ordered."""
else:
    Etag = str  # a new type is called like any function, for each document that is read or written


class Unset(Enum):
    """The type of `UNSET`, the patch value that removes a field."""

    UNSET = "UNSET"

    def __repr__(self) -> str:
        return "UNSET"


UNSET: Final = Unset.UNSET
"""In a patch: remove this field. `None` is a value and is stored as null."""

Patch: TypeAlias = Mapping[str, "JsonValue | Unset"]
"""A shallow merge of top-level fields. `RESERVED_FIELDS` can't be patched."""


class Trouble(Enum):
    """What a store tells beside its answers, since someone has to do something. A value is the name of an event."""

    DENIED = "store_denied"
    """It does not let this process in."""
    LOSES_IN_FAILOVER = "store_loses_writes_in_failover"
    """What it has acknowledged may be gone after an unplanned failover."""


OnTrouble: TypeAlias = Callable[[Trouble, str], None]
"""Called with each trouble, as often as it is met, and what to do about it. From several threads; must not raise."""

RESERVED_FIELDS: Final = frozenset({"id", "partition_key", "rev", "etag"})
"""Fields that belong to the store. A body or a patch that names one is a `ValueError`."""


class Document(Value, frozen=True):
    """One stored version. `rev` starts at 1 and rises by one with each write; `etag` is new with each write."""

    id: str
    partition_key: str
    rev: int
    etag: Etag
    body: Body

    def matches(self, document: "Document") -> bool:
        """Whether `document` is this very version."""
        return document is self or (document.etag == self.etag and document.rev == self.rev)


class Expected(Value, frozen=True):
    """The version a write insists on: an etag, a rev, or both (then both must match).

    `known` may carry the document the version was read from; a provider that replaces whole
    documents then needs no second read. It never weakens the condition.

    Raises:
      ValueError: neither is given. There is no unconditional write.
    """

    etag: Etag | str | None = None
    rev: int | None = None
    known: Document | None = None

    def __post_init__(self) -> None:
        if self.etag is None and self.rev is None:
            raise ValueError("Expected needs an etag, a rev, or both: there is no unconditional write")

    @classmethod
    def of(cls, version: "Expected | Document") -> "Expected":
        """What insists on this version."""
        return version if isinstance(version, Expected) else cls(version.etag, version.rev, version)

    def matches(self, document: Document) -> bool:
        """Whether `document` is the version this write insists on."""
        return (self.etag is None or self.etag == document.etag) and (self.rev is None or self.rev == document.rev)


class Update(Value, frozen=True):
    """One of several updates that are made together, as `update_if_match` takes it."""

    id: str
    partition_key: str
    expected: Expected | Document
    """A document that was read: this very version of it."""
    patch: Mapping[str, Any]
    """A `Patch`."""
    ready: bool = False
    """Whether nothing of the patch is left to look at: it sets fields, none of them reserved, their values are frozen,
    and all text in it was stored before or is ASCII. Its maker keeps it to itself."""


class Ok(Value, frozen=True):
    """Read, created or written: the document as it stands now."""

    document: Document


class Conflict(Value, frozen=True):
    """Another version is stored. Nothing was written. `current` is None where it could not be read in the same step."""

    current: Document | None


class NotFound(Value, frozen=True):
    """There is no such document. Nothing was written."""


ReadResult: TypeAlias = Ok | NotFound
CreateResult: TypeAlias = Ok | Conflict
UpdateResult: TypeAlias = Ok | Conflict | NotFound


class AtMost(Value, frozen=True):
    """Filter condition: a number that is not above `limit`. A missing or null field does not match."""

    limit: int | float


class AtLeast(Value, frozen=True):
    """Filter condition: a number that is not below `limit`. A missing or null field does not match."""

    limit: int | float


class AnyOf(Value, frozen=True):
    """Filter condition: one of these values."""

    values: tuple[str | int | bool, ...]


Condition: TypeAlias = str | int | bool | AtMost | AtLeast | AnyOf
Filter: TypeAlias = Mapping[str, Condition]
"""Field to condition, all of which must hold. A dot descends: `{"state": "leased", "lease.expires_ms": AtMost(n)}`.
A plain value means equality. The key `partition_key` restricts the search to one partition."""


class Page(Value, frozen=True):
    """Documents that matched, in order of (partition key, id). `cursor` is None on the last page.

    A page with a cursor may hold fewer than were asked for, or none: a store looks at so many documents for one page.
    """

    documents: tuple[Document, ...]
    cursor: str | None
    unreadable: tuple[str, ...] = ()
    """What was found and does not parse, each in words that name it; it hides nothing that stands behind it."""


DocumentName: TypeAlias = tuple[str, str]
"""(id, partition key) of a document, as `Datastore.read` takes them."""
Ahead: TypeAlias = Callable[[], Iterable[DocumentName]]


def nothing_ahead() -> Iterable[DocumentName]:
    """The block of a batch does not say what it will read."""
    return ()


class Datastore(Protocol):
    """Versioned documents, written by compare-and-swap.

    Each write is atomic for its document. A stale read may cost a Conflict, never a wrong
    write. Expected answers are returned; failures are raised, always as a DatastoreError.
    Providers never retry a write, never read a clock and never know what a lease is.
    Every method may be called from several threads.
    """

    @property
    def concurrency(self) -> int:
        """How many calls a caller does well to make at once. 1: its calls come from one thread, one after the other.

        More where a call is a wait for another machine. What such calls do goes on side by side: `batch` groups none.
        """
        ...

    def read(self, id: str, partition_key: str) -> ReadResult:
        """The document as stored, or NotFound.

        Raises:
          NotApplied: try again.
          Corrupt: the stored document does not parse.
        """
        ...

    def create(self, id: str, partition_key: str, body: Body) -> CreateResult:
        """Store a new document at rev 1. Never an upsert: an existing id is a Conflict.

        Raises:
          ValueError: `body` names a reserved field.
          Rejected: the body is not JSON, or larger than the store takes.
          NotApplied: certainly nothing was written; safe to try again.
          OutcomeUnknown: it may have been written; read before any other write.
        """
        ...

    def update_if_match(self, id: str, partition_key: str, expected: Expected, patch: Patch) -> UpdateResult:
        """Merge `patch` into the document if its version is still `expected`.

        Raises:
          ValueError: `patch` names a reserved field.
          Rejected: the patched document is not JSON, or larger than the store takes.
          NotApplied: certainly nothing was written; safe to try again.
          OutcomeUnknown: it may have been written; read before any other write.
        """
        ...

    def find(self, filter: Filter, limit: int = 100, cursor: str | None = None) -> Page:
        """Up to `limit` documents that match. May be stale: it proposes, a conditional write decides.

        A document that does not parse is none of them: the page names it.

        Raises:
          UnknownCursor: `cursor` is not the one of a page.
          NotApplied: the store could not be read.
        """
        ...

    def batch(self, ahead: Ahead = nothing_ahead) -> AbstractContextManager[None]:
        """Group the writes made inside where the store can (one SQLite transaction), else do nothing.

        `ahead` tells what the block will read: a store that reads many documents at less cost asks for it and does.

        Results inside are provisional until the block ends. An exception from the end of the
        block says what became of all of them: NotApplied (none was written), OutcomeUnknown, or Corrupt (none was
        written, since one of them met damage: apart from it the others may do well).
        """
        ...

    def close(self) -> None:
        """Give back connections. The store can't be used afterwards; closing twice is harmless."""
        ...


@runtime_checkable
class TakesSeveral(Protocol):
    """What a store may offer beside its contract: several updates with one call, at less cost than one by one."""

    def update_each(self, updates: Sequence[Update]) -> list[UpdateResult]:
        """What `update_if_match` says to each, in their order. Each is atomic for its document, and stands for itself.

        Raises:
          ValueError, Rejected, NotApplied: certainly none of them was written.
          OutcomeUnknown: any of them may have been written.
        """
        ...
