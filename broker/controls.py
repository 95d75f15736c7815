"""What operators and factories have said that every claim must heed: controls of queues, records of factories.

Each is a document of its own partition, changed by compare-and-set. A batch reads each at most once.
"""

from typing import TypeVar

import msgspec

from broker.documents import Frozen
from datastore import Corrupt, Datastore, Ok

Kind = TypeVar("Kind", bound=Frozen)


class Pause(Frozen, frozen=True, kw_only=True):
    """A queue hands out no work until it is resumed."""

    reason: str | None = None
    since_ms: int


class Drain(Frozen, frozen=True, kw_only=True):
    """A factory gets no new work; what it holds it renews and finishes."""

    reason: str | None = None
    since_ms: int
    until_ms: int | None = None
    """None: until it is resumed."""


class QueueControl(Frozen, frozen=True, kw_only=True):
    """What holds for one queue."""

    pause: Pause | None = None


class FactoryRecord(Frozen, frozen=True, kw_only=True):
    """What a factory registered, and what an operator wants of it."""

    incarnation: str | None = None
    """The start that registered last. None: never registered, which is fine."""
    drain: Drain | None = None

    def draining(self, now_ms: int) -> bool:
        """Whether it gets no new work now."""
        return self.drain is not None and (self.drain.until_ms is None or now_ms < self.drain.until_ms)


UNCONTROLLED = QueueControl()
"""A queue of which nobody has said anything."""
UNREGISTERED = FactoryRecord()
"""A factory that never registered."""


def queue_id(name: str) -> str:
    """The document that controls a queue."""
    return f"queue:{name}"


def factory_doc_id(factory_id: str) -> str:
    """The document of a factory."""
    return f"factory:{factory_id}"


class Controls:
    """Reads controls through, each once: made anew for every batch, so that a change holds from the next one on."""

    def __init__(self, store: Datastore) -> None:
        self._store = store
        self._read: dict[str, Frozen] = {}

    def queue(self, name: str) -> QueueControl:
        """What holds for a queue; nothing, where nobody has said anything."""
        return self._get(queue_id(name), QueueControl)

    def factory(self, factory_id: str) -> FactoryRecord:
        """What is known of a factory; nothing, where it never registered."""
        return self._get(factory_doc_id(factory_id), FactoryRecord)

    def _get(self, name: str, kind: type[Kind]) -> Kind:
        known = self._read.get(name)
        if isinstance(known, kind):
            return known
        found = self._store.read(name, name)
        try:
            control = msgspec.convert(found.document.body, kind) if isinstance(found, Ok) else kind()
        except msgspec.ValidationError as error:
            raise Corrupt(f"{name!r} does not parse: {error}") from error
        self._read[name] = control
        return control
