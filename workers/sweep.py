"""The sweep: what time demands, runs a crash left open, hints that drifted. Every write of it is conditional too."""

import signal
import sys
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from threading import Event
from typing import TypeAlias

import structlog
from redis import Redis
from redis.exceptions import LockError, RedisError, ResponseError

from broker import (
    aftermath,
    claim_next,
    coordinator,
    demand,
    factories,
    families,
    index,
    lock_waits,
    operating,
    parked_sets,
    quotas,
    repository,
    runs,
    schedules,
    seen,
    telling,
    waking,
)
from broker.clock import SET_BACK_MS, RedisClock, Steady, monotonic_ms
from broker.controls import Controls
from broker.coordinator import Change, Context, Settlement
from broker.documents import Job, Run
from broker.families import Descent
from broker.index import INDEXED, Place
from broker.limits import limit_key, units
from broker.scripts import STANDS, Script
from broker.settings import Settings
from datastore import AnyOf, AtLeast, AtMost, DatastoreError, Document, Filter
from workers import left_behind, owed_runs, ready_index, together, wrong_types
from workers.blocked import Blocked
from workers.fault_points import At, nowhere
from workers.lean_redis import leave
from workers.rounds import Round
from workers.swept import Swept

log = structlog.get_logger(__name__)

LOCK = "broker:sweep"
LOCK_TTL_S = 15
"""A sweep that was killed is followed by another after this. Where a pass takes longer, two at once cost time only."""
LOST = "broker:lost"
"""Stands for a minute after Redis was found empty: by then every worker that lives has been heard of again."""
LOST_MS = 60_000
READY_PAGES = 40
"""Pages of ready jobs gone over in one sweep: 20,000 jobs."""
FAMILIES_MS = 1_000
"""Children of jobs that a sweep has ended are looked at for so long, then by the next one."""
TOLD_AT_ONCE = 256
"""Changes that a sweep makes before it tells of them: the first of thousands are not to wait for the last."""


Step: TypeAlias = Callable[[int, Swept], Iterator[Change]]
"""A part of a sweep: what it changes at this broker time. It counts that, too."""

_FREE = Script(
    STANDS
    + """
-- KEYS: 1 a lock.  ARGV: how long it lasts
if not stands(KEYS[1], ARGV[1]) then redis.call('DEL', KEYS[1]) end
"""
)


class Sweep:
    """Runs over the datastore, one at a time across the fleet."""

    def __init__(
        self,
        context: Context,
        connection: Redis,
        settings: Settings,
        *,
        steady_ms: Steady = monotonic_ms,
        at: At = nowhere,
    ) -> None:
        self._context = context
        self._redis = connection
        self._settings = settings
        self._at = at
        self._clock = RedisClock(connection)
        self._steady_ms = steady_ms
        self._ready_jobs = Round(context.store, "ready")
        self._waiting = Blocked(context, connection, steady_ms=steady_ms)
        self._descent = Descent()
        """Jobs that sweeps have ended and whose children are still to be looked at."""
        self._look = owed_runs.Look(context, connection)
        self._stop = Event()

    def run(self, *, once: bool) -> int:
        """Sweep once, or every quarter of the ttl with jitter until SIGTERM or SIGINT; the exit status."""
        if once:
            self._locked_pass()
            return 0
        signal.signal(signal.SIGTERM, lambda *_: self._stop.set())
        signal.signal(signal.SIGINT, lambda *_: self._stop.set())
        self.go_on(self._locked_pass, stop=self._stop)
        return 0

    def go_on(self, one_pass: Callable[[], object], *, stop: Event) -> None:
        """One pass after the other until `stop` is set, whatever becomes of one of them."""
        while not stop.is_set():
            try:
                one_pass()
            except (RedisError, DatastoreError) as error:
                log.warning("sweep_failed", error=str(error))
                leave(self._redis, error)
            except Exception:  # a mistake of ours in one pass must not end all of them
                log.exception("sweep_failed")
            stop.wait(self._pause_s())

    def pass_over(self, now_ms: int) -> Swept:
        """One sweep at broker time `now_ms`. A hint of the wrong type does not stop it: it is cleared away."""
        try:
            return self._pass_over(now_ms)
        except ResponseError as error:
            if not wrong_types.met(error) or not wrong_types.clear(self._redis):
                raise
        return self._pass_over(now_ms)

    def _pass_over(self, now_ms: int) -> Swept:
        swept = Swept()
        timers = (partial(self._over, search) for search in self._timers(now_ms))
        by_time: tuple[Step, ...] = (self._schedules, *timers, self._stuck, self._outlived)
        steps = (*by_time, self._blocked, self._families)
        changes: list[Change] = []
        try:
            for step in steps:
                with swept.going_on():
                    for change in step(now_ms, swept):
                        changes.append(change)  # what came before a failure is kept
                        self._descent.add(job.id for job in families.ended([change]))
                        if len(changes) == TOLD_AT_ONCE:
                            told, changes = changes, []
                            self._send(told, swept, now_ms)
        finally:
            self._at("sweep_changed")
            self._send(changes, swept, now_ms)
            self._at("sweep_told")
        for mend in (self._look_for_owed, self._owed_runs, self._mend_runs, self._limits, self._ready):
            with swept.going_on():
                mend(now_ms, swept)
        index.tidy(self._redis)
        parked_sets.tidy(self._redis)
        demand.trim(self._redis, now_ms)
        seen.trim(self._redis, now_ms)
        swept.waits_ended = claim_next.end_waits(self._redis, now_ms)
        swept.woken += aftermath.on_time(self._context, self._redis, now_ms)
        swept.told()
        return swept

    def _locked_pass(self) -> None:
        lock = self._redis.lock(LOCK, timeout=LOCK_TTL_S, blocking=False)
        if not lock.acquire():
            _FREE.run(self._redis, [LOCK], [LOCK_TTL_S * 1_000])
            return
        self._at("sweep_locked")
        try:
            self.pass_over(self._clock.now_ms())
        finally:
            try:
                lock.release()
            except LockError:
                log.debug("sweep_lock_expired")  # a long pass; whoever came next lost time, nothing else

    def _pause_s(self) -> float:
        """From one sweep to the next: a quarter of the ttl, ±10 %."""
        return self._settings.sweep_every_ms / 1000 * (0.9 + 0.2 * self._context.entropy.jitter())

    def _timers(self, now_ms: int) -> tuple[Filter, ...]:
        """Dead leases, cancels past their grace, deadlines, schedules that are due, and what is from the future."""
        over = AtMost(now_ms)
        return (
            {"state": "leased", "lease.expires_ms": AtMost(now_ms - self._settings.skew_ms)},
            {"state": "leased", "cancel.enforce_ms": over},
            {"state": "scheduled", "not_before_ms": over},
            {"state": "leased", "lease.run_deadline_ms": over},
            *({"state": state, "deadline_ms": over} for state in ("leased", "scheduled", "blocked")),
            *({"state": state, "updated_ms": AtLeast(now_ms + SET_BACK_MS + 1)} for state in ("leased", "scheduled")),
        )

    def _over(self, search: Filter, now_ms: int, swept: Swept) -> Iterator[Change]:
        return self._reap(self._jobs(search), now_ms, swept)

    def _reap(self, jobs: Iterable[Job], now_ms: int, swept: Swept) -> Iterator[Change]:
        for change in self._each(jobs, partial(coordinator.reap, now_ms=now_ms)):
            swept.reaped += 1
            yield change

    def _schedules(self, now_ms: int, swept: Swept) -> Iterator[Change]:
        """Recurring jobs that are due, and those that are done with up to a time far ahead: it was set back since.

        One that is paused may owe fires from before.
        """
        active, paused = schedules.Standing.ACTIVE.value, schedules.Standing.PAUSED.value
        due: Filter = {"state": AnyOf((active, paused)), "next_ms": AtMost(now_ms)}
        ahead: Filter = {"state": active, "since_ms": AtLeast(now_ms + SET_BACK_MS + 1)}
        for search in due, ahead:
            for document in repository.find_documents(self._context.store, {"kind": "schedule", **search}):
                changes = together.attempt(partial(schedules.fire, self._context, document, now_ms=now_ms))
                swept.fired += len(changes)
                yield from changes

    def _stuck(self, now_ms: int, swept: Swept) -> Iterator[Change]:
        """Runs that are watched for progress."""
        watched = self._jobs({"state": "leased", "stuck_after_ms": AtMost(now_ms)})
        for change in self._each(watched, partial(coordinator.watch, now_ms=now_ms)):
            swept.stuck += 1
            yield change

    def _outlived(self, now_ms: int, swept: Swept) -> Iterator[Change]:
        """Leases of starts that are over: more than a registration ends itself, and claims that were on their way."""
        over = {name: record for name, record in factories.registered(self._context.store) if record.since_ms}

        def is_over(job: Job) -> bool:
            lease = job.lease
            record = None if lease is None else over.get(lease.factory_id)
            return lease is not None and record is not None and record.outlived(lease.incarnation, lease.granted_ms)

        def outlive(context: Context, job: Job) -> Settlement:
            assert job.lease is not None, "only a leased job is over"
            name = job.lease.factory_id
            return coordinator.outlive(context, job, name, over[name], now_ms=now_ms)

        leased = self._jobs({"state": "leased"}) if over else ()
        for change in self._each(filter(is_over, leased), outlive):
            swept.reaped += 1
            yield change

    def _blocked(self, now_ms: int, swept: Swept) -> Iterator[Change]:
        """Jobs whose parents may have ended, and the hints that they wait."""
        for change in self._waiting.go_on(now_ms):
            swept.unblocked += change.before is not None
            yield change

    def _families(self, now_ms: int, swept: Swept) -> Iterator[Change]:
        """The children of jobs that sweeps have ended. Should this process die, they are found among the blocked."""
        until_ms = self._steady_ms() + FAMILIES_MS
        while self._descent and self._steady_ms() < until_ms:
            for change in self._descent.go_on(self._context, self._redis, now_ms=now_ms):
                swept.unblocked += 1
                yield change

    def _look_for_owed(self, now_ms: int, _swept: Swept) -> None:
        self._look.go_on(now_ms)

    def _owed_runs(self, now_ms: int, swept: Swept) -> None:
        swept.runs_mended += owed_runs.write(self._context, self._redis, now_ms=now_ms)

    def _mend_runs(self, now_ms: int, swept: Swept) -> None:
        """Runs that were opened and are over (I3): whoever ended them died before that was on record."""
        for run in repository.find_documents(self._context.store, {"open": True}):
            job = together.read(self._context, run.partition_key)
            if job is not None:
                swept.runs_mended += self._mended(run.id, partial(self._end_run, run, job, now_ms))

    def _limits(self, now_ms: int, swept: Swept) -> None:
        """Every lease has its units and no other has any: those that a crash, or a limit set later, left wrong."""
        store, entropy = self._context.store, self._context.entropy
        try:
            limits = Controls(store).limits()
        except DatastoreError as error:
            log.warning("limits_not_swept", error=str(error))
            return
        for job in self._jobs({"state": "leased"}) if limits else ():
            with swept.going_on():
                swept.units_mended += operating.count_running(self._context, limits, [job], now_ms=now_ms)
        for name in units(limits, sorted(limits)):
            with swept.going_on():
                dead = quotas.drop_dead(store, entropy, name, now_ms=now_ms)
                swept.units_mended += dead
                back = lock_waits.bring_back(self._redis, [limit_key(name)] * dead, now_ms=now_ms)
                swept.woken += waking.wake(self._redis, back, known=self._context.known_offers)

    def _end_run(self, document: Document, job: Job, now_ms: int) -> bool:
        """End an open run if it is over. A job as it was before that run says nothing of it, if it has moved on."""
        store, run = self._context.store, Run.from_document(document)
        if job.epoch == run.epoch and job.lease is not None:
            return False
        if job.epoch < run.epoch and not repository.stands(store, job, write_id=self._context.entropy.write_id()):
            return False
        end = runs.superseded_end(run, job, now_ms)
        runs.end_run(store, self._context.entropy, job.id, end)
        return True

    def _mended(self, id: str, act: Callable[[], bool]) -> int:
        """How many runs were mended by it. One that can't be must not hold up the rest of the sweep."""
        try:
            return act()
        except DatastoreError as error:
            log.error("run_not_mended", id=id, error=str(error))
            return 0

    def _ready(self, now_ms: int, swept: Swept) -> None:
        """Every ready job is findable again, and fails once its deadline is over.

        At most `READY_PAGES` of them in one sweep, the next ones in the next: a million must not hold up dead leases.
        After Redis has lost everything, all at once.
        """
        everything = not self._redis.exists(INDEXED)
        if everything:
            self._ready_jobs.begin_anew()
            self._redis.set(LOST, now_ms, px=LOST_MS)
        if self._redis.exists(LOST):
            left_behind.adopt(self._redis, now_ms)
        for _ in range(READY_PAGES if not everything else sys.maxsize):
            page = self._ready_jobs.next_page(repository.PAGE_DOCUMENTS)
            jobs = list(repository.readable(page.documents))
            offered = ready_index.offer(self._context, self._redis, jobs, now_ms=now_ms)
            swept.indexed += len(offered.new)
            swept.woken += offered.woken
            if not everything:  # the index was there, and without them: most were claimed since they were read
                ready_index.withdraw_taken(self._context, self._redis, offered.new)
            late = [job for job in jobs if job.deadline_ms is not None and now_ms > job.deadline_ms]
            late += [job for job in jobs if job.reserved is not None and job.updated_ms > now_ms + SET_BACK_MS]
            ended = list(self._reap(late, now_ms, swept))
            self._descent.add(job.id for job in families.ended(ended))
            self._send(ended, swept, now_ms)
            self._ready_jobs.gone_over(page)
            if self._ready_jobs.over:
                break
        self._redis.set(INDEXED, now_ms, xx=not everything)  # gone meanwhile: the next sweep shall see that

    def _send(self, changes: list[Change], swept: Swept, now_ms: int) -> None:
        step_ms = self._context.rules.ageing_step_ms
        with self._redis.pipeline(transaction=False) as pipe:
            aftermath.move_hints(pipe, changes, step_ms=step_ms, now_ms=now_ms)
            telling.publish_changes(pipe, changes, now_ms=now_ms)
            pipe.execute()
        offered = [change.after for change in changes if index.offered(change.after)]
        ready = [Place.of(job, step_ms=step_ms, now_ms=now_ms).wants for job in offered]
        ready += lock_waits.bring_back(self._redis, lock_waits.given_up(changes), now_ms=now_ms)
        swept.woken += waking.wake(self._redis, ready, known=self._context.known_offers)

    def _jobs(self, search: Filter) -> Iterator[Job]:
        """Jobs a search proposes; one that does not parse is reported and left alone."""
        return repository.readable(repository.find_documents(self._context.store, {"kind": "job", **search}))

    def _each(self, jobs: Iterable[Job], act: Callable[[Context, Job], Settlement]) -> Iterator[Change]:
        return together.each(self._context, jobs, act)
