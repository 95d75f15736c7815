"""What the contract's checks share: documents of their own, and one way to say that a promise is broken."""

from collections.abc import Mapping
from itertools import count
from typing import Final

from datastore.interface import Body, Conflict, Datastore, Document, Etag, Expected, NotFound, Ok, UpdateResult

RESERVED_PREFIX: Final = "check-store:"
"""Partition keys of the checks' documents. A job id can't have a colon, so no job is ever among them."""

BOGUS_ETAG: Final = Etag('"00000000-0000-0000-0000-000000000000"')
"""In the form of the one service that is strict about it; no provider ever gives it out."""


class ContractViolation(Exception):  # as in errors.py, the name is the condition
    """The store breaks a promise that claims are built on; it must not serve."""


def expect(holds: bool, broken: str) -> None:
    """Report `broken` unless it holds.

    Raises:
      ContractViolation: it does not hold.
    """
    if not holds:
        raise ContractViolation(broken)


class Probe:
    """A store under test, and a partition in it that nobody else uses."""

    def __init__(self, store: Datastore, run_id: str) -> None:
        self.store = store
        self.partition_key = f"{RESERVED_PREFIX}{run_id}"
        self._ids = count(1)

    def new_id(self) -> str:
        """An id not used in this run. In the order of their making, also as text."""
        return f"{next(self._ids):06}"

    def new(self, body: Body | None = None) -> Document:
        """A document just created."""
        result = self.store.create(self.new_id(), self.partition_key, {} if body is None else body)
        if isinstance(result, Ok):
            return result.document
        raise ContractViolation(f"create of an unused id answered {result}")

    def stored(self, document: Document) -> Document:
        """The document as it stands now."""
        result = self.store.read(document.id, document.partition_key)
        if isinstance(result, Ok):
            return result.document
        raise ContractViolation("a document that was written can't be read")

    def update(self, document: Document, patch: Mapping[str, object], **expected: object) -> UpdateResult:
        """Update with the expectation given in words: `etag=`, `rev=`, `known=`."""
        wanted = Expected(**expected)  # type: ignore[arg-type]  # the names and types are Expected's own
        return self.store.update_if_match(document.id, document.partition_key, wanted, patch)  # type: ignore[arg-type]

    def written(self, document: Document, patch: Mapping[str, object]) -> Document:
        """The document after an update that must succeed."""
        result = self.update(document, patch, etag=document.etag)
        if isinstance(result, Ok):
            return result.document
        raise ContractViolation(f"an update with the current etag answered {result}")

    def expect_refused(self, result: UpdateResult, stored: Document) -> None:
        """Report anything but a conflict that left `stored` as it was."""
        expect(not isinstance(result, Ok), "the store ignored the expected version and wrote")
        expect(not isinstance(result, NotFound), "the store answered NotFound for a document that is there")
        expect(self.stored(stored) == stored, "a refused update changed the document")
        if isinstance(result, Conflict) and result.current is not None:
            expect(result.current == stored, "the conflict showed another version than the stored one")
