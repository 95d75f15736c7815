"""What must hold between jobs: of locks, limits, unique and superseding keys, and of the fires of a schedule."""

from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec

from broker import cron
from broker.documents import WAITING, Job, State
from broker.fires import job_id
from broker.limits import Limits, Rate, applying
from broker.schedules import Schedule, Standing
from broker.slots import Holder, Slot, in_the_way, wants

FIRE_LATE_MS = 60_000
"""A sweep comes every few seconds; it may stand still, or its store may."""


class BetweenJobs:
    """Looks at every job written, every grant told and every submission acknowledged."""

    def __init__(self, jobs: Mapping[str, Job], counts: Counter[str], accuse: Callable[[str], None]) -> None:
        """`jobs`: as they stand, with all changes that come."""
        self._jobs = jobs
        self._counts = counts
        self._accuse = accuse
        self.limits: Callable[[], Limits] = dict
        """Those that stand since before there was a job."""
        self.now_ms: Callable[[], float] = lambda: 0.0
        """Time as it really is, however broker time jumps."""
        self.jumps: Sequence[float] = ()
        """When broker time did."""
        self._told: set[tuple[str, int]] = set()
        """Grants whose holders were told, by job and epoch."""
        self._granted: dict[tuple[str, int], float] = {}
        """When each grant was written, by job and epoch."""
        self._starts: defaultdict[str, list[tuple[int, float]]] = defaultdict(list)
        self._schedules: dict[str, Schedule] = {}
        self._revs: dict[str, dict[str, int]] = {}
        """By a job that supersedes others: the revisions of all that share its key, as it was made."""
        self._acknowledged: set[str] = set()
        self._redriven: set[str] = set()

    def wrote_job(self, was: Job | None, job: Job) -> None:
        """A job was written."""
        if job.lease is not None:
            self._granted.setdefault((job.id, job.epoch), self.now_ms())
        if job.unique is not None and not job.state.terminal:
            for other in self._jobs.values():
                if other.unique == job.unique and other.id != job.id and not other.state.terminal:
                    self._accuse(f"keys: {job.id} and {other.id} are both alive with the key {job.unique}")
        if was is not None and was.state.terminal and not job.state.terminal:
            self._redriven.add(job.id)
        if job.state.terminal and was is not None and not was.state.terminal:
            self._counts["superseded"] += (job.why or "").startswith("superseded by")
            self._counts["superseded_late"] += was.lease is not None and (job.why or "").startswith("superseded by")
        if was is None and job.supersedes is not None:
            same = [other for other in self._jobs.values() if other.supersedes == job.supersedes]
            self._revs[job.id] = {other.id: other.document.rev for other in same}

    def wrote_schedule(self, body: Mapping[str, Any]) -> None:
        """A schedule was written. Every fire that it owed and owes no more has become a job, unless it was removed."""
        now = msgspec.convert(body, Schedule)
        was = self._schedules.get(now.name)
        self._schedules[now.name] = now
        if was is None or Standing.REMOVED in (was.state, now.state) or now.since_ms < was.since_ms:
            return
        changed = (was.state, was.request_id) != (now.state, now.request_id)
        up_to_ms = now.updated_ms if changed else now.since_ms
        owed, owes_yet = _owed(was, up_to_ms), _owed(now, up_to_ms)
        for fire_ms in sorted(owed - owes_yet):
            self._counts["fires"] += 1
            if job_id(now.name, fire_ms) not in self._jobs:
                self._accuse(f"schedule: {job_id(now.name, fire_ms)} is done with, and is no job")

    def acknowledged(self, job_id: str) -> None:
        """Its submitter is told that it is stored. Of those that are, with its key, the newest alone waits.

        But for what an operator has redriven. What ran as the newer one came does not wait again.
        """
        job = self._jobs[job_id]
        if job.supersedes is None:
            return
        self._acknowledged.add(job_id)
        for other in [self._jobs[other_id] for other_id in self._acknowledged]:
            if other.supersedes == job.supersedes and other.id != job.id:
                orders = [(job, other), (other, job)]
                left = [(older, newer) for older, newer in orders if older.created_ms <= newer.created_ms]
                # Of two that were taken in one millisecond either may be the newer one.
                if all(self._left_waiting(older, newer) for older, newer in left):
                    self._accuse(f"keys: {left[0][0].id} waits, though {left[0][1].id} has superseded it")

    def _left_waiting(self, older: Job, newer: Job) -> bool:
        rev = self._revs[newer.id].get(older.id, 1)  # as both were there
        waits = older.state in WAITING and older.id not in self._redriven
        responsible = newer.state is not State.CANCELLED  # or else whoever superseded that one, too
        return waits and responsible and (older.document.rev == rev or older.superseded_by is not None)

    def told(self, job: Job) -> None:
        """The holder of the lease that stands is told of it."""
        lease = job.lease
        assert lease is not None
        new = (job.id, job.epoch) not in self._told
        self._told.add((job.id, job.epoch))
        holders = [other for other in self._jobs.values() if other.lease and (other.id, other.epoch) in self._told]
        for other in holders:
            if other.id != job.id and (keys := _both(job, other)):
                self._accuse(f"slots: {job.id} and {other.id} are both leased under {keys}")
        limits = self.limits()
        for name in applying(limits, job, lease.factory_id):
            capacity = limits[name].capacity
            used = [
                each.id
                for each in holders
                if each.lease is not None and name in applying(limits, each, each.lease.factory_id)
            ]
            if capacity is not None and len(used) > capacity:
                self._accuse(f"limits: {used} are all leased under {name}, which admits {capacity}")
            if new:
                self._started(name, limits[name].rate, lease.granted_ms, self._granted[job.id, job.epoch])

    def check_the_end(self, now_ms: int) -> None:
        """What must be true once the faults are over and everything has settled."""
        for each in self._schedules.values():
            stands = each.state is not Standing.REMOVED
            if stands and each.next_ms is not None and each.next_ms < now_ms - FIRE_LATE_MS:
                self._accuse(f"schedule: {each.name} was due {now_ms - each.next_ms} ms ago")

    def _started(self, name: str, rate: Rate | None, granted_ms: int, really_ms: float) -> None:
        """Too many at once by broker time; after a jump of it, only if really so: set back, it puts starts together."""
        if rate is None:
            return
        starts = self._starts[name] = sorted([*self._starts[name], (granted_ms, really_ms)])
        windows = [starts[at : at + rate.count + 1] for at in range(len(starts) - rate.count)]
        if any(self._too_near(window, rate) for window in windows):
            moments = [granted_ms for granted_ms, _ in starts]
            self._accuse(f"limits: more than {rate.count} grants in {rate.per_ms} ms under {name}: {moments}")

    def _too_near(self, starts: Sequence[tuple[int, float]], rate: Rate) -> bool:
        first_ms, last_ms = min(really for _, really in starts), max(really for _, really in starts)
        jumped = any(first_ms < jump < last_ms for jump in self.jumps)
        return starts[-1][0] - starts[0][0] < rate.per_ms and not (jumped and last_ms - first_ms >= rate.per_ms)


def _owed(schedule: Schedule, up_to_ms: int) -> set[int]:
    """The fires up to then that are not done with."""
    return {
        fire_ms
        for term in schedule.terms()
        for fire_ms in cron.within(
            term.cron, term.tz, after_ms=term.since_ms, until_ms=term.until_ms or up_to_ms, at_most=1_000
        )
    }


def _both(job: Job, other: Job) -> list[str]:
    """The keys of locks that two jobs must not hold at once."""
    theirs = [
        Slot(
            key=want.key,
            holders=(Holder(job_id=other.id, epoch=other.epoch, request_id="", mode=want.mode, taken_ms=0),),
        )
        for want in wants(other.locks)
    ]
    return sorted(
        {
            want.key
            for want in wants(job.locks)
            for slot in theirs
            if slot.key == want.key and in_the_way(slot, want, job.id)
        }
    )
