"""Tells who stands in the way of a job's locks and limits, with the lease behind each entry. Reads only."""

from collections.abc import Mapping
from typing import Any

from broker import quotas, repository
from broker.answers import Reason
from broker.documents import Job
from broker.exclusion import PROBES_MAX, SeenSlots, Slots
from broker.limits import Limits, applying, factory_limit
from broker.obstacles import Obstacle
from broker.settlement import Context
from broker.slot_work import SlotWork

HOLDERS_TOLD_MAX = 8
LOCKS_TOLD_MAX = 16
"""Busy locks of one job: the others are not looked at."""
LOOKS_MAX = 64_000
"""Entries, as `SlotWork` counts them, from which on an explanation looks at no further job: a tenth of a second."""


class Looks:
    """The slots that one explanation looks at, for however many jobs: each of them, and each holder, is read once."""

    def __init__(self, context: Context, *, now_ms: int) -> None:
        self.context = context
        self.work = SlotWork(at_most=LOOKS_MAX)
        self._now_ms = now_ms
        self._slots = SeenSlots()
        self._limits: dict[str, Obstacle | None] = {}
        self._remaining: dict[tuple[str, int], Mapping[str, Any]] = {}

    def standing(self, job: Job, *, factory_id: str | None) -> list[Obstacle]:
        """The locks and limits that keep this job from being claimed now, of the locks the first `LOCKS_TOLD_MAX`.

        `factory_id`: by whom, for that one's limit.
        """
        context = self.context
        met: list[Obstacle] = []
        if job.locks:
            epoch = job.epoch + 1
            slots = Slots.of(context.store, context.entropy, job, epoch=epoch, request_id="", work=self.work)
            for busy in slots.busy(self._slots, now_ms=self._now_ms, at_most=LOCKS_TOLD_MAX):
                holders = [quotas.shown(holder) for holder in busy.holders[:HOLDERS_TOLD_MAX]]
                met.append(Obstacle(Reason.LOCK_BUSY, {"key": busy.key, "holders": holders}))
        limits = context.heeded().limits()
        for name in applying(limits, job, factory_id or ""):
            full = self._limit(limits, name, job)
            met += [] if full is None else [full]
        return [self._with_time_left(each) for each in met]

    def own_limit_is_reached(self, factory_id: str, job: Job) -> bool:
        """Whether this factory's limit keeps it from the job, as far as there is time to look."""
        limits, name = self.context.heeded().limits(), factory_limit(factory_id)
        return name in limits and not self.work.spent and self._limit(limits, name, job) is not None

    def _limit(self, limits: Limits, name: str, job: Job) -> Obstacle | None:
        if name not in self._limits:
            store, entropy, limit = self.context.store, self.context.entropy, limits[name]
            self.work.add_units(limit.capacity or 0)
            full = quotas.standing(store, entropy, name, limit, now_ms=self._now_ms, job_id=job.id)
            if full is not None:  # it was looked whether its holders live still
                self.work.add_reads(min(PROBES_MAX, len(full.detail.get("holders", ()))))
            self._limits[name] = full
        return self._limits[name]

    def _with_time_left(self, met: Obstacle) -> Obstacle:
        """For how long each holder still has its lease."""
        holders = met.detail.get("holders")
        if not holders:
            return met
        return Obstacle(met.reason, {**met.detail, "holders": [{**each, **self._left(each)} for each in holders]})

    def _left(self, holder: Mapping[str, Any]) -> Mapping[str, Any]:
        job_id, epoch = holder["job_id"], holder["epoch"]
        if (job_id, epoch) not in self._remaining:
            self.work.add_reads(1)
            job = repository.read_job(self.context.store, job_id)
            lease = job.lease if job is not None and job.epoch == epoch else None
            remaining = {} if lease is None else {"remaining_ms": max(0, lease.expires_ms - self._now_ms)}
            self._remaining[job_id, epoch] = remaining
        return self._remaining[job_id, epoch]
