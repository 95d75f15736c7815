"""What the Cosmos provider refuses before the first job: URLs, credentials, accounts and containers."""

import socket
import sys
from concurrent.futures import ThreadPoolExecutor
from socketserver import BaseRequestHandler, ThreadingTCPServer
from threading import Thread
from types import ModuleType
from typing import Any, NoReturn
from uuid import uuid4

import pytest
from azure.core.exceptions import ClientAuthenticationError
from azure.cosmos import CosmosClient, PartitionKey
from azure.cosmos.documents import DatabaseAccount
from structlog.testing import capture_logs

from broker.cli.store_command import check_store
from broker.settings import load
from datastore.connect import connect
from datastore.cosmos import CosmosDatastore
from datastore.cosmos_account import EMULATOR_KEY, CosmosAddress
from datastore.errors import Denied, Rejected, Unavailable
from datastore.interface import NotFound, Ok, Trouble
from tests.cosmos.fault_proxy import FaultProxy
from workers.runtime import open_store

needs_emulator = pytest.mark.cosmos

KEY = "c2VjcmV0"


def test_a_url_names_account_database_and_container() -> None:
    address = CosmosAddress.parse("cosmos://acme.documents.azure.com/broker/jobs?create=1&discovery=0")
    assert address.endpoint == "https://acme.documents.azure.com/"
    assert (address.database, address.container) == ("broker", "jobs")
    assert (address.create, address.discovery, address.http) == (True, False, False)
    assert CosmosAddress.parse("cosmos://[::1]:8081/a%20b/c?http=1").endpoint == "http://[::1]:8081/"


@pytest.mark.parametrize(
    "url",
    [
        "cosmos://host",
        "cosmos://host/database",
        "cosmos://host/database/container/more",
        "cosmos:///database/container",
        "https://host/database/container",
        "cosmos://host//container",
        "cosmos://host/database/container?http=yes",
        "cosmos://host/database/container?http=",
        "cosmos://host/database/container?create",
        "cosmos://host/database/container?ssl=0",
        "cosmos://user:secret@host/database/container",
        "cosmos://:secret@host/database/container",
        "cosmos://secret@host/database/container",
        "cosmos://host/database/container#x",
        "cosmos://acme.documents.azure.com/database/container?http=1",
    ],
)
def test_a_url_that_does_not_fit_is_a_value_error_without_the_secret(url: str) -> None:
    with pytest.raises(ValueError) as raised:  # noqa: PT011  # the message is what is tested below
        CosmosDatastore.from_url(url, key=KEY)
    assert "secret" not in str(raised.value)


@pytest.mark.parametrize("host", ["acme.documents.azure.com", "cosmos", "10.0.0.7"])
def test_the_public_emulator_key_is_refused_off_loopback(host: str) -> None:
    with pytest.raises(Rejected, match="loopback only"):
        CosmosDatastore.from_url(f"cosmos://{host}/database/container", key=EMULATOR_KEY)


@pytest.mark.parametrize("key", ["not a key!", "c2Vj cmV0", "c2VjcmV0\n"])
@pytest.mark.parametrize("account", ["acme.documents.azure.com/database/container", "127.0.0.1:1/d/c?http=1"])
def test_a_key_that_is_not_base64_is_refused_without_being_shown(account: str, key: str) -> None:
    with pytest.raises(Rejected, match="not Base64") as raised:
        CosmosDatastore.from_url(f"cosmos://{account}", key=key)
    assert key not in str(raised.value)


def test_without_a_key_and_without_azure_identity_the_error_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "azure.identity", None)
    with pytest.raises(Rejected, match=r"install claim-broker\[azure\] or set BROKER_COSMOS_KEY"):
        CosmosDatastore.from_url("cosmos://acme.documents.azure.com/database/container")


def test_without_a_key_entra_is_asked_and_its_refusal_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    class Nobody:
        def get_token(self, *_scopes: str, **_options: Any) -> NoReturn:
            raise ClientAuthenticationError("no managed identity here")

    entra = ModuleType("azure.identity")
    entra.DefaultAzureCredential = Nobody  # type: ignore[attr-defined]  # the extra is not installed for tests
    monkeypatch.setitem(sys.modules, "azure.identity", entra)
    with pytest.raises(Denied, match="no Entra token: no managed identity here; give this host"):
        CosmosDatastore.from_url("cosmos://acme.documents.azure.com/database/container")


@pytest.mark.parametrize(
    ("url", "asked"),
    [
        ("cosmos://acme.documents.azure.com/database/container", "CONNECT acme.documents.azure.com:443"),
        ("cosmos://127.0.0.1:1/database/container?http=1", None),
    ],
)
def test_an_account_is_reached_through_the_environments_proxy_and_an_emulator_never(
    monkeypatch: pytest.MonkeyPatch, url: str, asked: str | None
) -> None:
    requests: list[str] = []

    class Refusing(BaseRequestHandler):
        def handle(self) -> None:
            requests.append(self.request.recv(4_096).decode())
            self.request.sendall(b"HTTP/1.1 502 No\r\nContent-Length: 0\r\n\r\n")

    with ThreadingTCPServer(("127.0.0.1", 0), Refusing) as proxy:
        Thread(target=proxy.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        for name in ("HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy"):
            monkeypatch.setenv(name, f"http://127.0.0.1:{proxy.server_address[1]}")
        for name in ("NO_PROXY", "no_proxy"):
            monkeypatch.delenv(name, raising=False)
        with pytest.raises(Unavailable, match=r"^opening (acme\.documents\.azure\.com|127\.0\.0\.1): "):
            CosmosDatastore.from_url(url, key=KEY)
        proxy.shutdown()
    assert {request.split(" HTTP/")[0] for request in requests} == ({asked} if asked else set())


@needs_emulator
def test_without_discovery_the_endpoint_that_was_given_is_used_and_no_other(cosmos_emulator: int) -> None:
    # The emulator's own account document names an https endpoint, where nobody listens.
    url = f"cosmos://127.0.0.1:{cosmos_emulator}/{uuid4().hex}/jobs?http=1&create=1"
    store = connect(f"{url}&discovery=0")
    assert isinstance(store.create("job-1", "job-1", {}), Ok)
    store.close()
    with pytest.raises((Unavailable, Denied)):
        connect(url)


def test_an_account_that_can_not_be_reached_is_unavailable() -> None:
    with socket.socket() as deaf:
        deaf.bind(("127.0.0.1", 0))  # kept, so that nobody else comes to listen there
        with pytest.raises(Unavailable):
            CosmosDatastore.from_url(f"cosmos://127.0.0.1:{deaf.getsockname()[1]}/database/container?http=1")


@needs_emulator
@pytest.mark.parametrize("key", [None, EMULATOR_KEY], ids=["no key", "emulator key"])
def test_connect_opens_a_cosmos_url(cosmos_url: str, key: str | None) -> None:
    store = connect(cosmos_url, cosmos_key=key)
    assert store.read("job-1", "job-1") == NotFound()
    store.close()


@needs_emulator
def test_the_sdk_is_told_how_long_to_wait_for_a_connection(cosmos_url: str) -> None:
    store = CosmosDatastore.from_url(cosmos_url, connect_timeout_ms=1_234)
    assert store._client.client_connection.connection_policy.RequestTimeout == 1.234
    store.close()


@needs_emulator
def test_an_account_with_several_write_regions_is_refused(cosmos_emulator: int) -> None:
    proxy = FaultProxy(cosmos_emulator, write_regions=2)
    with proxy.running(), pytest.raises(Rejected, match="Region 1, Region 2"):
        CosmosDatastore.from_url(f"cosmos://127.0.0.1:{proxy.port}/regions/jobs?http=1&create=1")


def warned_of(emulator_port: int, *, regions: int, consistency: str) -> list[str]:
    """What opening a container of such an account tells of its failover."""
    told: list[str] = []

    def tell(trouble: Trouble, text: str) -> None:
        assert trouble is Trouble.LOSES_IN_FAILOVER
        told.append(text)

    proxy = FaultProxy(emulator_port, read_regions=regions, consistency=consistency)
    with proxy.running():
        url = f"cosmos://127.0.0.1:{proxy.port}/regions/jobs?http=1"
        for address in (f"{url}&create=1", url):  # one that makes the container, and one that finds it
            CosmosDatastore.from_url(address, on_trouble=tell).close()
    return told


@needs_emulator
@pytest.mark.parametrize("consistency", ["BoundedStaleness", "Session", "ConsistentPrefix", "Eventual"])
def test_an_account_that_loses_writes_in_a_failover_is_opened_and_says_so(
    cosmos_emulator: int, consistency: str
) -> None:
    told = warned_of(cosmos_emulator, regions=2, consistency=consistency)
    assert len(told) == 2
    for text in told:
        problem, _, step = text.rpartition("; ")
        assert f"Region 1, Region 2 with consistency {consistency}" in problem
        assert step == "set the account's consistency to Strong, or keep one region"


@needs_emulator
@pytest.mark.parametrize(("regions", "consistency"), [(1, "Session"), (1, "Eventual"), (1, "Strong"), (3, "Strong")])
def test_an_account_that_loses_nothing_is_not_warned_of(cosmos_emulator: int, regions: int, consistency: str) -> None:
    assert warned_of(cosmos_emulator, regions=regions, consistency=consistency) == []


@needs_emulator
def test_a_look_at_the_regions_that_take_writes_does_not_show_it(
    cosmos_emulator: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The broken twin: an account has one write region, wherever else it is."""
    monkeypatch.setattr(DatabaseAccount, "ReadableLocations", DatabaseAccount.WritableLocations)
    assert warned_of(cosmos_emulator, regions=2, consistency="Session") == []


@needs_emulator
def test_a_worker_logs_it_and_check_store_shows_it(cosmos_emulator: int, capsys: pytest.CaptureFixture[str]) -> None:
    proxy = FaultProxy(cosmos_emulator, read_regions=2, consistency="Session")
    with proxy.running(), capture_logs() as logs:
        url = f"cosmos://127.0.0.1:{proxy.port}/{uuid4().hex}/jobs?http=1&create=1"
        open_store(load(datastore_url=url), url).close()
        assert check_store(url, create=False, json=True) == 0
    assert [(line["event"], line["log_level"]) for line in logs] == [("store_loses_writes_in_failover", "warning")]
    shown = capsys.readouterr().err
    assert "warning: 127.0.0.1 is in Region 1, Region 2 with consistency Session" in shown
    assert "next: set the account's consistency to Strong" in shown


@needs_emulator
def test_a_missing_container_is_refused_and_not_created_unasked(cosmos_url: str) -> None:
    with pytest.raises(Denied, match="create=1"):
        CosmosDatastore.from_url(cosmos_url.replace("&create=1", ""))


@needs_emulator
@pytest.mark.parametrize(
    ("layout", "complaint"),
    [
        ({"partition_key": PartitionKey("/tenant")}, "partition key"),
        ({"partition_key": PartitionKey("/pk"), "default_ttl": 60}, "time to live"),
    ],
)
def test_a_container_that_would_lose_jobs_is_refused(cosmos_url: str, layout: dict[str, Any], complaint: str) -> None:
    address = CosmosAddress.parse(cosmos_url)
    with CosmosClient(address.endpoint, EMULATOR_KEY) as client:
        client.create_database(address.database).create_container(address.container, **layout)
    for url in (cosmos_url, cosmos_url.replace("&create=1", "")):
        with pytest.raises(Rejected, match=complaint):
            CosmosDatastore.from_url(url)


@needs_emulator
def test_a_container_without_the_composite_index_says_so_when_all_partitions_are_searched(cosmos_url: str) -> None:
    address = CosmosAddress.parse(cosmos_url)
    with CosmosClient(address.endpoint, EMULATOR_KEY) as client:
        client.create_database(address.database).create_container(address.container, PartitionKey("/pk"))
    store = CosmosDatastore.from_url(cosmos_url)
    assert store.find({"partition_key": "job-1"}).documents == ()
    with pytest.raises(Rejected, match="composite index"):
        store.find({})
    store.close()


@needs_emulator
def test_several_workers_may_create_the_container_at_once(cosmos_url: str) -> None:
    with ThreadPoolExecutor(8) as pool:
        stores = list(pool.map(lambda _: CosmosDatastore.from_url(cosmos_url), range(8)))
    for store in stores:
        store.close()
