"""What operators and factories have said that every claim must heed: pauses and limits, records of factories.

Pauses and limits are one document of the fleet, a factory's record is its own; each is changed by compare-and-set,
and a batch reads each at most once.
"""

from collections.abc import Iterable, Iterator, Mapping
from threading import Lock
from typing import Any, TypeVar

import msgspec

from broker import shared_document
from broker.asked import Asked
from broker.documents import Frozen
from broker.entropy import Entropy
from broker.limits import Limit, Limits
from datastore import Corrupt, Datastore, Ok
from datastore.interface import DocumentName
from datastore.json_body import decoded
from datastore.value import Value

Kind = TypeVar("Kind", bound=Frozen)

FLEET_ID = "fleet:controls"
"""The document of pauses and limits."""


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
    incarnation: str | None = None
    """Only this start of the factory drains, as one that was told to stop does. None: every start."""


class QueueControl(Frozen, frozen=True, kw_only=True):
    """What holds for one queue."""

    pause: Pause | None = None


class FleetControl(Frozen, frozen=True, kw_only=True):
    """What an operator has said of queues, keys and factories."""

    pauses: dict[str, Pause] = msgspec.field(default_factory=dict)
    """By queue."""
    limits: dict[str, Limit] = msgspec.field(default_factory=dict)
    """By name: `queue:builds`, `key:gpu`, `factory:mac-1`."""
    recent_requests: tuple[Asked, ...] = ()
    """What these were changed by."""


REPLACED_MAX = 32
"""Earlier starts of a factory that are known by name. Leases of older ones are known by their age."""


class FactoryRecord(Frozen, frozen=True, kw_only=True):
    """What a factory registered, and what an operator wants of it."""

    incarnation: str | None = None
    """The start that registered last. None: never registered, which is fine, or removed."""
    since_ms: int | None = None
    """When it asked to be registered, or was removed: what was granted to nameless starts until then has ended."""
    replaced: tuple[str, ...] = ()
    """Starts that are over, the latest last: their leases have ended, and they get no work any more."""
    capacity: int | None = None
    """Jobs it runs at once; told, not enforced."""
    version: str | None = None
    offers: tuple[str, ...] = ()
    """What its claims offer that name nothing themselves."""
    drain: Drain | None = None
    recent_requests: tuple[Asked, ...] = ()
    """What it was changed by."""

    def draining(self, incarnation: str, now_ms: int) -> Drain | None:
        """The drain that stands for this start of it, if there is one."""
        drain = self.drain
        if drain is None or (drain.until_ms is not None and now_ms >= drain.until_ms):
            return None
        return drain if drain.incarnation in (None, incarnation) else None

    def has_replaced(self, incarnation: str) -> bool:
        """Whether that start is known to be over."""
        return incarnation in self.replaced

    def outlived(self, incarnation: str, granted_ms: int) -> bool:
        """Whether a lease that was granted to that start, at that time, is of a start that is over."""
        if self.since_ms is None or incarnation == self.incarnation:
            return False
        return self.has_replaced(incarnation) or granted_ms <= self.since_ms


UNCONTROLLED = QueueControl()
"""A queue of which nobody has said anything."""
UNREGISTERED = FactoryRecord()
"""A factory that never registered."""


class Surroundings(Value, frozen=True):
    """What operators and factories have said that one claim must heed."""

    queue: QueueControl = UNCONTROLLED
    factory: FactoryRecord = UNREGISTERED
    units: tuple[str, ...] = ()
    """Limits of which the lease will hold a unit."""


FACTORY = "factory:"


def factory_doc_id(factory_id: str) -> str:
    """The document of a factory."""
    return f"{FACTORY}{factory_id}"


def read_for(factory_ids: Iterable[str]) -> Iterator[DocumentName]:
    """The documents that hold what claims and renewals of these factories must heed."""
    for id in (FLEET_ID, *map(factory_doc_id, factory_ids)):
        yield id, id


class Controls:
    """Reads controls through, each once: made anew for every batch, so that a change holds from the next one on.

    Claims of a batch may ask from several threads; `forget_factories` is for a request that runs alone.
    """

    def __init__(self, store: Datastore) -> None:
        self._store = store
        self._fleet: FleetControl | None = None
        self._factories: dict[str, FactoryRecord] = {}
        self._reading: dict[str, Lock] = {}
        self._around: dict[tuple[str, str], Surroundings] = {}
        self._full: dict[str, Mapping[str, Any]] = {}

    def queue(self, name: str) -> QueueControl:
        """What holds for a queue; nothing, where nobody has said anything."""
        pause = self.fleet().pauses.get(name)
        return UNCONTROLLED if pause is None else QueueControl(pause=pause)

    def limits(self) -> Limits:
        """Every limit there is."""
        return self.fleet().limits

    def factory(self, factory_id: str) -> FactoryRecord:
        """What is known of a factory; nothing, where it never registered."""
        known = self._factories.get(factory_id)
        if known is None:
            id = factory_doc_id(factory_id)
            with self._one_reads(id):
                known = self._factories.get(factory_id) or self._stored(id, FactoryRecord)
                self._factories[factory_id] = known
        return known

    def around(self, queue: str, factory_id: str) -> Surroundings:
        """What holds for this factory's claims in this queue, but for limits."""
        known = self._around.get((queue, factory_id))
        if known is None:
            known = Surroundings(self.queue(queue), self.factory(factory_id))
            self._around[queue, factory_id] = known
        return known

    def fleet(self) -> FleetControl:
        """Pauses and limits."""
        if self._fleet is None:
            with self._one_reads(FLEET_ID):
                self._fleet = self._fleet or self._stored(FLEET_ID, FleetControl)
        return self._fleet

    def note_full(self, limit: str, detail: Mapping[str, Any]) -> None:
        """Remember that a limit admits nobody, so that the rest of the batch need not look again."""
        self._full[limit] = detail

    def known_full(self, limits: Iterable[str]) -> Mapping[str, Any] | None:
        """What was noted of the first of these limits that admits nobody."""
        return next((known for limit in limits if (known := self._full.get(limit))), None) if self._full else None

    def note_freed(self, limits: Iterable[str]) -> None:
        """Forget that: a unit was given back."""
        for limit in limits:
            self._full.pop(limit, None)

    def forget(self) -> None:
        """What was read is read again: it was of a group of writes that came to nothing."""
        self._fleet = None
        self._full.clear()
        self.forget_factories()

    def forget_factories(self) -> None:
        """One was changed in this batch: who asks next reads it again."""
        self._factories.clear()
        self._around.clear()

    def _one_reads(self, name: str) -> Lock:
        """Where claims run side by side, one of them reads what all are waiting for."""
        return self._reading.setdefault(name, Lock())

    def _stored(self, name: str, kind: type[Kind]) -> Kind:
        found = self._store.read(name, name)
        return parsed(name, found.document.body, kind) if isinstance(found, Ok) else kind()


def standing_factory(store: Datastore, entropy: Entropy, factory_id: str) -> FactoryRecord:
    """The record of a factory as it is now: it was written on. A read may show it as it was."""
    id, record = factory_doc_id(factory_id), UNREGISTERED

    def seen(body: Mapping[str, Any]) -> dict[str, Any]:
        nonlocal record
        record = parsed(id, body, FactoryRecord)
        return {}

    shared_document.change(store, entropy, id, seen)
    return record


def parsed(name: str, body: Mapping[str, Any], kind: type[Kind]) -> Kind:
    """What the document `name` says.

    Raises:
      Corrupt: it is not of that kind.
    """
    try:
        return decoded(body, kind)
    except msgspec.DecodeError as error:
        raise Corrupt(f"{name!r} does not parse: {error}") from error
