"""What a broker may say of one operation under one fault of the service, against what the service really holds.

A good answer: it has happened. `throttled`: it has not. `outcome_unknown` claims nothing, and is for faults only that
leave it open: where the service is known to have written nothing, it is `throttled`. And the same request id, sent
again when the service is well, is answered well and has taken effect once.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from broker.documents import Job
from broker.messages import Request
from broker.repository import read_job
from broker.runs import read_run
from tests.cosmos.fault_proxy import Fault, FaultProxy
from tests.cosmos.faults import DENIED, STALE_READ
from tests.in_process import InProcess

THROUGH: Final = Fault("let by", apply=True)
GOOD: Final = frozenset({"ok", "granted", "renewed", "replayed"})
OPEN: Final = GOOD | {"throttled", "outcome_unknown"}
"""What may be said where a fault leaves it open; each but the last has to be true."""


@dataclass(frozen=True, slots=True)
class Column:
    """The faults one request meets, one after the other where the SDK sends it again."""

    faults: tuple[Fault, ...] = ()
    reads: tuple[Fault, ...] = ()
    """What the reads of documents meet meanwhile."""
    refused: bool = False
    """Whether it is known that nothing was written, at whichever try."""


REFUSED: Final = (Fault("429", status=429, headers=(("x-ms-retry-after-ms", "1"),)), Fault("449", status=449), *DENIED)
COLUMNS: Final = {
    **{fault.name: Column((fault,), refused=True) for fault in REFUSED},
    **{f"{fault.name} for long": Column((fault,) * 40, refused=True) for fault in REFUSED},
    "503 before": Column((Fault("503 before", status=503),)),
    "503 after": Column((Fault("503 after", apply=True, status=503),)),
    "503 storm": Column((Fault("503 before", status=503),) * 40),
    "408 after": Column((Fault("408 after", apply=True, status=408),)),
    "500 after": Column((Fault("500 after", apply=True, status=500),)),
    "410": Column((Fault("410", status=410),)),
    "gateway before": Column((Fault("gateway before", status=307, body=b""),)),
    "gateway after": Column((Fault("gateway after", apply=True, status=200, body=b"{}"),)),
    "403.3": Column((Fault("403.3", status=403, headers=(("x-ms-substatus", "3"),)),)),
    "dropped before": Column((Fault("dropped before", drop=True),)),
    "dropped after": Column((Fault("dropped after", apply=True, drop=True),)),
    "answered late": Column((Fault("answered late", apply=True, hold=True),)),
    "applied late": Column((Fault("applied late", hold=True),)),
    "stale read": Column(reads=(STALE_READ,)),
    "503 after, then a stale read": Column((Fault("503 after", apply=True, status=503),), reads=(THROUGH, STALE_READ)),
}


@dataclass(frozen=True, slots=True)
class Cell:
    """The jobs of one cell: others than any other's, so that all cells share a container."""

    name: str

    @property
    def job(self) -> str:
        """The job that is claimed."""
        return f"job-{self.name}"

    @property
    def new(self) -> str:
        """The job that is submitted."""
        return f"new-{self.name}"

    def ask(self, broker: InProcess, op: str, **fields: Any) -> None:
        """Something done to the job before, by whoever may."""
        [told] = broker.ask(broker.caller.make(op, job_id=self.job, **fields))
        assert told["answer"] in GOOD, told

    def prove(self, broker: InProcess, op: str, **fields: Any) -> Request:
        """A request of whoever holds the job."""
        job = read_job(broker.store, self.job)
        assert job is not None
        assert job.lease is not None
        return broker.caller.make(op, job_id=self.job, epoch=job.epoch, token=job.lease.token, **fields)


Make = Callable[[InProcess, Cell], Request]
Happened = Callable[[Job, Request], bool]


@dataclass(frozen=True, slots=True)
class Row:
    """One operation, and which of its requests to the service meets the fault."""

    make: Make
    method: str
    happened: Happened
    nth: int = 1
    held: bool = True
    """Whether the factory holds the job before."""
    epoch: int = 1
    """Of the job in the end."""
    half: bool = False
    """Whether an earlier write of it stands: then it is open what becomes of it, whatever this one meets."""

    def meets(self, column: Column) -> bool:
        """Whether this request can meet these faults: a stale read shows an older version of a job that it reads."""
        if not column.reads:
            return True
        return self.nth == 1 and (self.method == "PUT" or (self.method == "GET" and not column.faults))


def _submitted(_: Job, __: Request) -> bool:
    return True


def granted(job: Job, request: Request) -> bool:
    """Whether the job is leased by this claim."""
    return job.lease is not None and job.lease.request_id == request.request_id


def _ended(state: str) -> Happened:
    return lambda job, _: job.state.value == state


def _given_back(job: Job, _: Request) -> bool:
    return job.lease is None and job.counters.releases == 1


def _failed(job: Job, _: Request) -> bool:
    return job.lease is None and job.counters.failures == 1


def _submit(broker: InProcess, cell: Cell) -> Request:
    return broker.caller.make("submit", job_id=cell.new)


def claim(broker: InProcess, cell: Cell) -> Request:
    """A claim of the cell's job."""
    return broker.caller.make("claim", job_id=cell.job)


def _complete_after_progress(broker: InProcess, cell: Cell) -> Request:
    [told] = broker.ask(cell.prove(broker, "progress", progress=1))
    assert told["answer"] == "ok", told
    return cell.prove(broker, "complete")


def _holder(op: str, **fields: Any) -> Make:
    """What the job's holder asks for."""
    return lambda broker, cell: cell.prove(broker, op, **fields)


def _operator(op: str, *, after: str | None = None) -> Make:
    """What an operator asks for, once `after` was."""

    def make(broker: InProcess, cell: Cell) -> Request:
        if after is not None:
            cell.ask(broker, after)
        return broker.caller.make(op, job_id=cell.job)

    return make


ROWS: Final = {
    "submit, create of the spec": Row(_submit, "POST", _submitted, held=False, epoch=0),
    "submit, create of the job": Row(_submit, "POST", _submitted, nth=2, held=False, epoch=0, half=True),
    "claim, read": Row(claim, "GET", granted, held=False),
    "claim, update": Row(claim, "PUT", granted, held=False),
    "claim the next, update": Row(lambda b, c: b.caller.make("claim", queue=c.job), "PUT", granted, held=False),
    "renew, read": Row(_holder("renew"), "GET", lambda job, _: job.lease is not None and job.lease.renewals > 0),
    "renew, update": Row(_holder("renew"), "PUT", lambda job, _: job.lease is not None and job.lease.renewals > 0),
    "complete, update of the job": Row(_holder("complete"), "PUT", _ended("succeeded")),
    "complete, create of the run": Row(_holder("complete"), "POST", _ended("succeeded"), half=True),
    "complete, update of a run with progress": Row(
        _complete_after_progress, "PUT", _ended("succeeded"), nth=2, half=True
    ),
    "fail, read": Row(_holder("fail"), "GET", _failed),
    "fail, update": Row(_holder("fail"), "PUT", _failed),
    "release, update": Row(_holder("release"), "PUT", _given_back),
    "hand over, update": Row(_holder("hand_over", to="heir"), "PUT", _given_back),
    "revoke, update": Row(_operator("revoke"), "PUT", _given_back),
    "cancel, read": Row(_operator("cancel"), "GET", _ended("cancelled"), held=False, epoch=0),
    "cancel, update": Row(_operator("cancel"), "PUT", _ended("cancelled"), held=False, epoch=0),
    "cancel of a leased job, update": Row(_operator("cancel"), "PUT", lambda job, _: job.cancel is not None),
    "redrive, update": Row(_operator("redrive", after="cancel"), "PUT", _ended("ready"), held=False, epoch=0),
    "hold, update": Row(_operator("hold"), "PUT", lambda job, _: job.hold is not None, held=False, epoch=0),
    "lift, update": Row(_operator("lift", after="hold"), "PUT", lambda job, _: job.hold is None, held=False, epoch=0),
}


def wrong_in(row: Row, cell: Cell, column: Column, broker: InProcess, calm: InProcess, proxy: FaultProxy) -> str | None:
    """What is wrong with the answers of one cell. `calm` does all that meets no fault."""
    _prepare(row, cell, calm)
    request = row.make(calm, cell)
    target = cell.new if row.happened is _submitted else cell.job
    planned = _script(row, column, cell, proxy)
    [reply] = broker.ask(request)
    if proxy.unused() > planned:
        return "the fault met no request: the cell tests nothing"
    proxy.forget()
    job = read_job(calm.store, target)
    happened = job is not None and row.happened(job, request)
    proxy.release()
    answer = reply["answer"]
    if answer not in OPEN:
        return f"{answer}: a claim that nothing supports"
    if (answer in GOOD and not happened) or (answer == "throttled" and happened):
        return f"{answer}, and it {'has' if happened else 'has not'} happened"
    read_again = row.method == "GET" and answer in GOOD
    if column.refused and not row.half and answer != "throttled" and not read_again:
        return f"{answer}, where the write was refused"
    return _not_once(row, request, target, calm)


def _prepare(row: Row, cell: Cell, calm: InProcess) -> None:
    """A job that the proxy has an older version of to show."""
    calm.submit(cell.job, queue=cell.job)
    assert read_job(calm.store, cell.job) is not None
    if row.held:
        calm.ask(claim(calm, cell))
    else:
        cell.ask(calm, "hold")
        cell.ask(calm, "lift")


def _script(row: Row, column: Column, cell: Cell, proxy: FaultProxy) -> int:
    """Plan the faults; how many of them are left at most if they meet what they are for."""
    proxy.hold_again()
    if column.faults:
        of = cell.job if row.method == "GET" else None  # what the fleet or a factory stands at is read too
        proxy.script(row.method, *[THROUGH] * (row.nth - 1), *column.faults, of=of)
    proxy.script("GET", *column.reads, of=cell.job)
    return max(0, len(column.faults) - 1)


def _not_once(row: Row, request: Request, target: str, calm: InProcess) -> str | None:
    """Why a resend does not bring the one effect, with no second epoch and one run with the end its job has."""
    [again] = calm.ask(request.model_copy(update={"attempt": 2}))
    if again["answer"] == "none_available":  # what it was to have is out of the index, which the sweep rebuilds
        calm.sweep()
        [again] = calm.ask(request.model_copy(update={"attempt": 3}))
    if again["answer"] not in GOOD:
        return f"{again['answer']} {again['reason']} to the resend"
    calm.sweep()
    job = read_job(calm.store, target)
    if job is None or not row.happened(job, request) or job.epoch != row.epoch:
        return f"in the end: {job}"
    runs = [read_run(calm.store, job.id, epoch) for epoch in (1, 2)]
    ends = [run.ended_ms is not None for run in runs if run is not None]
    return None if ends == [True] * (job.epoch if job.lease is None else 0) else f"runs with ends: {ends}"
