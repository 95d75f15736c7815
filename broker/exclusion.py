"""Takes, confirms and gives back the slots of a claim, each by one conditional write (design §8, steps 5 to 8)."""

from collections import defaultdict
from collections.abc import Callable, Sequence
from collections.abc import Set as AbstractSet
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import msgspec

from broker import repository, shared_document
from broker.controls import parsed
from broker.documents import Job
from broker.entropy import Entropy
from broker.slot_work import SlotWork
from broker.slots import (
    ClaimKey,
    Holder,
    Mode,
    Room,
    Slot,
    Want,
    admits,
    all_must_go,
    confirmed,
    entries,
    in_the_way,
    removable,
    room_beside,
    slot_id,
    wants,
    with_entry,
    without,
    without_claims,
    without_unconfirmed,
)
from datastore import Datastore, DatastoreError

PROBES_MAX = 8
"""Holders of one full slot whose jobs a claim looks at: there may be a thousand."""


@dataclass(frozen=True, slots=True)
class Busy:
    """A slot is held by others; everything taken so far was given back."""

    key: str
    holders: tuple[Holder, ...]


@dataclass(frozen=True, slots=True)
class SeenSlots:
    """What was read of slots to explain several jobs."""

    by_key: dict[str, Slot] = field(default_factory=dict)
    less_dead: dict[tuple[str, Mode], Slot] = field(default_factory=dict)
    """Without entries that stand in the way of such a mode, and whose leases are over."""


@dataclass(frozen=True, slots=True)
class Slots:
    """The slots of one claim: a job at the epoch it is claimed at, under one request."""

    store: Datastore
    entropy: Entropy
    job_id: str
    epoch: int
    request_id: str
    factory_id: str
    wanted: tuple[Want, ...]
    work: SlotWork = field(default_factory=SlotWork)
    left: list[Room] = field(default_factory=list)
    """What the slots that were taken have admitted beside this claim."""

    @classmethod
    def of(
        cls,
        store: Datastore,
        entropy: Entropy,
        job: Job,
        *,
        epoch: int,
        request_id: str,
        factory_id: str = "",
        units: tuple[Want, ...] = (),
        work: SlotWork | None = None,
    ) -> "Slots":
        """What a claim of `job` has to take: its locks, then units of limits. `work`: what counts the cost of it.

        Every claim takes in this order. None ever waits for another while it holds something, so there is no deadlock.
        """
        wanted = (*wants(job.locks), *units)
        return cls(store, entropy, job.id, epoch, request_id, factory_id, wanted, work or SlotWork())

    def free(self, key: str, *, now_ms: int) -> bool:
        """Whether those who live leave room at `key` by now, as far as some of them show. Nothing is taken."""
        slot = read_slot(self.store, key)
        wanted = [want for want in self.wanted if want.key == key]
        return all(admits(self._less_dead(slot, want, now_ms)[0], want, self.job_id) for want in wanted)

    def busy(self, seen: SeenSlots, *, now_ms: int, at_most: int) -> list[Busy]:
        """The first slots in which those who live leave no room. Nothing is taken, and nothing read that was `seen`."""
        found: list[Busy] = []
        for want in self.wanted:
            rest = self._seen_less_dead(seen, want, now_ms)
            if rest.holders and not admits(rest, want, self.job_id):
                found.append(Busy(want.key, tuple(in_the_way(rest, want, self.job_id))))
            if len(found) == at_most:
                break
        return found

    def take(self, *, now_ms: int) -> Busy | None:
        """Take every slot, in order; on the first that is busy give all back.

        Raises:
          NotApplied, OutcomeUnknown: entries may be left; they are unconfirmed, and nobody's after a while.
        """
        for want in self.wanted:
            holders = self._take_one(want, now_ms=now_ms)
            if holders is not None:
                self.step_back()
                return Busy(want.key, holders)
        return None

    def confirm(self) -> bool:
        """Confirm every entry after the job was written. False: one was taken out, and the claim must be undone.

        No other copy of the claim was told of a grant then, or its lease is over: it would have confirmed them first.
        """
        modes: defaultdict[str, set[Mode]] = defaultdict(set)
        for want in self.wanted:
            modes[want.key].add(want.mode)
        return all(self._confirm_one(key, modes[key]) for key in sorted(modes))

    def give_back(self) -> None:
        """Take the entries out: the lease is over. Where that fails, whoever finds them in the way does it."""
        give_back_together(self.store, self.entropy, [self])

    def step_back(self) -> None:
        """Take them out of a claim that was not granted here; not what another copy of it has confirmed meanwhile."""
        for key in self.keys:
            with suppress(DatastoreError):
                self._change(key, lambda slot: without_unconfirmed(slot, self.claim))

    @property
    def claim(self) -> ClaimKey:
        """Whose entries they are."""
        return self.job_id, self.epoch, self.request_id, self.factory_id

    @property
    def keys(self) -> list[str]:
        """Of every slot, in order."""
        return sorted({want.key for want in self.wanted})

    def _confirm_one(self, key: str, modes: AbstractSet[Mode]) -> bool:
        stands = False

        def seen(slot: Slot) -> dict[str, Any] | None:
            nonlocal stands
            # All of them: a claim may be in one slot by several modes, and others take out what is in their way.
            stands = modes <= {holder.mode for holder in entries(slot, self.claim)}
            # A stale read may lack what is there: only a version that can be written on shows that it is gone.
            return confirmed(slot, self.claim) if stands else {}

        self._change(key, seen, create=True)
        return stands

    def _take_one(self, want: Want, *, now_ms: int) -> tuple[Holder, ...] | None:
        """Take one slot; where it has no room, the holders that stand in the way."""
        entry = Holder(
            job_id=self.job_id,
            epoch=self.epoch,
            request_id=self.request_id,
            mode=want.mode,
            taken_ms=now_ms,
            factory_id=self.factory_id,
        )
        full_with: tuple[Holder, ...] | None = None

        def admitted(slot: Slot) -> dict[str, Any] | None:
            nonlocal full_with
            rest, dead = self._less_dead(slot, want, now_ms)
            if not admits(rest, want, self.job_id):
                full_with = tuple(in_the_way(rest, want, self.job_id))
                return None
            full_with = None
            self.left.append(room_beside(rest, want))
            return with_entry(slot, entry, dead)

        self._change(want.key, admitted, create=True)
        return full_with

    def _seen_less_dead(self, seen: SeenSlots, want: Want, now_ms: int) -> Slot:
        slot = seen.by_key.get(want.key)
        if slot is None:
            slot = seen.by_key[want.key] = read_slot(self.store, want.key)
            self.work.add(slot)
        else:
            self.work.add_again(slot)
        if (known := seen.less_dead.get((want.key, want.mode))) is not None:
            return known
        rest, _ = self._less_dead(slot, want, now_ms)
        if all(holder.job_id != self.job_id for holder in slot.holders):  # its own were not looked at
            seen.less_dead[want.key, want.mode] = rest
        return rest

    def _less_dead(self, slot: Slot, want: Want, now_ms: int) -> tuple[Slot, Sequence[Holder]]:
        """The slot without those in the way whose leases are seen to be over, and these. Some of many are looked at."""
        blocking = in_the_way(slot, want, self.job_id)
        if not blocking:
            return slot, ()
        if all_must_go(want, blocking):
            dead, looks = _dead_until_some_live(self.store, blocking, now_ms)
        else:
            dead = dead_holders(self.store, self.entropy, blocking, now_ms=now_ms, probes_max=PROBES_MAX)
            looks = min(PROBES_MAX, len(blocking))
        self.work.add_reads(looks)
        return msgspec.structs.replace(slot, holders=tuple(without(slot.holders, dead))), dead

    def _change(self, key: str, change: Callable[[Slot], dict[str, Any] | None], *, create: bool = False) -> None:
        def counted(slot: Slot) -> dict[str, Any] | None:
            self.work.add(slot)
            return change(slot)

        change_slot(self.store, self.entropy, key, counted, create=create)


def give_back_together(store: Datastore, entropy: Entropy, leaving: Sequence[Slots]) -> None:
    """As `give_back` of each, with one write for each slot: that of a limit may have a thousand entries."""
    claims: defaultdict[str, set[ClaimKey]] = defaultdict(set)
    for slots in leaving:
        for key in slots.keys:
            claims[key].add(slots.claim)
    for key in sorted(claims):
        with suppress(DatastoreError):  # whoever finds them in the way does it
            change_slot(store, entropy, key, partial(without_claims, claims=claims[key]))


def read_slot(store: Datastore, key: str) -> Slot:
    """The slot of `key` as a read shows it; an empty one where there is none yet.

    Raises:
      Corrupt: what is stored there is no slot.
    """
    body = shared_document.read_body(store, slot_id(key))
    return Slot(key=key) if body is None else parsed(slot_id(key), body, Slot)


def change_slot(
    store: Datastore,
    entropy: Entropy,
    key: str,
    change: Callable[[Slot], dict[str, Any] | None],
    *,
    create: bool = False,
) -> None:
    """Apply `change` to the slot of `key`, judged anew on each version.

    Raises:
      NotApplied, OutcomeUnknown: as `shared_document.change`.
      Corrupt: what is stored there is no slot.
    """
    empty = {"kind": "slot", "key": key, "holders": []} if create else None
    id = slot_id(key)
    judge: shared_document.Judge = lambda body: change(parsed(id, body, Slot))  # noqa: E731  # a rule, bound
    shared_document.change(store, entropy, id, judge, empty=empty)


def dead_holders(
    store: Datastore,
    entropy: Entropy,
    holders: Sequence[Holder],
    *,
    now_ms: int,
    probes_max: int | None = None,
) -> list[Holder]:
    """Of these entries those that may be taken out. Each costs a read of its job, so only some of many are looked at.

    Which ones is left to chance, so that a dead one among many living is found sooner or later; the sweep finds all.
    """
    if probes_max is not None and len(holders) > probes_max:
        start = int(entropy.jitter() * len(holders))
        holders = [*holders[start:], *holders[:start]][:probes_max]
    return [holder for holder in holders if _is_dead(store, holder, now_ms)]


def _dead_until_some_live(store: Datastore, holders: Sequence[Holder], now_ms: int) -> tuple[list[Holder], int]:
    """Of these entries the first that may be taken out, and how many were looked at: all, or until `PROBES_MAX` that
    live were met. These are in the way, and are to be told of.
    """
    dead: list[Holder] = []
    for looks, holder in enumerate(holders, start=1):
        if _is_dead(store, holder, now_ms):
            dead.append(holder)
        elif looks - len(dead) == PROBES_MAX:
            return dead, looks
    return dead, len(holders)


def _is_dead(store: Datastore, holder: Holder, now_ms: int) -> bool:
    job = repository.read_job(store, holder.job_id)
    lease = None if job is None else job.lease
    leased = None if lease is None else (holder.job_id, lease.epoch, lease.request_id, lease.factory_id)
    return removable(holder, epoch=0 if job is None else job.epoch, leased=leased, now_ms=now_ms)
