"""What must hold, looked at after every write and every reply. It knows the truth; nobody in the world asks it."""

import zlib
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterator, Sequence

import msgspec

from broker.documents import RECENT_REQUESTS_MAX, Job, Lease, Outcome, RunEnd, State, run_id
from datastore import Corrupt, Document, Ok
from datastore.interface import Datastore
from tests.simulation.between_jobs import BetweenJobs

_REPLIES = b"broker:reply:"
_HOLDERS_OPS = frozenset({"complete", "fail", "release", "hand_over"})
"""Each ends the lease of its sender."""
_LOST = frozenset({"lease_lost", "already_terminal", "conflict"})
"""Answers that say to the one who asks that it has no effect."""


class About(msgspec.Struct):
    """What a request is about."""

    job_id: str | None = None
    epoch: int | None = None


class Asked(msgspec.Struct):
    """Of a request what the judge looks at."""

    request_id: str
    op: str
    factory_id: str
    deadline_ms: int | None = None
    body: About = msgspec.field(default_factory=About)


class Granted(msgspec.Struct):
    """One grant."""

    job_id: str
    epoch: int
    token: str


class Said(msgspec.Struct):
    """The body of a reply: about a job, its one grant perhaps, or several grants."""

    job_id: str | None = None
    epoch: int | None = None
    token: str | None = None
    grants: Sequence[Granted] = ()
    joined: bool = False


class Replied(msgspec.Struct):
    """Of a reply what the judge looks at. An event has no answer, and maybe no request."""

    request_id: str | None = None
    answer: str | None = None
    reason: str | None = None
    body: Said = msgspec.field(default_factory=Said)


_asked = msgspec.json.Decoder(Asked).decode
_replied = msgspec.json.Decoder(Replied).decode


class Judge:
    """Collects what was wrong, and counts what happened, so that a run in which nothing did proves nothing."""

    def __init__(self, told: Callable[[str], None] | None = None) -> None:
        self.wrong: list[str] = []
        self.counts: Counter[str] = Counter()
        self.digest = 0
        """Of every write of a job, in order: two runs of one seed have the same."""
        self.taken_over: Callable[[Job], None] = lambda _job: None
        """Called where a lease ends because it was not renewed, with the job as it was."""
        self.store: Datastore | None = None
        self._told = told
        self._jobs: dict[str, Job] = {}
        self._tokens: dict[tuple[str, int], str] = {}
        self._ends: dict[tuple[str, int], RunEnd] = {}
        """How each lease ended."""
        self._asked: dict[str, Asked] = {}
        self._told_of: defaultdict[str, set[tuple[str, int, str]]] = defaultdict(set)
        self._good: dict[str, int] = {}
        self._finished: set[str] = set()
        self.between = BetweenJobs(self._jobs, self.counts, self.accuse)

    def accuse(self, what: str) -> None:
        """Something was wrong."""
        self.wrong.append(what)
        if self._told is not None:
            self._told(f"WRONG   {what}")

    def sent(self, text: str) -> None:
        """A client sends this request, or may have."""
        request = _asked(text)
        earlier = self._asked.get(request.request_id)
        if earlier is not None and request.deadline_ms is not None:
            # Each attempt has its own: a client corrects what it knows of broker time. The latest one binds.
            request.deadline_ms = None if earlier.deadline_ms is None else max(earlier.deadline_ms, request.deadline_ms)
        self._asked[request.request_id] = request
        self.counts["requests"] += 1

    def wrote(self, after: Document) -> None:
        """A document was written. Every write is shown, so that the job as it was is the one shown last."""
        if self._told is not None:
            self._told(f"stored  {after.id} rev {after.rev} {msgspec.json.encode(after.body).decode()}")
        if after.body.get("kind") == "schedule":
            self.between.wrote_schedule(after.body)
        if after.body.get("kind") != "job":
            return
        try:
            job = Job.from_document(after)
        except Corrupt as error:
            self.accuse(f"I2 {error}")
            return
        self.digest = zlib.crc32(f"{job.id} {after.rev} {job.epoch} {job.state}".encode(), self.digest)
        was = self._jobs.get(job.id)
        self._jobs[job.id] = job
        (self._finished.add if job.state.terminal else self._finished.discard)(job.id)
        self.between.wrote_job(was, job)
        if was is not None:
            self._changed(was, job)

    def pushed(self, key: bytes, values: Sequence[bytes]) -> None:
        """Something was pushed onto a list of Redis; replies are what the broker says."""
        if key.startswith(_REPLIES):
            for text in values:
                self._replied(_replied(text))

    def job(self, job_id: str) -> Job | None:
        """As it stands."""
        return self._jobs.get(job_id)

    def held(self) -> list[str]:
        """The jobs that an operator holds now."""
        return [job.id for job in self._jobs.values() if job.hold is not None]

    def all_finished(self, acknowledged: Collection[str]) -> bool:
        """Whether all jobs there are have come to an end, and the acknowledged ones are there."""
        return len(self._finished) == len(self._jobs) and all(job_id in self._jobs for job_id in acknowledged)

    def _changed(self, was: Job, job: Job) -> None:
        name = f"{job.id} rev {job.document.rev}"
        if job.epoch not in (was.epoch, was.epoch + 1):
            self.accuse(f"I1 {name}: the epoch went from {was.epoch} to {job.epoch}")
        if (
            was.state.terminal
            and job.state is not was.state
            and not (job.state is State.READY and job.epoch == was.epoch)
        ):
            self.accuse(f"I4 {name}: {was.state} became {job.state}")
        lease, had = job.lease, was.lease
        if lease is not None and (had is None or had.epoch != lease.epoch or had.token != lease.token):
            self._granted(was, job)
        if had is not None and (lease is None or lease.epoch != had.epoch):
            end = job.last_end
            if end is not None:
                self._ends[job.id, end.epoch] = end
                self.counts[f"ended: {end.outcome}"] += 1
            self._fenced(name, had, job)
            if end is not None and end.epoch == had.epoch and end.outcome is Outcome.EXPIRED:
                self.counts["expiries"] += 1
                self.taken_over(was)
        if job.state is State.SUCCEEDED and was.state is not State.SUCCEEDED:
            self.counts["completions"] += 1
            if had is None or job.epoch != had.epoch:
                self.accuse(f"I4 {name}: completed without its lease")

    def _fenced(self, name: str, had: Lease, job: Job) -> None:
        """Where a holder ended a lease, it was its own."""
        request = self._asked.get(job.recent_requests[-1].request_id) if job.recent_requests else None
        if request is not None and request.op in _HOLDERS_OPS and job.last_end and job.last_end.epoch == had.epoch:
            newest = job.recent_requests[-1]
            if newest.epoch == had.epoch and request.body.epoch != had.epoch:
                self.accuse(f"I4 {name}: {request.op} of epoch {request.body.epoch} ended epoch {had.epoch}")

    def _granted(self, was: Job, job: Job) -> None:
        lease = job.lease
        assert lease is not None
        name = f"{job.id} epoch {job.epoch}"
        self.counts["grants"] += 1
        self.counts["takeovers"] += was.lease is not None
        if was.hold is not None:
            self.accuse(f"holds: {name} was granted while it is held")
        if job.epoch != was.epoch + 1 or lease.epoch != job.epoch:
            self.accuse(f"I1 {name}: granted from epoch {was.epoch}, the lease says {lease.epoch}")
        known = self._tokens.setdefault((job.id, job.epoch), lease.token)
        if known != lease.token:
            self.accuse(f"I1 {name}: a second holder")
        request = self._asked.get(lease.request_id)
        if request is not None and request.deadline_ms is not None and lease.granted_ms > request.deadline_ms:
            self.accuse(f"I7 {name}: granted {lease.granted_ms - request.deadline_ms} ms after its deadline")

    def _replied(self, reply: Replied) -> None:
        answer, request_id, body = reply.answer, reply.request_id, reply.body
        if answer is None or request_id is None:
            return
        self.counts[answer] += 1
        if reply.reason:
            self.counts[f"because: {reply.reason}"] += 1
        if reply.reason == "corrupt":
            self.accuse(f"{request_id} is told of a corrupt document, and there is none")
        request = self._asked.get(request_id)
        for grant in body.grants:
            self._told_of_a_grant(request_id, request, grant)
        if not body.grants and body.token is not None:
            self._told_of_a_grant(request_id, request, Granted(str(body.job_id), body.epoch or 0, body.token))
        submitted = request is not None and request.op == "submit" and not body.joined
        if submitted and answer in ("ok", "replayed"):
            self.between.acknowledged(str(body.job_id))
        if request is not None and request.op in _HOLDERS_OPS:
            self._told_a_holder(request, answer, str(reply.reason))

    def _told_a_holder(self, request: "Asked", answer: str, reason: str) -> None:
        job, request_id = self._jobs.get(str(request.body.job_id)), request.request_id
        if job is None:
            return
        if answer in ("ok", "replayed"):
            self._good.setdefault(request_id, job.document.rev)  # a replay is not remembered anew
        elif answer in _LOST:
            self.counts["stale_refused"] += 1
            remembered = job.document.rev - self._good.get(request_id, -RECENT_REQUESTS_MAX) < RECENT_REQUESTS_MAX
            if remembered or job.recent(request_id, request.factory_id) is not None:
                self.accuse(f"I6 {request.op} {request_id} had its effect, and is told {answer} ({reason})")

    def _told_of_a_grant(self, request_id: str, request: "Asked | None", grant: Granted) -> None:
        lease = (grant.job_id, grant.epoch)
        if self._tokens.get(lease) != grant.token:
            self.accuse(f"I1 {request_id} is told of {lease}, which was never granted so")
        self._told_of[request_id].add((*lease, grant.token))
        asked_for = None if request is None or request.op != "claim" else request.body.job_id
        if asked_for is not None and len(self._told_of[request_id]) > 1:
            self.accuse(f"I6 {request_id} was granted {asked_for} twice")
        job = self._jobs[lease[0]]
        if job.lease is not None and job.lease.epoch == lease[1]:
            self.between.told(job)

    def off_the_record(self) -> Iterator[str]:
        """What is true of leases, and not of their runs. A job and its run are two writes, so it may come right yet."""
        yield from self._not_on_record()
        yield from self._wrongly_on_record()

    def _not_on_record(self) -> list[str]:
        """Of each job that has ended with other runs than one for each epoch, which it has, and which are open."""
        assert self.store is not None
        found = []
        for job in self._jobs.values():
            runs = self.store.find({"partition_key": job.id, "kind": "run"}, limit=500).documents
            epochs = sorted(int(str(run.body["epoch"])) for run in runs)
            open_runs = [run.id for run in runs if run.body.get("ended_ms") is None]
            if job.state.terminal and (epochs != list(range(1, job.epoch + 1)) or open_runs):
                found.append(f"I3 {job.id} at epoch {job.epoch} has runs {epochs}, open {open_runs}")
        return found

    def _wrongly_on_record(self) -> Iterator[str]:
        """Of each run that ended in another way than its lease did."""
        assert self.store is not None
        for (job_id, epoch), end in self._ends.items():
            found = self.store.read(run_id(job_id, epoch), job_id)
            run = found.document.body if isinstance(found, Ok) else {}
            if (run.get("outcome"), run.get("result")) != (end.outcome, end.result):
                yield f"I3 {job_id} epoch {epoch} ended as {end.outcome}, {end.result}, and its run is {dict(run)}"

    def check_the_end(self, acknowledged: Sequence[str], *, now_ms: int) -> None:
        """What must be true once the faults are over and everything has settled, at broker time `now_ms`."""
        self.between.check_the_end(now_ms)
        assert self.store is not None
        for job_id in acknowledged:
            job = self._jobs.get(job_id)
            if job is None or not job.state.terminal:
                self.accuse(f"I5 {job_id} was acknowledged and is {'gone' if job is None else job.state}")
        for wrong in self.off_the_record():
            self.accuse(wrong)
        for job in self._jobs.values():
            if not isinstance(self.store.read(job.id, job.id), Ok):
                self.accuse(f"I5 {job.id} is gone from the store")
