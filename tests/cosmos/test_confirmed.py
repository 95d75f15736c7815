"""Through `confirm`, a write's verdict is what really happened, whatever the network said about it."""

from collections.abc import Callable

import pytest

from datastore.confirm import ATTEMPTS_MAX, confirmed_create, confirmed_update
from datastore.cosmos import CosmosDatastore
from datastore.errors import OutcomeUnknown
from datastore.interface import Conflict, CreateResult, Document, Expected, Ok, UpdateResult
from tests.cosmos.fault_proxy import Fault, FaultProxy
from tests.cosmos.faults import AMBIGUOUS, LATE, STALE_READ
from tests.processes import wait_for

pytestmark = pytest.mark.cosmos

Pause = Callable[[int], None]


@pytest.fixture
def job(store: CosmosDatastore) -> Document:
    """A stored document at rev 1, which the proxy has seen being read."""
    store.create("job-1", "job-1", {"state": "ready"})
    found = store.read("job-1", "job-1")
    assert isinstance(found, Ok)
    return found.document


def create(store: CosmosDatastore, pause: Pause = lambda _: None) -> CreateResult:
    return confirmed_create(store, "new", "new", {"state": "written"}, write_id="w-1", pause=pause)


def update(store: CosmosDatastore, job: Document, pause: Pause = lambda _: None) -> UpdateResult:
    expected = Expected(etag=job.etag, known=job)
    return confirmed_update(store, job.id, job.id, expected, {"state": "written"}, write_id="w-1", pause=pause)


@pytest.mark.parametrize("fault", AMBIGUOUS, ids=lambda fault: fault.name)
def test_a_create_that_met_a_fault_is_ok_and_there_once(
    store: CosmosDatastore, cosmos_proxy: FaultProxy, fault: Fault
) -> None:
    cosmos_proxy.script("POST", fault)
    result = create(store)
    assert cosmos_proxy.unused() == 0
    assert isinstance(result, Ok)
    assert store.read("new", "new") == result


@pytest.mark.parametrize("fault", AMBIGUOUS, ids=lambda fault: fault.name)
def test_an_update_that_met_a_fault_is_ok_and_applied_once(
    store: CosmosDatastore, cosmos_proxy: FaultProxy, job: Document, fault: Fault
) -> None:
    cosmos_proxy.script("PUT", fault)
    result = update(store, job)
    assert cosmos_proxy.unused() == 0
    assert isinstance(result, Ok)
    assert result.document.rev == 2
    assert store.read(job.id, job.id) == result


@pytest.mark.parametrize("fault", [fault for fault in AMBIGUOUS if fault.apply], ids=lambda fault: fault.name)
def test_a_stale_read_is_not_taken_for_a_write_that_never_happened(
    store: CosmosDatastore, cosmos_proxy: FaultProxy, job: Document, fault: Fault
) -> None:
    cosmos_proxy.script("PUT", fault)
    cosmos_proxy.script("GET", STALE_READ)
    result = update(store, job)
    assert cosmos_proxy.unused() == 0
    assert isinstance(result, Ok)
    assert result.document.rev == 2


@pytest.mark.parametrize("fault", LATE, ids=lambda fault: fault.name)
def test_a_write_that_arrives_after_its_resend_is_refused_by_its_own_precondition(
    store: CosmosDatastore, impatient: CosmosDatastore, cosmos_proxy: FaultProxy, job: Document, fault: Fault
) -> None:
    cosmos_proxy.script("PUT", fault)
    cosmos_proxy.script("POST", fault)
    updated, created = update(impatient, job), create(impatient)
    assert cosmos_proxy.unused() == 0
    cosmos_proxy.release()
    if not fault.apply:
        wait_for(lambda: len(cosmos_proxy.late_statuses) == 2, "both late writes reached the emulator")
        assert sorted(cosmos_proxy.late_statuses) == [409, 412]
    assert isinstance(updated, Ok)
    assert isinstance(created, Ok)
    assert (updated.document.rev, created.document.rev) == (2, 1)
    assert store.read(job.id, job.id) == updated
    assert store.read("new", "new") == created


def test_a_rival_that_comes_between_two_sends_wins(
    store: CosmosDatastore, cosmos_proxy: FaultProxy, job: Document
) -> None:
    def rival_update(_: int) -> None:
        store.update_if_match(job.id, job.id, Expected(etag=job.etag), {"state": "rival"})

    def rival_create(_: int) -> None:
        store.create("new", "new", {"state": "rival"})

    cosmos_proxy.script("PUT", Fault("503 before", status=503))
    cosmos_proxy.script("POST", Fault("503 before", status=503))
    for result in (update(store, job, rival_update), create(store, rival_create)):
        assert isinstance(result, Conflict)
        assert result.current is not None
        assert result.current.body == {"state": "rival"}
    assert cosmos_proxy.unused() == 0


def test_the_answer_stays_open_when_every_send_is_lost(
    store: CosmosDatastore, cosmos_proxy: FaultProxy, job: Document
) -> None:
    cosmos_proxy.script("PUT", *[Fault("503 before", status=503)] * ATTEMPTS_MAX)
    with pytest.raises(OutcomeUnknown):
        update(store, job)
    assert store.read(job.id, job.id) == Ok(job)
