"""What is particular to the Cosmos provider: what it sends, stores and refuses to store."""

import os
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier, Lock
from typing import Any
from uuid import uuid4

import pytest
from azure.cosmos import ContainerProxy, CosmosClient

from datastore.cosmos import CosmosDatastore
from datastore.cosmos_account import EMULATOR_KEY, CosmosAddress
from datastore.cosmos_query import build_query
from datastore.errors import Corrupt, Rejected, Unavailable
from datastore.interface import UNSET, AnyOf, AtMost, Conflict, Document, Expected, Filter, JsonValue, NotFound, Ok
from tests.cosmos.fault_proxy import FaultProxy

pytestmark = pytest.mark.cosmos

CLAIMANTS = 50


def created(store: CosmosDatastore, id: str, **body: JsonValue) -> Document:
    result = store.create(id, id, body)
    assert isinstance(result, Ok)
    return result.document


def raw_container(client: CosmosClient, url: str) -> ContainerProxy:
    address = CosmosAddress.parse(url)
    return client.get_database_client(address.database).get_container_client(address.container)


def wins(store: CosmosDatastore) -> int:
    """How many of `CLAIMANTS` threads win one race for one version of one document."""
    job = created(store, f"job-{uuid4().hex}", state="ready")
    start = Barrier(CLAIMANTS)

    def claim(claimant: int) -> bool:
        start.wait()
        expected = Expected(etag=job.etag, known=job)
        return isinstance(store.update_if_match(job.id, job.id, expected, {"holder": claimant}), Ok)

    with ThreadPoolExecutor(CLAIMANTS) as pool:
        return sum(pool.map(claim, range(CLAIMANTS)))


def test_of_fifty_concurrent_replaces_with_one_etag_exactly_one_wins(cosmos_store: CosmosDatastore) -> None:
    assert [wins(cosmos_store) for _ in range(3)] == [1, 1, 1]


def test_the_race_is_lost_on_an_account_that_ignores_if_match(cosmos_emulator: int) -> None:
    """The broken twin of the race above."""
    with FaultProxy(cosmos_emulator, ignore_if_match=True).running() as proxy:
        store = CosmosDatastore.from_url(f"cosmos://127.0.0.1:{proxy.port}/{uuid4().hex}/jobs?http=1&create=1")
        assert wins(store) == CLAIMANTS
        store.close()


def test_a_replace_of_a_known_version_is_one_request(cosmos_store: CosmosDatastore, cosmos_proxy: FaultProxy) -> None:
    job = created(cosmos_store, "job-1")
    cosmos_proxy.take_requests()
    assert isinstance(cosmos_store.update_if_match("job-1", "job-1", Expected(etag=job.etag, known=job), {}), Ok)
    assert [method for method, _ in cosmos_proxy.take_requests()] == ["PUT"]


@pytest.mark.parametrize("by", ["etag", "rev"])
def test_a_replace_of_a_version_not_at_hand_is_two_requests(
    cosmos_store: CosmosDatastore, cosmos_proxy: FaultProxy, by: str
) -> None:
    job = created(cosmos_store, "job-1")
    expected = Expected(etag=job.etag) if by == "etag" else Expected(rev=1)
    cosmos_proxy.take_requests()
    assert isinstance(cosmos_store.update_if_match("job-1", "job-1", expected, {}), Ok)
    assert [method for method, _ in cosmos_proxy.take_requests()] == ["GET", "PUT"]


def test_a_known_document_of_another_id_is_not_written_over_this_one(cosmos_store: CosmosDatastore) -> None:
    other, job = created(cosmos_store, "other", secret="x"), created(cosmos_store, "job-1")
    result = cosmos_store.update_if_match("job-1", "job-1", Expected(etag=other.etag, known=other), {})
    assert result == Conflict(job)


def test_a_create_of_what_is_there_shows_what_is_there(cosmos_store: CosmosDatastore) -> None:
    job = created(cosmos_store, "job-1", by="first")
    assert cosmos_store.create("job-1", "job-1", {"by": "second"}) == Conflict(job)


def test_an_item_is_the_body_with_id_pk_and_rev(cosmos_store: CosmosDatastore, cosmos_url: str) -> None:
    job = created(cosmos_store, "job-1", state="ready", note=None)
    cosmos_store.update_if_match("job-1", "job-1", Expected(rev=1), {"state": UNSET, "lease": {"epoch": 1}})
    with CosmosClient(CosmosAddress.parse(cosmos_url).endpoint, EMULATOR_KEY) as client:
        item = raw_container(client, cosmos_url).read_item("job-1", "job-1")
    ours = {name: value for name, value in item.items() if not name.startswith("_")}
    assert ours == {"id": "job-1", "pk": "job-1", "rev": 2, "note": None, "lease": {"epoch": 1}}
    assert item["_etag"] != job.etag


@pytest.mark.parametrize("item", [{}, {"rev": "1"}, {"rev": 1, "etag": "stolen name"}], ids=repr)
def test_an_item_that_somebody_else_wrote_is_corrupt_and_left_alone(
    cosmos_store: CosmosDatastore, cosmos_url: str, item: dict[str, Any]
) -> None:
    with CosmosClient(CosmosAddress.parse(cosmos_url).endpoint, EMULATOR_KEY) as client:
        raw_container(client, cosmos_url).create_item({"id": "x", "pk": "x", **item})
    calls: tuple[Callable[[], object], ...] = (
        lambda: cosmos_store.read("x", "x"),
        lambda: cosmos_store.update_if_match("x", "x", Expected(rev=1), {}),
    )
    for call in calls:
        with pytest.raises(Corrupt):
            call()
    behind = [cosmos_store.create(name, "x", {}) for name in ("y", "z")]
    first = cosmos_store.find({"partition_key": "x"}, limit=1)
    second = cosmos_store.find({"partition_key": "x"}, limit=1, cursor=first.cursor)
    assert [Ok(document) for page in (first, second) for document in page.documents] == behind
    [unreadable] = first.unreadable
    assert "'x'" in unreadable


@pytest.mark.parametrize("name", ["pk", "ttl", "_etag", "_ts", "_rid", "_self", "_attachments"])
def test_a_field_name_that_the_service_uses_is_rejected(cosmos_store: CosmosDatastore, name: str) -> None:
    with pytest.raises(Rejected, match=name):
        cosmos_store.create("job-1", "job-1", {name: 60})
    job = created(cosmos_store, "job-1")
    with pytest.raises(Rejected, match=name):
        cosmos_store.update_if_match("job-1", "job-1", Expected(etag=job.etag), {name: 60})
    assert cosmos_store.read("job-1", "job-1") == Ok(job)


def test_every_name_that_the_service_uses_is_named(cosmos_store: CosmosDatastore) -> None:
    with pytest.raises(Rejected, match="keeps pk, ttl for itself"):
        cosmos_store.create("job-1", "job-1", {"ttl": 60, "pk": "x"})


@pytest.mark.parametrize("number", [2**53, -(2**53)])
def test_an_integer_up_to_where_rounding_begins_is_stored(cosmos_store: CosmosDatastore, number: int) -> None:
    assert created(cosmos_store, "job-1", n=number).body["n"] == number


@pytest.mark.parametrize("number", [2**53 + 1, -(2**60), -(2**53) - 1])
def test_an_integer_that_would_come_back_rounded_is_rejected(cosmos_store: CosmosDatastore, number: int) -> None:
    with pytest.raises(Rejected, match=r"^'job-1': .*rounds"):
        cosmos_store.create("job-1", "job-1", {"payload": [{"account": number}]})
    assert cosmos_store.read("job-1", "job-1") == NotFound()


@pytest.mark.parametrize("id", ["", ".", "..", "a/b", "a\\b", "a?", "a#", "a ", "é" * 512])
def test_an_id_that_cosmos_can_not_hold_is_rejected(cosmos_store: CosmosDatastore, id: str) -> None:
    with pytest.raises(Rejected, match="can't be an id"):
        cosmos_store.create(id, "job-1", {})


@pytest.mark.parametrize("id", ["job-1:run:7", "a b%20c", "é+&=", "X", "x" * 1_023])
def test_an_unusual_id_is_read_back(cosmos_store: CosmosDatastore, id: str) -> None:
    job = created(cosmos_store, id)
    assert cosmos_store.read(id, id) == Ok(job)
    updated = cosmos_store.update_if_match(id, id, Expected(etag=job.etag, known=job), {})
    assert isinstance(updated, Ok)
    assert cosmos_store.find({"partition_key": id}).documents == (updated.document,)


def test_a_search_pages_in_order_of_partition_key_and_id(cosmos_store: CosmosDatastore) -> None:
    keys = [("b", "1"), ("a", "2"), ("b", "2"), ("c", "1"), ("a", "1")]
    for partition_key, name in keys:
        cosmos_store.create(name, partition_key, {"lease": {"expires_ms": 5}})
    cosmos_store.create("9", "a", {"lease": {"expires_ms": 6}})
    cosmos_store.create("9", "b", {"lease": None})
    found, cursor, pages = [], None, 0
    while pages == 0 or cursor is not None:
        page = cosmos_store.find({"lease.expires_ms": AtMost(5)}, limit=2, cursor=cursor)
        found += [(document.partition_key, document.id) for document in page.documents]
        cursor, pages = page.cursor, pages + 1
        assert pages <= 3
    assert found == sorted(keys)


@pytest.mark.parametrize(
    ("filter", "limit", "items", "partition", "all_partitions"),
    [
        ({"partition_key": "job-1"}, 2, "3", '["job-1"]', None),
        ({"state": "ready"}, 2, "3", None, "True"),
        ({"state": "ready"}, 998, "999", None, "True"),
        ({"state": "ready"}, 2_000, "1000", None, "True"),
    ],
)
def test_a_search_asks_where_it_has_to_and_for_one_more_than_a_page_at_a_time(
    cosmos_store: CosmosDatastore,
    cosmos_proxy: FaultProxy,
    filter: Filter,
    limit: int,
    items: str,
    partition: str | None,
    all_partitions: str | None,
) -> None:
    cosmos_store.find(filter, limit)
    [headers] = cosmos_proxy.searches
    assert headers["x-ms-max-item-count"] == items
    assert headers.get("x-ms-documentdb-partitionkey") == partition
    assert headers.get("x-ms-documentdb-query-enablecrosspartition") == all_partitions


def test_a_page_of_a_search_is_one_request_however_much_there_is(
    cosmos_store: CosmosDatastore, cosmos_proxy: FaultProxy
) -> None:
    for number in range(5):
        cosmos_store.create(f"{number}", "p", {})
    assert len(cosmos_store.find({"partition_key": "p"}, 2).documents) == 2
    assert len(cosmos_proxy.searches) == 1


def test_a_search_for_one_of_nothing_is_sent_in_words_the_service_knows() -> None:
    # The emulator takes an empty list, the service does not.
    assert "IN ()" not in build_query({"state": AnyOf(()), "queue": "q"}, None).sql


def test_a_value_in_a_filter_is_never_part_of_the_query_text(cosmos_store: CosmosDatastore) -> None:
    created(cosmos_store, "job-1", state="ready")
    for value in ('" OR 1=1 OR c.state = "', "' OR true --"):
        assert cosmos_store.find({"state": value}).documents == ()
        assert cosmos_store.find({"state": AnyOf((value,))}).documents == ()
    with pytest.raises(ValueError, match="can't be filtered by"):
        cosmos_store.find({'state"] OR true --': "x"})


def test_request_units_are_reported_for_each_request(cosmos_url: str) -> None:
    charges: list[tuple[str, float]] = []
    lock = Lock()

    def on_charge(operation: str, units: float) -> None:
        with lock:
            charges.append((operation, units))

    store = CosmosDatastore.from_url(cosmos_url, on_charge=on_charge)
    with lock:
        charges.clear()
    job = created(store, "job-1")
    store.update_if_match("job-1", "job-1", Expected(etag=job.etag, known=job), {})
    store.update_if_match("job-1", "job-1", Expected(etag=job.etag, known=job), {})
    store.find({})
    store.close()
    # The second replace lost: a 412 is charged too, and so is the read that says who won.
    assert charges == [("create", 1.0), ("replace", 1.0), ("replace", 1.0), ("read", 1.0), ("query", 1.0)]


def test_a_closed_store_says_so(cosmos_url: str) -> None:
    store = CosmosDatastore.from_url(cosmos_url)
    store.close()
    store.close()
    with pytest.raises(Unavailable, match="closed"):
        store.read("job-1", "job-1")


def test_a_store_opened_before_a_fork_refuses_to_share_its_connections(
    cosmos_store: CosmosDatastore, cosmos_proxy: FaultProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    cosmos_proxy.take_requests()
    monkeypatch.setattr(os, "getpid", lambda: 0)  # what a forked child sees: another number
    with pytest.raises(Rejected, match="open one in each process"):
        cosmos_store.create("job-1", "job-1", {})
    assert cosmos_proxy.take_requests() == []


def test_a_number_that_comes_back_as_an_integer_keeps_nobody_from_writing_its_document(
    cosmos_store: CosmosDatastore,
) -> None:
    job = created(cosmos_store, "job-1", result={"bytes": [1e17]})
    for document in (job, *cosmos_store.find({"partition_key": "job-1"}).documents):
        assert repr(document.body["result"]) == "{'bytes': [1e+17]}"
    written = cosmos_store.update_if_match("job-1", "job-1", Expected(etag=job.etag, known=job), {"state": "ready"})
    assert isinstance(written, Ok)
    copied = created(cosmos_store, "job-1:run:1", result=written.document.body["result"])
    assert copied.body["result"] == {"bytes": [1e17]}


def test_threads_that_search_at_once_do_not_meet_in_the_client(cosmos_store: CosmosDatastore) -> None:
    # The SDK keeps the headers of its last answer for all threads: one goes through them while another adds some.
    job = created(cosmos_store, "job-1")
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        with ThreadPoolExecutor(8) as threads:
            pages = list(threads.map(lambda _: cosmos_store.find({"partition_key": "job-1"}), range(400)))
    finally:
        sys.setswitchinterval(before)
    assert all(page.documents == (job,) for page in pages)
