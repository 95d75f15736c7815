"""A sound store behind a connection that lies: answers are lost, doubled or late, by a script."""

from collections.abc import Callable, Iterable, Iterator
from enum import Enum
from itertools import chain, repeat

from datastore.errors import OutcomeUnknown, Unavailable
from datastore.interface import (
    Body,
    Conflict,
    CreateResult,
    Datastore,
    Document,
    Expected,
    NotFound,
    Ok,
    Patch,
    ReadResult,
    UpdateResult,
)
from tests.twins.forwarding import Forwarding


class WriteFault(Enum):
    """What befalls one write."""

    NONE = "passed on"
    LOST_ANSWER = "written, then OutcomeUnknown"
    LOST_REQUEST = "not written, but OutcomeUnknown"
    OWN_CONFLICT = "written, then sent again: Conflict on its own write, nothing shown"
    OWN_CONFLICT_SHOWN = "the same, with the document it met"
    REFUSED = "Unavailable before the write"


class ReadFault(Enum):
    """What befalls one read."""

    NONE = "passed on"
    STALE = "the version before the first write through this store, or NotFound"
    FAILED = "Unavailable"


_WRITTEN = frozenset({WriteFault.NONE, WriteFault.LOST_ANSWER, WriteFault.OWN_CONFLICT, WriteFault.OWN_CONFLICT_SHOWN})


class Lossy(Forwarding):
    """`Datastore` that follows a script; after its end everything is passed on.

    `meanwhile` runs after a faulty write, before its answer: the place to write over it.
    """

    def __init__(
        self,
        inner: Datastore,
        *,
        writes: Iterable[WriteFault] = (),
        reads: Iterable[ReadFault] = (),
        meanwhile: Callable[[], None] = lambda: None,
    ) -> None:
        super().__init__(inner)
        self.writes_sent = 0
        self._writes: Iterator[WriteFault] = chain(writes, repeat(WriteFault.NONE))
        self._reads: Iterator[ReadFault] = chain(reads, repeat(ReadFault.NONE))
        self._meanwhile = meanwhile
        self._before: dict[tuple[str, str], ReadResult] = {}

    def read(self, id: str, partition_key: str) -> ReadResult:
        fault = next(self._reads)
        if fault is ReadFault.FAILED:
            raise Unavailable("scripted: the read failed")
        if fault is ReadFault.STALE:
            return self._before.get((partition_key, id), NotFound())
        return self.inner.read(id, partition_key)

    def create(self, id: str, partition_key: str, body: Body) -> CreateResult:
        result = self._write(id, partition_key, lambda: self.inner.create(id, partition_key, body))
        assert not isinstance(result, NotFound)
        return result

    def update_if_match(self, id: str, partition_key: str, expected: Expected, patch: Patch) -> UpdateResult:
        return self._write(id, partition_key, lambda: self.inner.update_if_match(id, partition_key, expected, patch))

    def _write(self, id: str, partition_key: str, write: Callable[[], UpdateResult]) -> UpdateResult:
        self.writes_sent += 1
        fault = next(self._writes)
        if fault is WriteFault.REFUSED:
            raise Unavailable("scripted: refused before the write")
        self._before.setdefault((partition_key, id), self.inner.read(id, partition_key))
        result = write() if fault in _WRITTEN else None
        if fault is WriteFault.NONE and result is not None:
            return result
        self._meanwhile()
        if fault is WriteFault.OWN_CONFLICT:
            return Conflict(None)
        if fault is WriteFault.OWN_CONFLICT_SHOWN:
            return Conflict(self._stored(id, partition_key))
        raise OutcomeUnknown("scripted: the answer was lost")

    def _stored(self, id: str, partition_key: str) -> Document | None:
        found = self.inner.read(id, partition_key)
        return found.document if isinstance(found, Ok) else None
