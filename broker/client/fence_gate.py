"""The downstream half of fencing: a gate that lets the highest epoch pass, and never a lower one after it."""

import hashlib

from broker.client.errors import ClientError
from datastore import Datastore, Document, Expected, NotFound, Ok, OutcomeUnknown, connect

ADMIT_ATTEMPTS_MAX = 16
"""Writers that reach the gate at the same moment; one of them gets through with each round."""


class StaleEpoch(ClientError):
    """A later holder has been here. The writer's lease is over, whatever it believes: refuse what it brings."""

    def __init__(self, resource: str, epoch: int, highest: int) -> None:
        super().__init__(f"{resource}: epoch {epoch} is stale, {highest} was admitted; stop, the lease is lost")
        self.resource = resource
        self.epoch = epoch
        self.highest = highest


class GateBusy(ClientError):
    """Too many writers at once. Nothing was admitted; try again."""


class FenceGate:
    """Remembers the highest epoch of each resource, in any store; several processes may share one.

    A resource is what one holder at a time may write to; its epochs must all be of one job. The gate protects what
    is written *inside* the system that asks it: ask and write under one lock or in one transaction, as
    `examples/fenced_writer.py` does. A writer that asks first and writes later may still be overtaken in between.
    """

    def __init__(self, store: Datastore) -> None:
        self._store = store

    @classmethod
    def open(cls, url: str) -> "FenceGate":
        """A gate of its own store: `memory://` for one process, `sqlite:///path` for all processes of a machine."""
        return cls(connect(url))

    def admit(self, resource: str, epoch: int) -> None:
        """Return if no higher epoch was ever admitted to `resource`, and remember this one.

        Raises:
          StaleEpoch: a higher epoch was admitted before.
          GateBusy: not admitted now.
          ValueError: `epoch` is below 1.
          DatastoreError: not admitted as far as is known; asking again is harmless.
        """
        if epoch < 1:
            raise ValueError(f"an epoch is at least 1, not {epoch}")
        unknown: OutcomeUnknown | None = None
        for _ in range(ADMIT_ATTEMPTS_MAX):
            seen = self._read(resource)
            if seen is not None and (highest := _epoch(seen)) >= epoch:
                if highest > epoch:
                    raise StaleEpoch(resource, epoch, highest)
                return
            try:
                if self._raise_to(resource, epoch, seen):
                    return
            except OutcomeUnknown as error:  # look again
                unknown = error
        if unknown is not None:
            raise unknown
        raise GateBusy(f"{resource}: {ADMIT_ATTEMPTS_MAX} swaps in a row lost; try again")

    def highest(self, resource: str) -> int | None:
        """The highest epoch admitted so far; None before the first."""
        seen = self._read(resource)
        return None if seen is None else _epoch(seen)

    def close(self) -> None:
        """Give back the store's connections."""
        self._store.close()

    def _read(self, resource: str) -> Document | None:
        match self._store.read(_key(resource), _key(resource)):
            case Ok(document):
                return document
            case NotFound():
                return None

    def _raise_to(self, resource: str, epoch: int, seen: Document | None) -> bool:
        """Write `epoch` over the version seen. False where another came first.

        Raises:
          OutcomeUnknown: it may have been written.
        """
        key = _key(resource)
        if seen is None:
            return isinstance(self._store.create(key, key, {"resource": resource, "epoch": epoch}), Ok)
        expected = Expected(etag=seen.etag, known=seen)
        return isinstance(self._store.update_if_match(key, key, expected, {"epoch": epoch}), Ok)


def _key(resource: str) -> str:
    # A digest: a resource may have any name, such as a path, and an id of a document may not.
    return f"fence-{hashlib.sha256(resource.encode()).hexdigest()}"


def _epoch(document: Document) -> int:
    epoch = document.body["epoch"]
    assert isinstance(epoch, int), "a gate's documents are written by gates"
    return epoch
