"""Locks and quotas, one mechanism: a slot for each key, which a claim takes before it may win. Pure rules.

A lock on a path (`repo:web/src`) also leaves an intention on each ancestor, as databases do, so that
`repo:web` and `repo:web/src/app` meet at `repo:web` without either knowing the other.
"""

import hashlib
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache
from typing import Any, TypeAlias

import msgspec

from broker.documents import Frozen
from datastore.frozen import frozen_fields

CONFIRM_WITHIN_MS = 10_000
"""An entry that is not confirmed is left alone for this long: its claim may be about to be written (design §8)."""
SLOTS_MAX = 256
"""Slots that the locks of one job may need: a claim reads and writes each of them."""
HOLDERS_MAX = 1_000
"""Entries of one lock's slot: as many as a limit may have units. Each is read and written by whoever comes next."""
WANTS_KEPT_MAX = 64
"""Sets of locks whose slots are remembered, 60 KB each at most: jobs of one kind mostly have the same."""
SHARED_SUFFIX = "@shared"
EXCLUSIVE_SUFFIX = "@exclusive"


ClaimKey: TypeAlias = tuple[str, int, str, str]
"""A claim: its job, the epoch, its request and whose that is."""


class Mode(StrEnum):
    """How an entry uses a slot."""

    EXCLUSIVE = "exclusive"
    SHARED = "shared"
    INTENT_EXCLUSIVE = "intent_exclusive"
    INTENT_SHARED = "intent_shared"
    UNIT = "unit"
    """One of `capacity`: a quota."""


_COMPATIBLE = {
    frozenset({Mode.SHARED}),
    frozenset({Mode.SHARED, Mode.INTENT_SHARED}),
    frozenset({Mode.INTENT_SHARED}),
    frozenset({Mode.INTENT_EXCLUSIVE}),
    frozenset({Mode.INTENT_EXCLUSIVE, Mode.INTENT_SHARED}),
    frozenset({Mode.UNIT}),
}
"""Modes that may stand in one slot together; a slot of units is bounded by its capacity besides."""
SHARING = (Mode.SHARED, Mode.INTENT_EXCLUSIVE, Mode.INTENT_SHARED)
"""Modes of locks that stand in one slot with others of the same mode."""
_KEPT_OUT_BY = {mode: tuple(other for other in Mode if frozenset({mode, other}) not in _COMPATIBLE) for mode in Mode}


class Holder(Frozen, frozen=True, kw_only=True):
    """One entry of a slot."""

    job_id: str
    epoch: int
    request_id: str
    """The claim. Two claims race for one job at one epoch, and the loser must not give back the winner's entry."""
    mode: Mode
    taken_ms: int
    confirmed: bool = False
    factory_id: str = ""

    @property
    def claim(self) -> ClaimKey:
        """Whose entry it is. Two factories may use one request id, and neither's entry is the other's."""
        return self.job_id, self.epoch, self.request_id, self.factory_id


class Slot(Frozen, frozen=True, kw_only=True):
    """Who uses a key now. The entries of ended leases go lazily: who finds the slot full looks at their jobs."""

    key: str
    holders: tuple[Holder, ...] = ()


@dataclass(frozen=True, slots=True)
class Want:
    """What a claim needs of one slot."""

    key: str
    mode: Mode
    capacity: int = 1


@dataclass(frozen=True, slots=True)
class Room:
    """How many more of one mode a slot admits."""

    key: str
    mode: Mode
    count: int


def slot_id(key: str) -> str:
    """The document of a key. A digest: keys hold characters and lengths that ids can't."""
    return f"slot:{hashlib.sha256(key.encode()).hexdigest()[:40]}"


def wants(locks: Iterable[str]) -> tuple[Want, ...]:
    """The slots that a job's locks need, in the order of their keys, so that claims never wait for each other."""
    return _wants(tuple(locks))


@lru_cache(maxsize=WANTS_KEPT_MAX)
def _wants(locks: tuple[str, ...]) -> tuple[Want, ...]:
    needed: dict[tuple[str, Mode], Want] = {}
    for lock in locks:
        key, mode = _parsed(lock)
        intent = Mode.INTENT_SHARED if mode is Mode.SHARED else Mode.INTENT_EXCLUSIVE
        steps = key.split("/")
        for depth in range(1, len(steps)):
            ancestor = "/".join(steps[:depth])
            needed[ancestor, intent] = Want(ancestor, intent)
        needed[key, mode] = Want(key, mode)
    return tuple([needed[name] for name in sorted(needed)])


def within_slots(locks: tuple[str, ...]) -> tuple[str, ...]:
    """These locks.

    Raises:
      ValueError: together they need more than `SLOTS_MAX` slots.
    """
    # A lock needs as many as it has steps, so that most need no closer look.
    if len(locks) + sum(lock.count("/") for lock in locks) > SLOTS_MAX and (count := len(wants(locks))) > SLOTS_MAX:
        raise ValueError(
            f"these locks need {count} slots, one for each and for each folder above it; at most {SLOTS_MAX} are taken"
        )
    return locks


def in_the_way(slot: Slot, want: Want, job_id: str) -> list[Holder]:
    """The entries that keep `want` out. Never its own job's: the job's document decides between those."""
    others = [holder for holder in slot.holders if holder.job_id != job_id]
    if want.mode is Mode.UNIT:
        units = [holder for holder in others if holder.mode is Mode.UNIT]
        return units if len(units) >= want.capacity else []
    enemies = _KEPT_OUT_BY[want.mode]
    hostile = [holder for holder in others if holder.mode in enemies]
    return others if not hostile and len(others) >= HOLDERS_MAX else hostile


def all_must_go(want: Want, blocking: Sequence[Holder]) -> bool:
    """Whether there is room only once each of these in the way has gone; otherwise there are too many of them."""
    return any(holder.mode in _KEPT_OUT_BY[want.mode] for holder in blocking)


def admits(slot: Slot, want: Want, job_id: str) -> bool:
    """Whether there is room for `want`."""
    return not in_the_way(slot, want, job_id) and (want.mode is not Mode.UNIT or want.capacity > 0)


def room_beside(slot: Slot, want: Want) -> Room:
    """What a slot that admits `want` leaves then for others of its mode."""
    taken = len(slot.holders)
    if want.mode is Mode.UNIT:
        taken, most = sum(holder.mode is Mode.UNIT for holder in slot.holders), want.capacity
    else:
        most = HOLDERS_MAX if want.mode in SHARING else 0
    return Room(want.key, want.mode, max(most - taken - 1, 0))


@lru_cache(maxsize=WANTS_KEPT_MAX)
def modes_of(locks: tuple[str, ...]) -> Mapping[str, Mode]:
    """As what a job waits at each slot of its locks. Who needs one in several modes shares it with none of its kind."""
    modes: dict[str, Mode] = {}
    for want in _wants(locks):
        modes[want.key] = Mode.EXCLUSIVE if want.key in modes else want.mode
    return modes


def removable(holder: Holder, *, epoch: int, leased: ClaimKey | None, now_ms: int) -> bool:
    """Whether another claimer may take an entry out: its claim has no lease, and never will have.

    `epoch`: of its job, as read; `leased`: the claim that has it. Of those for one epoch one alone ever has. The job of
    a confirmed entry has reached that entry's epoch, so a read that shows an earlier one is stale, and shows nothing.
    An unconfirmed entry may belong to a claim that is just being written, and is left alone for a while; one from the
    future was made before the clock was set back.
    """
    settled = epoch >= holder.epoch if holder.confirmed else abs(now_ms - holder.taken_ms) > CONFIRM_WITHIN_MS
    return settled and leased != holder.claim


def unit_want(key: str, capacity: int) -> Want:
    """One of `capacity` units."""
    return Want(key, Mode.UNIT, capacity)


def with_entry(slot: Slot, entry: Holder, dead: Sequence[Holder] = ()) -> dict[str, Any] | None:
    """The change that lets `entry` in and `dead` ones out; None where it is in already."""
    if any(holder.mode is entry.mode for holder in entries(slot, entry.claim)):
        return None
    return _holders([*(without(slot.holders, dead)), entry])


def with_entries(slot: Slot, entries: Sequence[Holder]) -> dict[str, Any] | None:
    """The change that lets all of these in; None where they are in already."""
    known = {(holder.claim, holder.mode) for holder in slot.holders}
    new = [entry for entry in entries if (entry.claim, entry.mode) not in known]
    return _holders([*slot.holders, *new]) if new else None


def without_claims(slot: Slot, claims: Container[ClaimKey]) -> dict[str, Any] | None:
    """The change that gives the entries of these claims back; None where they have none."""
    return _only(slot, lambda holder: holder.claim not in claims)


def without_unconfirmed(slot: Slot, claim: ClaimKey) -> dict[str, Any] | None:
    """The change for a claim that came to nothing here: what is confirmed, another copy of it was granted."""
    return _only(slot, lambda holder: holder.claim != claim or holder.confirmed)


def without_holders(slot: Slot, gone: Sequence[Holder]) -> dict[str, Any] | None:
    """The change that takes exactly these entries out; None where none of them is there."""
    return _only(slot, lambda holder: holder not in gone)


def without(holders: Sequence[Holder], gone: Sequence[Holder]) -> Sequence[Holder]:
    """These entries but for those that are gone."""
    return [holder for holder in holders if holder not in gone] if gone else holders


def entries(slot: Slot, claim: ClaimKey) -> list[Holder]:
    """A claim's own entries."""
    job_id = claim[0]  # looked at first: of a thousand entries most are of other jobs
    return [holder for holder in slot.holders if holder.job_id == job_id and holder.claim == claim]


def confirmed(slot: Slot, claim: ClaimKey) -> dict[str, Any] | None:
    """The change that confirms a claim's entries; None where there is nothing left to confirm.

    Only now, with the job written, are the entries of its earlier epochs over: until then its last holder may still
    renew, however late, and the claim comes to nothing.
    """
    job_id, epoch, *_ = claim
    over = [holder for holder in slot.holders if holder.job_id == job_id and holder.epoch < epoch]
    mine = entries(slot, claim)
    if not mine or (not over and all(holder.confirmed for holder in mine)):
        return None
    return _holders(
        msgspec.structs.replace(holder, confirmed=True) if holder in mine else holder
        for holder in without(slot.holders, over)
    )


def _parsed(lock: str) -> tuple[str, Mode]:
    if lock.endswith(SHARED_SUFFIX):
        return _path(lock.removesuffix(SHARED_SUFFIX)), Mode.SHARED
    return _path(lock.removesuffix(EXCLUSIVE_SUFFIX)), Mode.EXCLUSIVE


def _path(key: str) -> str:
    """`repo:web/src/`, `repo:web/src/…` and `repo:web/src/*` all name the folder and what lies under it; `/` the root,
    which is the empty key: the first ancestor of `/etc`.
    """
    return key.removesuffix("…").removesuffix("*").rstrip("/")


def _only(slot: Slot, stays: Callable[[Holder], bool]) -> dict[str, Any] | None:
    kept = list(filter(stays, slot.holders))
    return None if len(kept) == len(slot.holders) else _holders(kept)


def _holders(holders: Iterable[Holder]) -> dict[str, Any]:
    # A limit may have a thousand of them: what is flat need not be looked at field by field as it is stored.
    return {"holders": list(map(frozen_fields, msgspec.to_builtins(list(holders))))}
