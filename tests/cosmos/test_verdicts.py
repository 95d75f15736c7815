"""Every operation of the broker under every fault of the service: the answer is what really happened (design §5).

One cell is one operation with one fault at one of its requests, through the SDK's real retry paths. A good answer: it
has happened. `throttled`: it has not. `outcome_unknown` claims nothing. And the same request id, sent again when the
service is well, is answered well and has taken effect once.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Final

import pytest
import redis

from broker.claim_next import answer_key, claim_id
from broker.documents import Job
from broker.messages import Claim, Request
from broker.repository import read_job
from broker.runs import read_run
from datastore import CreateResult, Denied, Expected, OutcomeUnknown, Rejected, Unavailable
from datastore.cosmos import CosmosDatastore
from datastore.interface import Body, Patch, UpdateResult
from tests.cosmos.fault_proxy import Fault, FaultProxy
from tests.cosmos.faults import DENIED
from tests.in_process import InProcess
from tests.twins.forwarding import Forwarding

pytestmark = pytest.mark.cosmos

THROUGH: Final = Fault("let by", apply=True)
READ_TIMEOUT_MS: Final = 200
GOOD: Final = frozenset({"ok", "granted", "renewed", "replayed"})

COLUMNS: Final = {
    "429": (Fault("429", status=429, headers=(("x-ms-retry-after-ms", "5"),)),),
    "429 storm": (Fault("429", status=429, headers=(("x-ms-retry-after-ms", "1"),)),) * 40,
    "449": (Fault("449", status=449),),
    "503 before": (Fault("503 before", status=503),),
    "503 after": (Fault("503 after", apply=True, status=503),),
    "503 storm": (Fault("503 before", status=503),) * 40,
    "408 after": (Fault("408 after", apply=True, status=408),),
    "500 after": (Fault("500 after", apply=True, status=500),),
    "410": (Fault("410", status=410),),
    "gateway before": (Fault("gateway before", status=307, body=b""),),
    "gateway after": (Fault("gateway after", apply=True, status=200, body=b"{}"),),
    "403.3": (Fault("403.3", status=403, headers=(("x-ms-substatus", "3"),)),),
    **{fault.name: (fault,) for fault in DENIED},
    **{f"{fault.name} for long": (fault,) * 40 for fault in DENIED},
    "dropped before": (Fault("dropped before", drop=True),),
    "dropped after": (Fault("dropped after", apply=True, drop=True),),
    "answered late": (Fault("answered late", apply=True, hold=True),),
    "applied late": (Fault("applied late", hold=True),),
}
"""The faults one request meets, one after the other where the SDK sends it again."""


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

    def prove(self, broker: InProcess, op: str, **fields: Any) -> Request:
        """A request of whoever holds the job."""
        job = read_job(broker.store, self.job)
        assert job is not None
        assert job.lease is not None
        return broker.caller.make(op, job_id=self.job, epoch=job.epoch, token=job.lease.token, **fields)


Make = Callable[[InProcess, Cell], Request]
Happened = Callable[[Job | None, Request], bool]


@dataclass(frozen=True, slots=True)
class Row:
    """One operation, and which of its requests to the service meets the fault."""

    make: Make
    method: str
    nth: int
    happened: Happened
    held: bool = True
    """Whether the factory holds the job before."""


def _submitted(job: Job | None, _: Request) -> bool:
    return job is not None


def _granted(job: Job | None, request: Request) -> bool:
    return job is not None and job.lease is not None and job.lease.request_id == request.request_id


def _renewed(job: Job | None, _: Request) -> bool:
    return job is not None and job.lease is not None and job.lease.renewals > 0


def _ended(state: str) -> Happened:
    return lambda job, _: job is not None and job.state.value == state


def _submit(broker: InProcess, cell: Cell) -> Request:
    return broker.caller.make("submit", job_id=cell.new)


def _claim(broker: InProcess, cell: Cell) -> Request:
    return broker.caller.make("claim", job_id=cell.job)


def _complete_after_progress(broker: InProcess, cell: Cell) -> Request:
    [told] = broker.ask(cell.prove(broker, "progress", progress=1))
    assert told["answer"] == "ok", told
    return cell.prove(broker, "complete")


ROWS: Final = {
    "submit, create of the spec": Row(_submit, "POST", 1, _submitted),
    "submit, create of the job": Row(_submit, "POST", 2, _submitted),
    "claim, read": Row(_claim, "GET", 1, _granted, held=False),
    "claim, update": Row(_claim, "PUT", 1, _granted, held=False),
    "claim the next, update": Row(lambda b, c: b.caller.make("claim", queue=c.job), "PUT", 1, _granted, held=False),
    "renew, update": Row(lambda b, c: c.prove(b, "renew"), "PUT", 1, _renewed),
    "complete, update of the job": Row(lambda b, c: c.prove(b, "complete"), "PUT", 1, _ended("succeeded")),
    "complete, create of the run": Row(lambda b, c: c.prove(b, "complete"), "POST", 1, _ended("succeeded")),
    "complete, update of a run with progress": Row(_complete_after_progress, "PUT", 2, _ended("succeeded")),
}


@pytest.fixture
def store(cosmos_url: str) -> Iterator[CosmosDatastore]:
    opened = CosmosDatastore.from_url(cosmos_url, read_timeout_ms=READ_TIMEOUT_MS)
    yield opened
    opened.close()


@pytest.fixture
def calm(cosmos_store: CosmosDatastore, redis_client: redis.Redis) -> InProcess:
    """A broker that waits longer, for all but the requests that meet a fault."""
    return InProcess(cosmos_store, redis_client)


@pytest.fixture
def broker(store: CosmosDatastore, calm: InProcess) -> InProcess:
    """The broker that meets the faults."""
    made = InProcess(store, calm.redis)
    made.caller = calm.caller
    return made


@pytest.mark.parametrize("name", ROWS)
def test_the_answer_is_what_really_happened(
    broker: InProcess, calm: InProcess, cosmos_proxy: FaultProxy, name: str
) -> None:
    row = ROWS[name]
    wrong = {
        column: found
        for number, column in enumerate(COLUMNS)
        if (found := wrong_in(row, Cell(str(number)), COLUMNS[column], broker, calm, cosmos_proxy))
    }
    assert wrong == {}


def wrong_in(
    row: Row, cell: Cell, faults: tuple[Fault, ...], broker: InProcess, calm: InProcess, proxy: FaultProxy
) -> str | None:
    """What is wrong with the answers of one cell."""
    calm.submit(cell.job, queue=cell.job)
    if row.held:
        calm.ask(_claim(calm, cell))
    request = row.make(calm, cell)
    target = cell.new if row.happened is _submitted else cell.job
    proxy.hold_again()
    proxy.script(row.method, *[THROUGH] * (row.nth - 1), *faults)
    planned = proxy.unused()
    [reply] = broker.ask(request)
    if proxy.unused() > planned - row.nth:
        return "the fault met no request: the cell tests nothing"
    proxy.forget()
    happened = row.happened(read_job(calm.store, target), request)
    proxy.release()
    answer = reply["answer"]
    if answer not in GOOD | {"throttled", "outcome_unknown"}:
        return f"{answer}: a claim that nothing supports"
    if (answer in GOOD and not happened) or (answer == "throttled" and happened):
        return f"{answer}, and it {'has' if happened else 'has not'} happened"
    return _not_once(row, request, target, calm)


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
    if job is None or not row.happened(job, request) or job.epoch != (0 if row.happened is _submitted else 1):
        return f"in the end: {job}"
    runs = [read_run(calm.store, job.id, epoch) for epoch in (1, 2)]
    ends = [run.ended_ms is not None for run in runs if run is not None]
    return None if ends == [True] * (job.epoch if job.lease is None else 0) else f"runs with ends: {ends}"


class TooSure(Forwarding):
    """Says of every write that got no answer that nothing was written."""

    def update_if_match(self, id: str, partition_key: str, expected: Expected, patch: Patch) -> UpdateResult:
        try:
            return self.inner.update_if_match(id, partition_key, expected, patch)
        except OutcomeUnknown as error:
            raise Unavailable(str(error)) from error


class TooFinal(Forwarding):
    """Says of a call that was not let in that it would fail wherever it is made."""

    def create(self, id: str, partition_key: str, body: Body) -> CreateResult:
        try:
            return self.inner.create(id, partition_key, body)
        except Denied as error:
            raise Rejected(str(error)) from error

    def update_if_match(self, id: str, partition_key: str, expected: Expected, patch: Patch) -> UpdateResult:
        try:
            return self.inner.update_if_match(id, partition_key, expected, patch)
        except Denied as error:
            raise Rejected(str(error)) from error


@pytest.mark.parametrize("name", ["submit, create of the spec", "claim, update", "renew, update"])
@pytest.mark.parametrize("column", [fault.name for fault in DENIED])
def test_a_store_that_blames_the_request_where_it_is_not_let_in_is_found_out(
    store: CosmosDatastore, calm: InProcess, cosmos_proxy: FaultProxy, name: str, column: str
) -> None:
    broken = InProcess(TooFinal(store), calm.redis)
    broken.caller = calm.caller
    found = wrong_in(ROWS[name], Cell("x"), COLUMNS[column], broken, calm, cosmos_proxy)
    assert found == "invalid: a claim that nothing supports"


def test_a_store_that_takes_silence_for_a_refusal_is_found_out(
    store: CosmosDatastore, calm: InProcess, cosmos_proxy: FaultProxy
) -> None:
    broken = InProcess(TooSure(store), calm.redis)
    broken.caller = calm.caller
    found = wrong_in(ROWS["claim, update"], Cell("x"), COLUMNS["503 after"], broken, calm, cosmos_proxy)
    assert found == "throttled, and it has happened"


def test_a_resent_claim_next_never_gets_another_job_because_a_search_failed(
    broker: InProcess, calm: InProcess, cosmos_proxy: FaultProxy
) -> None:
    wrong = {}
    for number, (column, faults) in enumerate(COLUMNS.items()):
        cell = Cell(str(number))
        calm.submit(cell.job, queue=cell.job)
        claim = calm.caller.make("claim", queue=cell.job)
        [first] = calm.ask(claim)
        calm.submit(cell.new, queue=cell.job)
        assert isinstance(claim, Claim)
        calm.redis.delete(answer_key(claim_id(claim)))  # as if lost by Redis, so that the store has to be searched
        cosmos_proxy.hold_again()
        cosmos_proxy.script("QUERY", *faults)
        planned = cosmos_proxy.unused()
        [second] = broker.ask(claim.model_copy(update={"attempt": 2}))
        assert cosmos_proxy.unused() < planned, "the fault met no search: the cell tests nothing"
        cosmos_proxy.forget()
        cosmos_proxy.release()
        [third] = calm.ask(claim.model_copy(update={"attempt": 3}))
        told = [reply["body"] for reply in (second, third) if reply["answer"] != "outcome_unknown"]
        if not told or any((body.get("job_id"), body.get("epoch")) != (cell.job, 1) for body in (first["body"], *told)):
            wrong[column] = (second["answer"], third["answer"])
    assert wrong == {}


@pytest.mark.parametrize("lost", ["503 after", "408 after", "500 after", "dropped after"])
def test_a_stale_read_after_a_lost_answer_hides_no_write(
    broker: InProcess, calm: InProcess, cosmos_proxy: FaultProxy, lost: str
) -> None:
    calm.submit("job")
    assert read_job(calm.store, "job") is not None, "so that the proxy has an old version to show"
    claim = calm.caller.make("claim", job_id="job")
    cosmos_proxy.script("PUT", *COLUMNS[lost])
    cosmos_proxy.script("GET", THROUGH, Fault("stale read", stale=True))
    [reply] = broker.ask(claim)
    cosmos_proxy.forget()
    assert reply["answer"] == "granted"
    assert _granted(read_job(calm.store, "job"), claim)


def test_a_claim_on_a_stale_read_is_told_who_holds_the_job(
    broker: InProcess, calm: InProcess, cosmos_proxy: FaultProxy
) -> None:
    calm.submit("job")
    assert read_job(calm.store, "job") is not None, "so that the proxy has an old version to show"
    [rival] = calm.ask(calm.caller.make("claim", job_id="job"))
    assert rival["answer"] == "granted"
    cosmos_proxy.script("GET", Fault("stale read", stale=True))
    claim = calm.caller.make("claim", job_id="job")
    [reply] = broker.ask(claim)
    assert cosmos_proxy.unused() == 0
    assert (reply["answer"], reply["reason"], reply["body"]["epoch"]) == ("conflict", "held", 1)
    assert not _granted(read_job(calm.store, "job"), claim)
