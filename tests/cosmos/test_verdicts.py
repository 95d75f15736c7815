"""Every operation of the broker under every fault of the service: the answer is what really happened (design §5).

One cell is one operation with one fault at one of its requests, through the SDK's real retry paths.
`tests/cosmos/verdicts.py` says what may be answered.
"""

from collections.abc import Iterator
from typing import Final

import pytest
import redis

from broker import coordinator
from broker.claim_next import answer_key, claim_id
from broker.messages import Claim
from broker.repository import read_job
from broker.runs import read_run
from broker.settlement import judge_and_write
from datastore import (
    CreateResult,
    DatastoreError,
    Denied,
    Expected,
    NotApplied,
    Ok,
    OutcomeUnknown,
    Rejected,
    Unavailable,
)
from datastore.cosmos import CosmosDatastore
from datastore.interface import Body, Patch, UpdateResult
from tests.cosmos.fault_proxy import FaultProxy
from tests.cosmos.faults import DENIED, STALE_READ
from tests.cosmos.verdicts import COLUMNS, ROWS, Cell, Column, granted, wrong_in
from tests.in_process import SKEW_MS, TTL_MS, InProcess
from tests.twins.forwarding import Forwarding

pytestmark = pytest.mark.cosmos

READ_TIMEOUT_MS: Final = 200
ALONE: Final = {name: column for name, column in COLUMNS.items() if not column.reads}
"""The faults of one kind of request."""


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
        if row.meets(COLUMNS[column])
        and (found := wrong_in(row, Cell(str(number)), COLUMNS[column], broker, calm, cosmos_proxy))
    }
    assert wrong == {}


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


class TooUnsure(Forwarding):
    """Says of every write that failed that it may have been made."""

    def create(self, id: str, partition_key: str, body: Body) -> CreateResult:
        try:
            return self.inner.create(id, partition_key, body)
        except NotApplied as error:
            raise OutcomeUnknown(str(error)) from error

    def update_if_match(self, id: str, partition_key: str, expected: Expected, patch: Patch) -> UpdateResult:
        try:
            return self.inner.update_if_match(id, partition_key, expected, patch)
        except NotApplied as error:
            raise OutcomeUnknown(str(error)) from error


KNOWN: Final = [name for name, column in COLUMNS.items() if column.refused]
WRITES: Final = [name for name, row in ROWS.items() if row.method != "GET" and not row.half]


@pytest.mark.parametrize("name", WRITES)
def test_a_store_that_takes_a_refusal_for_silence_is_found_out(
    store: CosmosDatastore, calm: InProcess, cosmos_proxy: FaultProxy, name: str
) -> None:
    broken = InProcess(TooUnsure(store), calm.redis)
    broken.caller = calm.caller
    for number, column in enumerate(KNOWN):
        found = wrong_in(ROWS[name], Cell(str(number)), COLUMNS[column], broken, calm, cosmos_proxy)
        assert found is not None, column
        # Once it is refused, the second send of what was not in doubt is good; for long, no send is.
        assert found.endswith(", where the write was refused"), (column, found)
        assert found.startswith("outcome_unknown") == column.endswith("for long"), (column, found)


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
    for number, (name, column) in enumerate(ALONE.items()):
        cell = Cell(str(number))
        calm.submit(cell.job, queue=cell.job)
        claim = calm.caller.make("claim", queue=cell.job)
        [first] = calm.ask(claim)
        calm.submit(cell.new, queue=cell.job)
        assert isinstance(claim, Claim)
        calm.redis.delete(answer_key(claim_id(claim)))  # as if lost by Redis, so that the store has to be searched
        cosmos_proxy.hold_again()
        cosmos_proxy.script("QUERY", *column.faults)
        planned = cosmos_proxy.unused()
        [second] = broker.ask(claim.model_copy(update={"attempt": 2}))
        assert cosmos_proxy.unused() < planned, "the fault met no search: the cell tests nothing"
        cosmos_proxy.forget()
        cosmos_proxy.release()
        [third] = calm.ask(claim.model_copy(update={"attempt": 3}))
        told = [reply["body"] for reply in (second, third) if reply["answer"] != "outcome_unknown"]
        if not told or any((body.get("job_id"), body.get("epoch")) != (cell.job, 1) for body in (first["body"], *told)):
            wrong[name] = (second["answer"], third["answer"])
    assert wrong == {}


def wrong_in_reap(column: Column, broker: InProcess, calm: InProcess, proxy: FaultProxy) -> str | None:
    """What is wrong with what a sweep says of a lease that is over, where its write meets these faults."""
    calm.submit("job")
    assert calm.ask(calm.caller.make("claim", job_id="job"))[0]["answer"] == "granted"
    for each in (broker, calm):
        each.clock.advance(TTL_MS + SKEW_MS + 1)
    proxy.script("PUT", *column.faults, of="job")
    planned = proxy.unused()
    said = broker.sweep().reaped
    if proxy.unused() == planned:
        return "the fault met no request: the cell tests nothing"
    proxy.forget()
    job = read_job(calm.store, "job")
    happened = job is not None and job.lease is None
    proxy.release()
    if said and (column.refused or not happened):
        return "it says that it has reaped what it has not"
    calm.sweep()
    job, run = read_job(calm.store, "job"), read_run(calm.store, "job", 1)
    once = job is not None and (job.lease, job.counters.expiries) == (None, 1)
    return None if once and run is not None and run.outcome == "expired" else f"in the end: {job} {run}"


@pytest.mark.parametrize("column", ALONE)
def test_a_sweep_says_that_it_has_reaped_what_it_has_and_the_next_one_does_the_rest(
    broker: InProcess, calm: InProcess, cosmos_proxy: FaultProxy, column: str
) -> None:
    assert wrong_in_reap(ALONE[column], broker, calm, cosmos_proxy) is None


class TooQuick(Forwarding):
    """Takes what it reads after a lost answer for what is so: where nothing has changed, nothing was written."""

    def update_if_match(self, id: str, partition_key: str, expected: Expected, patch: Patch) -> UpdateResult:
        try:
            return self.inner.update_if_match(id, partition_key, expected, patch)
        except OutcomeUnknown as error:
            found = self.inner.read(id, partition_key)
            if isinstance(found, Ok) and expected.known is not None and found.document.rev <= expected.known.rev:
                raise Unavailable(str(error)) from error
            raise


@pytest.mark.parametrize(
    ("column", "answer"), [("503 after", None), ("503 after, then a stale read", "throttled, and it has happened")]
)
def test_a_store_that_believes_a_read_after_a_lost_answer_is_found_out_by_a_stale_one(
    store: CosmosDatastore, calm: InProcess, cosmos_proxy: FaultProxy, column: str, answer: str | None
) -> None:
    broken = InProcess(TooQuick(store), calm.redis)
    broken.caller = calm.caller
    assert wrong_in(ROWS["claim, update"], Cell("x"), COLUMNS[column], broken, calm, cosmos_proxy) == answer


@pytest.mark.parametrize("name", ["fail, read", "release, update", "hand over, update"])
def test_a_broker_that_believes_a_stale_read_against_its_holder_is_found_out(
    broker: InProcess, calm: InProcess, cosmos_proxy: FaultProxy, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr(coordinator, "judge_and_write", lambda *known, **_: judge_and_write(*known))
    found = wrong_in(ROWS[name], Cell("x"), COLUMNS["stale read"], broker, calm, cosmos_proxy)
    assert found == "invalid: a claim that nothing supports"


class TooTrusting(Forwarding):
    """Says of every update that failed that it was made."""

    def update_if_match(self, id: str, partition_key: str, expected: Expected, patch: Patch) -> UpdateResult:
        try:
            return self.inner.update_if_match(id, partition_key, expected, patch)
        except DatastoreError:
            assert expected.known is not None
            return Ok(expected.known)


@pytest.mark.parametrize("column", KNOWN)
def test_a_sweep_on_a_store_that_takes_a_failure_for_done_is_found_out(
    store: CosmosDatastore, calm: InProcess, cosmos_proxy: FaultProxy, column: str
) -> None:
    broken = InProcess(TooTrusting(store), calm.redis)
    assert wrong_in_reap(ALONE[column], broken, calm, cosmos_proxy) == "it says that it has reaped what it has not"


def test_a_claim_on_a_stale_read_is_told_who_holds_the_job(
    broker: InProcess, calm: InProcess, cosmos_proxy: FaultProxy
) -> None:
    calm.submit("job")
    assert read_job(calm.store, "job") is not None, "so that the proxy has an old version to show"
    [rival] = calm.ask(calm.caller.make("claim", job_id="job"))
    assert rival["answer"] == "granted"
    cosmos_proxy.script("GET", STALE_READ, of="job")
    claim = calm.caller.make("claim", job_id="job")
    [reply] = broker.ask(claim)
    assert cosmos_proxy.unused() == 0
    assert (reply["answer"], reply["reason"], reply["body"]["epoch"]) == ("conflict", "held", 1)
    job = read_job(calm.store, "job")
    assert job is not None
    assert not granted(job, claim)
