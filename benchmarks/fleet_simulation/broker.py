"""One simulated broker: production's rules on production's job values, behind servers that take their time."""

import heapq
import random
from collections import deque
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Protocol

from benchmarks.fleet_simulation.plan import Plan
from benchmarks.fleet_simulation.tally import Tally
from benchmarks.fleet_simulation.timeline import Station, Timeline
from broker import transitions
from broker.answers import Answer, Word
from broker.documents import Job, Lease, State
from broker.fence import Fence
from broker.messages import SubmitBody
from broker.submission import first_version
from broker.transitions import Claimant, Decision, Rules, Write
from datastore import Document, Etag

EPOCH_MS = 1_700_000_000_000
"""Broker time as the simulation begins."""
SUBMISSION = first_version(SubmitBody(), now_ms=EPOCH_MS)
"""What every job begins with, but for its times."""


class Waiter(Protocol):
    """Whoever asks for a job."""

    name: str
    incarnation: str
    up: bool

    def granted(self, job_id: str, lease: Lease) -> None:
        """It has one."""


class Broker:
    """A Redis, its workers, its sweep, and the jobs that are at home there."""

    def __init__(self, plan: Plan, timeline: Timeline, tally: Tally, chance: random.Random) -> None:
        self.redis = Station(1)
        self.workers = Station(plan.workers)
        self._plan = plan
        self._timeline = timeline
        self._tally = tally
        self._chance = chance
        self._rules = Rules(ttl_ms=int(plan.ttl_s * 1_000), skew_ms=int(plan.skew_s * 1_000))
        self._jobs: dict[str, Job] = {}
        self._ready: list[tuple[float, str]] = []
        self._parked: deque[tuple[Waiter, str]] = deque()
        self._expiries: list[tuple[int, str]] = []
        self._due: list[tuple[int, str]] = []

    def ask(self, op: str, act: Callable[[], None]) -> None:
        """A request is sent now; `act` happens once Redis and a worker have come to it."""
        plan = self._plan
        self._tally.requests[op] += 1
        taken_ms = self.redis.serve(self._timeline.now_ms + plan.latency_ms, plan.redis_us / 1_000)
        self._timeline.at(self.workers.serve(taken_ms, plan.worker_us / 1_000), act)

    def submit(self, job_id: str) -> None:
        """A job is there."""
        now_ms = self.now_ms
        self._keep(job_id, {**SUBMISSION, "created_ms": now_ms, "updated_ms": now_ms}, rev=1, before=None)

    def claim(self, waiter: Waiter, incarnation: str) -> None:
        """The job that has waited longest, for this start of a factory; where there is none, the claim waits."""
        if not waiter.up or waiter.incarnation != incarnation:
            return
        if not self._ready:
            self._parked.append((waiter, incarnation))
            return
        ready_ms, job_id = heapq.heappop(self._ready)
        who = Claimant(waiter.name, incarnation, _id(self._chance), _id(self._chance))
        answer, job = self._carry_out(job_id, partial(transitions.claim, who=who, rules=self._rules))
        assert answer.word is Word.GRANTED, answer
        assert job.lease is not None, "a grant comes with its lease"
        self._tally.grant(job_id, job.epoch, ready_ms=ready_ms, now_ms=self._timeline.now_ms)
        waiter.granted(job_id, job.lease)

    def renew(self, job_id: str, lease: Lease) -> Answer:
        """Extend a lease, if it is still the caller's."""
        return self._fenced(job_id, partial(transitions.renew, fence=_fence(lease, self._chance)))

    def complete(self, job_id: str, lease: Lease) -> Answer:
        """End a job, if it is still the caller's."""
        return self._fenced(job_id, partial(transitions.complete, fence=_fence(lease, self._chance), result=None))

    def fail(self, job_id: str, lease: Lease) -> Answer:
        """Give a job back for another try, if it is still the caller's."""
        judge = partial(
            transitions.fail,
            fence=_fence(lease, self._chance),
            rules=self._rules,
            error="failed",
            result=None,
            retryable=True,
            jitter=self._chance.random(),
        )
        return self._fenced(job_id, judge)

    def sweep(self) -> None:
        """Dead leases, schedules that are due; and again after a quarter of the ttl (design §6)."""
        now_ms = self.now_ms
        for job_id in _popped(self._expiries, now_ms - self._rules.skew_ms - 1):
            job = self._jobs.get(job_id)
            if job is not None and job.lease is not None:
                _, job = self._carry_out(job_id, partial(transitions.reap, rules=self._rules))
            if job is not None and job.lease is not None:  # renewed since
                heapq.heappush(self._expiries, (job.lease.expires_ms, job_id))
        for job_id in _popped(self._due, now_ms):
            if job_id in self._jobs:
                self._carry_out(job_id, transitions.due)
        self._timeline.after(self._plan.ttl_s * 250 * self._chance.uniform(0.9, 1.1), self.sweep)

    @property
    def now_ms(self) -> int:
        """Broker time."""
        return EPOCH_MS + int(self._timeline.now_ms)

    def _fenced(self, job_id: str, judge: Callable[..., Decision]) -> Answer:
        if job_id not in self._jobs:  # over, and forgotten here
            answer = Answer(Word.ALREADY_TERMINAL)
        else:
            answer, _ = self._carry_out(job_id, judge)
        if answer.word not in (Word.OK, Word.RENEWED):
            self._tally.refused += 1
        return answer

    def _carry_out(self, job_id: str, judge: Callable[..., Decision]) -> tuple[Answer, Job]:
        """Judge, and write if there is something to write: nobody comes in between."""
        job = self._jobs[job_id]
        decision = judge(job, now_ms=self.now_ms)
        if not isinstance(decision, Write):
            return decision.answer, job
        body = {**job.document.body, **decision.changes}
        return decision.answer, self._keep(job_id, body, rev=job.document.rev + 1, before=job)

    def _keep(self, job_id: str, body: Mapping[str, Any], *, rev: int, before: Job | None) -> Job:
        job = Job.from_document(Document(job_id, job_id, rev, Etag(str(rev)), body))
        self._jobs[job_id] = job
        if job.state.terminal:
            del self._jobs[job_id]
            self._tally.end(job_id, job.state.value)
        elif job.state is State.READY:
            heapq.heappush(self._ready, (self._timeline.now_ms, job_id))
            self._wake()
        elif job.state is State.SCHEDULED:
            heapq.heappush(self._due, (job.not_before_ms or 0, job_id))
        elif job.lease is not None and (before is None or before.epoch != job.epoch):
            heapq.heappush(self._expiries, (job.lease.expires_ms, job_id))
        return job

    def _wake(self) -> None:
        """A claim that waits is settled again; those of factories that have gone are passed over."""
        while self._parked:
            waiter, incarnation = self._parked.popleft()
            if waiter.up and waiter.incarnation == incarnation:
                self.ask("woken claim", partial(self.claim, waiter, incarnation))
                return


def _popped(heap: list[tuple[int, str]], until_ms: int) -> list[str]:
    found = []
    while heap and heap[0][0] <= until_ms:
        found.append(heapq.heappop(heap)[1])
    return found


def _fence(lease: Lease, chance: random.Random) -> Fence:
    return Fence(factory_id=lease.factory_id, epoch=lease.epoch, token=lease.token, request_id=_id(chance))


def _id(chance: random.Random) -> str:
    return f"{chance.getrandbits(128):032x}"
