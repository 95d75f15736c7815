"""What the provider says after a fault, against what the emulator really holds."""

from collections.abc import Callable, Iterator
from functools import partial
from uuid import uuid4

import pytest
from azure.cosmos import CosmosClient

from datastore.cosmos import CosmosDatastore
from datastore.cosmos_account import EMULATOR_KEY, CosmosAddress
from datastore.errors import DatastoreError, Denied, NotApplied, OutcomeUnknown, Rejected, Throttled, Unavailable
from datastore.interface import Conflict, Document, Expected, NotFound, Ok, Trouble
from tests.cosmos.fault_proxy import Fault, FaultProxy
from tests.cosmos.faults import AMBIGUOUS, DENIED, ELSEWHERE, GATEWAY, LATE, REFUSED, RETRY_AFTER_MS
from tests.processes import wait_for

pytestmark = pytest.mark.cosmos

Write = Callable[[CosmosDatastore, Document], object]
WRITES: dict[str, tuple[str, Write]] = {
    "create": ("POST", lambda store, _: store.create("new", "new", {"state": "written"})),
    "update": (
        "PUT",
        lambda store, old: store.update_if_match(
            old.id, old.partition_key, Expected(etag=old.etag, known=old), {"state": "written"}
        ),
    ),
}
IDS = {"create": "new", "update": "job-1"}


@pytest.fixture
def witness(cosmos_emulator: int, cosmos_url: str) -> Iterator[CosmosDatastore]:
    """The same container, seen past the faults."""
    address = CosmosAddress.parse(cosmos_url)
    with FaultProxy(cosmos_emulator).running() as honest:
        opened = CosmosDatastore.from_url(cosmos_url.replace(f":{address.port}/", f":{honest.port}/"))
        yield opened
        opened.close()


@pytest.fixture
def job(store: CosmosDatastore, cosmos_proxy: FaultProxy) -> Document:
    """A stored document at rev 1."""
    created = store.create("job-1", "job-1", {"state": "ready"})
    assert isinstance(created, Ok)
    cosmos_proxy.take_requests()
    return created.document


def written(witness: CosmosDatastore, operation: str) -> bool:
    """Whether the emulator holds what `operation` writes."""
    match witness.read(IDS[operation], IDS[operation]):
        case Ok(document):
            return document.body["state"] == "written"
        case NotFound():
            return False


def fail(store: CosmosDatastore, proxy: FaultProxy, operation: str, job: Document, *faults: Fault) -> DatastoreError:
    """What the write raises when it meets `faults`."""
    method, write = WRITES[operation]
    proxy.script(method, *faults)
    with pytest.raises(DatastoreError) as raised:
        write(store, job)
    assert proxy.unused() == 0, "the fault met no request: the test tests nothing"
    return raised.value


@pytest.mark.parametrize("operation", WRITES)
@pytest.mark.parametrize("fault", REFUSED, ids=lambda fault: fault.name)
def test_a_refused_write_is_reported_as_not_written_and_sent_once(
    store: CosmosDatastore,
    witness: CosmosDatastore,
    cosmos_proxy: FaultProxy,
    job: Document,
    fault: Fault,
    operation: str,
) -> None:
    error = fail(store, cosmos_proxy, operation, job, fault)
    assert isinstance(error, NotApplied | Rejected)
    assert len(cosmos_proxy.take_requests()) == 1
    assert not written(witness, operation)


@pytest.mark.parametrize("operation", WRITES)
@pytest.mark.parametrize("fault", [*AMBIGUOUS, *GATEWAY], ids=lambda fault: fault.name)
def test_an_ambiguous_answer_is_outcome_unknown_and_sent_once(
    store: CosmosDatastore,
    witness: CosmosDatastore,
    cosmos_proxy: FaultProxy,
    job: Document,
    fault: Fault,
    operation: str,
) -> None:
    error = fail(store, cosmos_proxy, operation, job, fault)
    assert type(error) is OutcomeUnknown
    assert len(cosmos_proxy.take_requests()) == 1
    assert written(witness, operation) == fault.apply


@pytest.mark.parametrize("operation", WRITES)
@pytest.mark.parametrize("fault", LATE, ids=lambda fault: fault.name)
def test_a_missing_answer_is_outcome_unknown_because_the_write_may_still_land(
    impatient: CosmosDatastore,
    witness: CosmosDatastore,
    cosmos_proxy: FaultProxy,
    job: Document,
    fault: Fault,
    operation: str,
) -> None:
    error = fail(impatient, cosmos_proxy, operation, job, fault)
    assert type(error) is OutcomeUnknown
    assert written(witness, operation) == fault.apply
    cosmos_proxy.release()
    wait_for(lambda: written(witness, operation), "the late write landed")


def test_the_sdk_left_alone_conflicts_with_its_own_write(
    cosmos_url: str, cosmos_proxy: FaultProxy, job: Document
) -> None:
    """The broken twin of the one-send rule: what this provider would answer with the SDK's own transport."""
    address = CosmosAddress.parse(cosmos_url)
    client = CosmosClient(address.endpoint, EMULATOR_KEY, retry_write=0)
    container = client.get_database_client(address.database).get_container_client(address.container)
    twin = CosmosDatastore(client, container)
    cosmos_proxy.script("PUT", Fault("503 after", apply=True, status=503))
    result = twin.update_if_match(job.id, job.id, Expected(etag=job.etag, known=job), {"state": "written"})
    twin.close()
    assert isinstance(result, Conflict), "the SDK no longer repeats a write after a 503: OneSendTransport can go"
    assert result.current is not None
    assert result.current.body == {"state": "written"}, "it lost against nobody but itself"


def test_a_throttled_write_says_how_long_to_wait(
    store: CosmosDatastore, cosmos_proxy: FaultProxy, job: Document
) -> None:
    error = fail(store, cosmos_proxy, "update", job, REFUSED[0])
    assert isinstance(error, Throttled)
    assert error.retry_after_ms == RETRY_AFTER_MS


@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "QUERY"])
@pytest.mark.parametrize("fault", DENIED, ids=lambda fault: fault.name)
def test_a_call_that_is_not_let_in_says_so_asks_once_and_tells_it_each_time(
    cosmos_url: str, cosmos_proxy: FaultProxy, job: Document, fault: Fault, method: str
) -> None:
    told: list[tuple[Trouble, str]] = []
    store = CosmosDatastore.from_url(cosmos_url, on_trouble=lambda *trouble: told.append(trouble))
    calls: dict[str, Callable[[], object]] = {
        "GET": lambda: store.read(job.id, job.id),
        "QUERY": lambda: store.find({"state": "ready"}),
        **{WRITES[each][0]: partial(WRITES[each][1], store, job) for each in WRITES},
    }
    store.find({"state": "ready"})  # what the SDK asks for once has been asked
    cosmos_proxy.take_requests()
    for _ in range(2):
        cosmos_proxy.script(method, fault)
        with pytest.raises(Denied) as raised:
            calls[method]()
        assert told.pop() == (Trouble.DENIED, str(raised.value))
        assert len(cosmos_proxy.take_requests()) == 1, "another try at once meets the same"
    assert told == []
    store.close()


@pytest.mark.parametrize("fault", ELSEWHERE, ids=lambda fault: fault.name)
def test_a_write_that_one_region_refused_is_tried_elsewhere_once(
    store: CosmosDatastore, witness: CosmosDatastore, cosmos_proxy: FaultProxy, job: Document, fault: Fault
) -> None:
    _, update = WRITES["update"]
    cosmos_proxy.script("PUT", fault)
    result = update(store, job)
    assert isinstance(result, Ok)
    assert isinstance(fail(store, cosmos_proxy, "update", result.document, fault, fault), Unavailable)
    assert witness.read(job.id, job.id) == result


def test_a_refused_connection_is_unavailable_because_nothing_was_sent(cosmos_emulator: int) -> None:
    with FaultProxy(cosmos_emulator).running() as proxy:
        store = CosmosDatastore.from_url(f"cosmos://127.0.0.1:{proxy.port}/{uuid4().hex}/jobs?http=1&create=1")
        job = store.create("job-1", "job-1", {})
        assert isinstance(job, Ok)
    with pytest.raises(Unavailable):
        store.create("job-2", "job-2", {})
    store.close()


@pytest.mark.parametrize("fault", [*REFUSED, *ELSEWHERE, *AMBIGUOUS, *GATEWAY], ids=lambda fault: fault.name)
def test_a_read_that_keeps_failing_never_claims_that_a_write_is_in_doubt(
    store: CosmosDatastore, cosmos_proxy: FaultProxy, job: Document, fault: Fault
) -> None:
    cosmos_proxy.script("GET", *[fault] * 5)
    with pytest.raises(DatastoreError) as raised:
        store.read(job.id, job.id)
    assert isinstance(raised.value, NotApplied | Rejected)
    assert len(cosmos_proxy.take_requests()) <= 2, "reads are repeated once at most"


def test_a_read_survives_one_hiccup(store: CosmosDatastore, cosmos_proxy: FaultProxy, job: Document) -> None:
    cosmos_proxy.script("GET", Fault("503", status=503))
    assert store.read(job.id, job.id) == Ok(job)


def test_a_lagging_replica_is_unavailable_not_missing(store: CosmosDatastore, cosmos_proxy: FaultProxy) -> None:
    cosmos_proxy.script("GET", *[ELSEWHERE[1]] * 2)
    with pytest.raises(Unavailable):
        store.read("job-1", "job-1")


def test_a_search_that_fails_is_unavailable(store: CosmosDatastore, cosmos_proxy: FaultProxy) -> None:
    cosmos_proxy.script("QUERY", *[Fault("503", status=503)] * 5)
    with pytest.raises(Unavailable):
        store.find({"state": "ready"})


@pytest.mark.usefixtures("job")
@pytest.mark.parametrize("fault", [fault for fault in GATEWAY if not fault.apply], ids=lambda fault: fault.name)
def test_a_search_that_something_else_answers_is_unavailable_and_does_not_find_nothing(
    store: CosmosDatastore, cosmos_proxy: FaultProxy, fault: Fault
) -> None:
    cosmos_proxy.script("QUERY", *[fault] * 5)
    for filter in ({"state": "ready"}, {"state": "ready", "partition_key": "job-1"}):
        with pytest.raises(Unavailable):
            store.find(filter)


@pytest.mark.usefixtures("job")
@pytest.mark.parametrize(
    ("method", "call", "said"),
    [
        ("GET", lambda store: store.read("job-1", "job-1"), "read 'job-1': "),
        ("POST", lambda store: store.create("new", "new", {}), "create 'new': "),
        ("PUT", lambda store: store.update_if_match("job-1", "job-1", Expected(rev=1), {}), "replace 'job-1': "),
        ("QUERY", lambda store: store.find({"state": "ready", "queue": "q"}), "find 'state, queue': "),
    ],
)
def test_a_failure_names_what_was_asked_of_which_document(
    store: CosmosDatastore,
    cosmos_proxy: FaultProxy,
    method: str,
    call: Callable[[CosmosDatastore], object],
    said: str,
) -> None:
    cosmos_proxy.script(method, Fault("400", status=400))
    with pytest.raises(Rejected, match="scripted") as raised:
        call(store)
    assert str(raised.value).startswith(said)


@pytest.mark.parametrize("operation", WRITES)
def test_an_ambiguous_answer_is_quoted_with_its_status(
    store: CosmosDatastore, cosmos_proxy: FaultProxy, job: Document, operation: str
) -> None:
    fault = Fault("500.1234", status=500, headers=(("x-ms-substatus", "1234"),))
    assert "500/1234" in str(fail(store, cosmos_proxy, operation, job, fault))


def test_a_conflict_whose_reason_can_not_be_read_is_still_a_conflict(
    store: CosmosDatastore, cosmos_proxy: FaultProxy, job: Document
) -> None:
    _, update = WRITES["update"]
    assert isinstance(update(store, job), Ok)
    cosmos_proxy.script("GET", *[Fault("503", status=503)] * 5)
    assert update(store, job) == Conflict(None)


def test_a_conflict_with_what_is_gone_again_is_still_a_conflict(
    store: CosmosDatastore, cosmos_proxy: FaultProxy
) -> None:
    cosmos_proxy.script("POST", Fault("409", status=409))
    assert store.create("new", "new", {}) == Conflict(None)


def test_a_stale_replica_does_not_explain_a_conflict(
    store: CosmosDatastore, cosmos_proxy: FaultProxy, job: Document
) -> None:
    assert store.read(job.id, job.id) == Ok(job)
    _, update = WRITES["update"]
    assert isinstance(update(store, job), Ok)
    cosmos_proxy.script("GET", Fault("stale read", stale=True))
    assert update(store, job) == Conflict(None)
