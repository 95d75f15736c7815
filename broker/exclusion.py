"""Takes, confirms and gives back the slots of a claim, each by one conditional write (design §8, steps 5 to 8)."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import msgspec

from broker import repository
from broker.documents import Job
from broker.entropy import Entropy
from broker.slots import (
    Holder,
    Slot,
    Want,
    confirmed,
    entries,
    in_the_way,
    removable,
    slot_id,
    wants,
    with_entry,
    without_claim,
)
from datastore import Conflict, Datastore, DatastoreError, Document, Expected, NotFound, Ok, Unavailable
from datastore.confirm import confirmed_create, confirmed_update

SLOT_WRITES_MAX = 16
"""Tries to change a slot that others change too. A lost race costs one read and one write."""


@dataclass(frozen=True, slots=True)
class Busy:
    """A slot is held by others; everything taken so far was given back."""

    key: str
    holders: tuple[Holder, ...]


@dataclass(frozen=True, slots=True)
class Slots:
    """The slots of one claim: a job at the epoch it is claimed at, under one request."""

    store: Datastore
    entropy: Entropy
    job_id: str
    epoch: int
    request_id: str
    wanted: tuple[Want, ...]

    @classmethod
    def of(cls, store: Datastore, entropy: Entropy, job: Job, *, epoch: int, request_id: str) -> "Slots | None":
        """What a claim of `job` has to take; None where it needs nothing, at no cost."""
        if not job.locks:
            return None
        return cls(store, entropy, job.id, epoch, request_id, tuple(wants(job.locks)))

    def free(self, key: str, *, now_ms: int) -> bool:
        """Whether nobody who lives stands in the way at `key` any more. Nothing is taken."""
        document = self._read(key, create=False)
        if document is None:
            return True
        slot = msgspec.convert(document.body, Slot)
        blocking = [holder for want in self.wanted if want.key == key for holder in in_the_way(slot, want, self.job_id)]
        return all(self._is_dead(holder, now_ms) for holder in blocking)

    def take(self, *, now_ms: int) -> Busy | None:
        """Take every slot, in the order of keys; on the first that is busy give all back.

        Raises:
          NotApplied, OutcomeUnknown: entries may be left; they are unconfirmed, and nobody's after a while.
        """
        for want in self.wanted:
            holders = self._take_one(want, now_ms=now_ms)
            if holders:
                self.give_back()
                return Busy(want.key, holders)
        return None

    def confirm(self) -> bool:
        """Confirm every entry after the job was written. False: one was taken out, and the claim must be undone."""
        return all(self._confirm_one(key) for key in self._keys)

    def give_back(self) -> None:
        """Take the entries out. Where that fails they are removed by whoever finds them in the way."""
        for key in self._keys:
            try:
                self._change(key, lambda slot: without_claim(slot, self._claim))
            except DatastoreError:
                continue

    @property
    def _claim(self) -> tuple[str, int, str]:
        return self.job_id, self.epoch, self.request_id

    @property
    def _keys(self) -> list[str]:
        return sorted({want.key for want in self.wanted})

    def _confirm_one(self, key: str) -> bool:
        stands = False

        def seen(slot: Slot) -> dict[str, Any] | None:
            nonlocal stands
            stands = bool(entries(slot, self._claim))
            return confirmed(slot, self._claim)

        self._change(key, seen)
        return stands

    def _take_one(self, want: Want, *, now_ms: int) -> tuple[Holder, ...]:
        """Take one slot; the holders that stand in the way, if there are any that live."""
        entry = Holder(
            job_id=self.job_id, epoch=self.epoch, request_id=self.request_id, mode=want.mode, taken_ms=now_ms
        )
        in_the_way_now: tuple[Holder, ...] = ()

        def admitted(slot: Slot) -> dict[str, Any] | None:
            nonlocal in_the_way_now
            blocking = in_the_way(slot, want, self.job_id)
            dead = [holder for holder in blocking if self._is_dead(holder, now_ms)]
            room = in_the_way(msgspec.structs.replace(slot, holders=_less(slot, dead)), want, self.job_id)
            in_the_way_now = tuple(room)
            return None if room else with_entry(slot, entry, dead)

        self._change(want.key, admitted, create=True)
        return in_the_way_now

    def _is_dead(self, holder: Holder, now_ms: int) -> bool:
        job = repository.read_job(self.store, holder.job_id)
        leased_epoch = job.epoch if job is not None and job.lease is not None else None
        return removable(holder, leased_epoch=leased_epoch, now_ms=now_ms)

    def _change(self, key: str, change: Callable[[Slot], dict[str, Any] | None], *, create: bool = False) -> None:
        """Apply `change` to the slot of `key`, judged anew on each version, until it lands or has nothing to change."""
        document = self._read(key, create=create)
        for _ in range(SLOT_WRITES_MAX):
            if document is None or (patch := change(msgspec.convert(document.body, Slot))) is None:
                return
            expected = Expected(etag=document.etag, known=document)
            write_id = self.entropy.write_id()
            match confirmed_update(self.store, document.id, document.partition_key, expected, patch, write_id=write_id):
                case Ok(_) | NotFound():
                    return
                case Conflict(current):
                    document = current or self._read(key, create=create)
        raise Unavailable(f"slot {key!r}: {SLOT_WRITES_MAX} swaps in a row lost")

    def _read(self, key: str, *, create: bool) -> Document | None:
        name = slot_id(key)
        found = self.store.read(name, name)
        if isinstance(found, Ok):
            return found.document
        if not create:
            return None
        body: dict[str, Any] = {"kind": "slot", "key": key, "capacity": 1, "holders": []}
        match confirmed_create(self.store, name, name, body, write_id=self.entropy.write_id()):
            case Ok(document):
                return document
            case Conflict(current):
                return current


def _less(slot: Slot, dead: list[Holder]) -> tuple[Holder, ...]:
    return tuple(holder for holder in slot.holders if holder not in dead)
