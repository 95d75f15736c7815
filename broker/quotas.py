"""Limits against the datastore: whether one admits a claim now, and the starts that a rate counts."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from msgspec import structs

from broker import rates, repository, shared_document
from broker.answers import Reason
from broker.controls import parsed
from broker.documents import Frozen, Job
from broker.entropy import Entropy
from broker.exclusion import PROBES_MAX, change_slot, dead_holders, read_slot
from broker.limits import Limit, Limits, Rate, limit_key
from broker.obstacles import Obstacle
from broker.slots import Holder, Mode, Slot, in_the_way, slot_id, unit_want, with_entries, without_holders
from datastore import Datastore, DatastoreError

HOLDERS_SHOWN_MAX = 16
"""Of those that use a limit, as many as an answer names."""


def shown(holder: Holder) -> dict[str, Any]:
    """Who is in the way, as answers say it."""
    return {
        "job_id": holder.job_id,
        "epoch": holder.epoch,
        "mode": holder.mode.value,
        "factory_id": holder.factory_id or None,
    }


def full(name: str, limit: Limit, holders: Sequence[Holder]) -> Obstacle:
    """A limit whose units are all in use, and by whom."""
    detail = {"limit": name, "capacity": limit.capacity, "used": len(holders)}
    return Obstacle(Reason.QUOTA, {**detail, "holders": [shown(holder) for holder in holders[:HOLDERS_SHOWN_MAX]]})


def too_often(name: str, rate: Rate, until_ms: int) -> Obstacle:
    """A rate that admits nobody until then."""
    return Obstacle(Reason.QUOTA, {"limit": name, "rate": rate.plain(), "until_ms": until_ms})


def standing(
    store: Datastore, entropy: Entropy, name: str, limit: Limit, *, now_ms: int, job_id: str = ""
) -> Obstacle | None:
    """What a claim, of this job if it is named, would meet at a limit now. Nothing is taken."""
    if limit.capacity is not None:
        holders = holders_of(store, name)
        want = unit_want(limit_key(name), limit.capacity)
        blocking = in_the_way(Slot(key=want.key, holders=holders), want, job_id)
        dead = dead_holders(store, entropy, blocking, now_ms=now_ms, probes_max=PROBES_MAX)
        if len(blocking) - len(dead) >= limit.capacity:
            return full(name, limit, blocking)
    if limit.rate is not None:
        id = rate_id(name)
        counted = _counted(id, shared_document.read_body(store, id)).under(limit.rate_set_ms)
        until_ms = rates.free_ms(counted.moments, limit.rate, now_ms)
        if until_ms > now_ms:
            return too_often(name, limit.rate, until_ms)
    return None


def holders_of(store: Datastore, name: str) -> tuple[Holder, ...]:
    """Who has a unit of a limit, as far as the slot knows: the entries of ended leases go lazily."""
    return read_slot(store, limit_key(name)).holders


@dataclass(frozen=True, slots=True)
class Starts:
    """The grant of one claim, counted by every rate that applies."""

    store: Datastore
    entropy: Entropy
    limits: tuple[tuple[str, Rate, int], ...]
    """By name, each with when it was set."""

    @classmethod
    def of(cls, store: Datastore, entropy: Entropy, limits: Limits, names: Sequence[str]) -> "Starts":
        """The rates among the limits that apply."""
        found = ((name, limits[name].rate, limits[name].rate_set_ms) for name in names)
        return cls(store, entropy, tuple((name, rate, set_ms) for name, rate, set_ms in found if rate is not None))

    def take(self, *, now_ms: int) -> Obstacle | None:
        """Count a grant at `now_ms` everywhere, or nowhere and say which rate it would break."""
        for position, (name, rate, set_ms) in enumerate(self.limits):
            refused_until = self._count(name, rate, set_ms, now_ms)
            if refused_until is not None:
                self._give_back(self.limits[:position], now_ms)
                return too_often(name, rate, refused_until)
        return None

    def give_back(self, *, now_ms: int) -> None:
        """The grant did not come about. Once only, and never where it may have: then it stays counted."""
        self._give_back(self.limits, now_ms)

    def _count(self, name: str, rate: Rate, set_ms: int, now_ms: int) -> int | None:
        until_ms: int | None = None
        id, empty = rate_id(name), {"kind": "rate", "limit": name, "moments": []}

        def judge(body: Mapping[str, Any]) -> dict[str, Any] | None:
            nonlocal until_ms
            counted = _counted(id, body).under(set_ms)
            grown = rates.admitted(counted.moments, rate, now_ms)
            until_ms = rates.free_ms(counted.moments, rate, now_ms) if grown is None else None
            return None if grown is None else {"moments": grown, "set_ms": counted.set_ms}

        shared_document.change(self.store, self.entropy, id, judge, empty=empty)
        return until_ms

    def _give_back(self, counted: Sequence[tuple[str, Rate, int]], now_ms: int) -> None:
        for name, _, _ in counted:
            id = rate_id(name)
            try:
                # Not judged again: where it had its effect, the same moment is another's by now.
                shared_document.change(self.store, self.entropy, id, partial(_less, id, now_ms), writes_max=1)
            except DatastoreError:
                continue  # counted though it did not come about: that errs on the side of fewer grants


def adopt(store: Datastore, entropy: Entropy, uncounted: Sequence[tuple[Job, Sequence[str]]], *, now_ms: int) -> None:
    """Count leases that were granted before some limits were set, and note in each that it holds units of those.

    The slot of a limit is written once, however many leases there are: it may hold a thousand entries.
    """
    entries: defaultdict[str, list[Holder]] = defaultdict(list)
    for job, names in uncounted:
        for name in names:
            entries[name].append(_unit_of(job, now_ms))
    for name, new in entries.items():
        change_slot(store, entropy, limit_key(name), partial(with_entries, entries=new), create=True)
    for job, names in uncounted:
        assert job.lease is not None, "only a leased job is counted"
        changed = structs.replace(job.lease, limits=tuple(sorted({*job.lease.limits, *names})))
        # Where the lease has ended or moved on meanwhile the entry is another's to remove, or a later sweep comes back.
        repository.rev_update_lease(store, job, {"lease": changed}, write_id=entropy.write_id())


def _unit_of(job: Job, now_ms: int) -> Holder:
    lease = job.lease
    assert lease is not None, "only a leased job is counted"
    return Holder(
        job_id=job.id,
        epoch=lease.epoch,
        request_id=lease.request_id,
        mode=Mode.UNIT,
        taken_ms=now_ms,
        confirmed=True,
        factory_id=lease.factory_id,
    )


def drop_dead(store: Datastore, entropy: Entropy, name: str, *, now_ms: int) -> int:
    """Take the entries of ended leases out of a limit's slot; how many there were."""
    dead = dead_holders(store, entropy, holders_of(store, name), now_ms=now_ms)
    if dead:
        change_slot(store, entropy, limit_key(name), lambda slot: without_holders(slot, dead))
    return len(dead)


def rate_id(name: str) -> str:
    """The document that counts the grants under a limit."""
    return slot_id(limit_key(name)).replace("slot:", "rate:", 1)


class _Counted(Frozen, frozen=True, kw_only=True):
    moments: tuple[int, ...]
    set_ms: int = 0
    """When the rate that counts these was set."""

    def under(self, set_ms: int) -> "_Counted":
        """What counts under a rate that was set then: nothing of an earlier one, which was removed since.

        Moments are not compared with that: a worker's time may lie a little before it, and the clock may be set back.
        Who knows an earlier rate only, as a batch does that has begun before, counts under the one that stands.
        """
        return _Counted(moments=(), set_ms=set_ms) if self.set_ms < set_ms else self


def _counted(id: str, body: Mapping[str, Any] | None) -> _Counted:
    return _Counted(moments=()) if body is None else parsed(id, body, _Counted)


def _less(id: str, moment: int, body: Mapping[str, Any]) -> dict[str, Any] | None:
    kept = rates.without(_counted(id, body).moments, moment)
    return None if kept is None else {"moments": kept}
