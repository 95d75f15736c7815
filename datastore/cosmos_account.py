"""How a Cosmos container is opened, and what is refused before the first job: wrong accounts, keys and retries."""

import base64
import binascii
import ipaddress
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from threading import Lock
from typing import Any, Final
from urllib.parse import parse_qsl, unquote, urlsplit
from weakref import WeakSet

from azure.core.credentials import TokenCredential
from azure.core.pipeline.transport import RequestsTransport
from azure.cosmos import ContainerProxy, CosmosClient, PartitionKey
from azure.cosmos.documents import DatabaseAccount
from azure.cosmos.exceptions import CosmosResourceExistsError
from requests import Session
from requests.adapters import HTTPAdapter
from requests.structures import CaseInsensitiveDict
from urllib3.util.retry import Retry

from datastore.cosmos_errors import may_have_been_written, verdict
from datastore.errors import Rejected
from datastore.interface import OnTrouble, Trouble
from datastore.matching import FIELD

OnCharge = Callable[[str, float], None]
"""Called for each request to items with its kind (`read`, `query`, `create`, `replace`) and the request units it was
charged; a refused write is charged too. Called from several threads; must not raise: the write has happened."""

EMULATOR_KEY: Final = "C2y6yDjf5/R+ob0N8A7Cgv30VRDJIWEHLM+4QDU5DE2nQ9nDuVTqobD4b8mGGyPMbIZnqyMsEcaGQy67XIw/Jw=="
"""The key every Cosmos emulator is shipped with. Public, therefore refused anywhere but on loopback."""

CONNECTIONS_MAX: Final = 16
"""Kept open to one endpoint, so more calls at once gain nothing: each would open a connection and throw it away."""

STRONG: Final = "Strong"
"""The one consistency of an account with which a write is acknowledged only once other regions have it, too."""

PARTITION_KEY_PATH: Final = "/pk"


@dataclass(frozen=True, slots=True)
class CosmosAddress:
    """Where a container is: `cosmos://HOST[:PORT]/DATABASE/CONTAINER[?http=1&create=1&discovery=0]`."""

    host: str
    port: int | None
    database: str
    container: str
    http: bool
    create: bool
    discovery: bool

    @property
    def endpoint(self) -> str:
        """The account's URL."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{'http' if self.http else 'https'}://{host}{f':{self.port}' if self.port else ''}/"

    @property
    def is_loopback(self) -> bool:
        """Whether it can only be an emulator on this machine."""
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return self.host == "localhost"

    @classmethod
    def parse(cls, url: str) -> "CosmosAddress":
        """Read a `cosmos://` URL.

        Raises:
          ValueError: it is none, holds credentials, or asks for plain HTTP beyond loopback.
        """
        shape = "use cosmos://HOST[:PORT]/DATABASE/CONTAINER[?http=1&create=1&discovery=0]"
        parts = urlsplit(url)
        if parts.username is not None or parts.password is not None:
            raise ValueError("credentials don't belong in a URL: set BROKER_COSMOS_KEY")
        names = [unquote(name) for name in parts.path.split("/")[1:]]
        if parts.scheme != "cosmos" or not parts.hostname or len(names) != 2 or not all(names) or parts.fragment:
            raise ValueError(f"not a Cosmos URL: {shape}")
        options = {"http": "0", "create": "0", "discovery": "1"}
        for name, value in parse_qsl(parts.query, keep_blank_values=True):
            if name not in options or value not in ("0", "1"):
                raise ValueError(f"unknown option {name!r} or a value other than 0 and 1: {shape}")
            options[name] = value
        flags = {name: value == "1" for name, value in options.items()}
        address = cls(parts.hostname, parts.port, names[0], names[1], **flags)
        if address.http and not address.is_loopback:
            raise ValueError(f"http=1 would send the key in clear to {address.host}: only loopback, else https")
        return address


class SharedHeaders(CaseInsensitiveDict[str]):
    """An answer's headers. The SDK keeps the last ones for all its threads: one adds to what another goes through."""

    def __iter__(self) -> Iterator[str]:
        return iter([name for name, _ in tuple(self._store.values())])  # copied in one step, in which no thread adds


class OneSendTransport(RequestsTransport):  # type: ignore[misc]  # azure-core exports it lazily, as Any
    """Sends a write a second time only if the store certainly refused it the first time.

    Left alone, the SDK answers a 503 by sending the same conditional write again, and a write that had
    landed then conflicts with itself. Errors of ours pass through its retry policies: they catch Azure's
    only. A lost answer the SDK does not repeat, given the settings of `open_client`.
    """

    def __init__(self, on_charge: OnCharge | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._on_charge = on_charge
        self._refused: WeakSet[Any] = WeakSet()
        self._lock = Lock()

    def send(self, request: Any, **kwargs: Any) -> Any:
        """See `RequestsTransport.send`."""
        response, operation = super().send(request, **kwargs), _operation(request)
        response.headers = SharedHeaders(response.headers)
        if operation is None:
            return response
        write = operation in ("create", "replace")
        headers, status = response.headers, response.status_code
        if self._on_charge is not None and "x-ms-request-charge" in headers:
            self._on_charge(operation, float(headers["x-ms-request-charge"]))
        sub_status = int(headers.get("x-ms-substatus") or 0)
        # A 403 of a region that is moving gets one try elsewhere; the SDK would go on for two minutes.
        again = status == 403 and self._was_refused_before(request)
        elsewhere = 300 <= status < 400  # which the SDK takes for a success
        if again or elsewhere or (write and may_have_been_written(status)):
            raise verdict(status, sub_status, headers, f"{operation}: {status}/{sub_status}", write=write)
        return response

    def _was_refused_before(self, request: Any) -> bool:
        with self._lock:
            before = request in self._refused
            self._refused.add(request)
        return before


def open_client(
    address: CosmosAddress, key: str | None, on_charge: OnCharge | None, connect_timeout_ms: int, read_timeout_ms: int
) -> CosmosClient:
    """A client of the account that never repeats a write by itself.

    Raises:
      Rejected: no usable credential.
      AzureError: the account could not be read.
    """
    return CosmosClient(
        address.endpoint,
        _credential(address, key),
        transport=OneSendTransport(on_charge, session=_session(use_environment=not address.is_loopback)),
        enable_endpoint_discovery=address.discovery,
        connection_timeout=connect_timeout_ms / 1_000,
        read_timeout=read_timeout_ms / 1_000,
        retry_total=0,
        retry_connect=0,
        retry_read=0,
        retry_write=0,
        retry_throttle_total=-1,  # the SDK takes 0 for "not given" and would then retry nine times
    )


def open_container(
    client: CosmosClient,
    address: CosmosAddress,
    on_trouble: OnTrouble | None = None,
    searched: Sequence[str] | None = None,
) -> ContainerProxy:
    """The container, checked: several write regions would grant twice, a time to live would lose jobs.

    What a failover of the account may lose is told to `on_trouble`, and not refused: some run with it knowingly.

    Raises:
      Rejected: the account has several write regions, or the container is not laid out as ours.
      AzureError: it is missing or could not be read.
    """
    account = client.get_database_account()
    regions = [location["name"] for location in account.WritableLocations]
    if len(regions) > 1:
        raise Rejected(
            f"{address.host} takes writes in {', '.join(regions)}, and If-Match is checked in each region apart: "
            "two claimants could win. Turn multi-region writes off"
        )
    at_risk = _lost_in_failover(address.host, account)
    if at_risk is not None and on_trouble is not None:
        on_trouble(Trouble.LOSES_IN_FAILOVER, at_risk)
    if address.create:
        return ensure_container(client, address.database, address.container, searched)
    container = client.get_database_client(address.database).get_container_client(address.container)
    _check_layout(container)
    return container


def indexing_policy(searched: Sequence[str] | None) -> dict[str, Any]:
    """What is indexed of the items: the fields that searches name, or everything where it is not known which.

    Whatever is indexed raises the price of each write, and the service indexes all of an item unless told otherwise:
    payloads, results and all. A search by another field still finds what it should, by a look at every item. `find`
    orders by `id`, or by (`pk`, `id`) for which it needs the composite index. The partition key is not indexed by
    itself.
    """
    paths = ["/*"] if searched is None else [f"/{path}/?" for path in ("pk", "id", *_steps(searched))]
    return {
        "indexingMode": "consistent",
        "automatic": True,
        "includedPaths": [{"path": path} for path in paths],
        "excludedPaths": [] if searched is None else [{"path": "/*"}],
        "compositeIndexes": [[{"path": "/pk", "order": "ascending"}, {"path": "/id", "order": "ascending"}]],
    }


def _steps(searched: Sequence[str]) -> list[str]:
    for field in searched:
        if FIELD.fullmatch(field) is None or "-" in field:  # the service would want that in quotes
            raise ValueError(f"{field!r} is no dotted path of fields without '-'")
    return [field.replace(".", "/") for field in searched]


def ensure_container(
    client: CosmosClient, database: str, container: str, searched: Sequence[str] | None = None
) -> ContainerProxy:
    """Create the database and the container where they are missing; two at once are harmless.

    One that is there keeps the index it has.

    Raises:
      Rejected: there is one that is not laid out as ours.
      AzureError: it could not be created. Entra credentials can't: use the account key or your deployment tool.
    """
    with suppress(CosmosResourceExistsError):  # somebody else was quicker between the SDK's read and its create
        client.create_database_if_not_exists(database)
    database_client = client.get_database_client(database)
    with suppress(CosmosResourceExistsError):
        database_client.create_container_if_not_exists(
            container, PartitionKey(PARTITION_KEY_PATH), indexing_policy=indexing_policy(searched)
        )
    created = database_client.get_container_client(container)
    _check_layout(created)
    return created


def _lost_in_failover(host: str, account: DatabaseAccount) -> str | None:
    """What an unplanned failover of this account may lose, and what to do about it; None where it loses nothing.

    Below Strong a write is acknowledged by its region alone. Where that one is lost, another goes on with what had
    reached it: the conditional write decides rightly there, on a job that has forgotten its last versions.
    """
    regions = [location["name"] for location in account.ReadableLocations]
    level = (account.ConsistencyPolicy or {}).get("defaultConsistencyLevel", "unknown")
    if len(regions) < 2 or level == STRONG:
        return None
    return (
        f"{host} is in {', '.join(regions)} with consistency {level}: an unplanned failover loses acknowledged writes, "
        "so that jobs vanish and epochs are granted twice; set the account's consistency to Strong, or keep one region"
    )


def _session(*, use_environment: bool) -> Session:
    """Connections for `CONNECTIONS_MAX` threads, otherwise as the transport makes them: it would keep ten.

    `use_environment`: proxies and certificates are the environment's. Each request carries all it needs and the
    service sets no cookies, so that threads share nothing here but the pool of connections, which is made for it.
    """
    session = Session()
    session.trust_env = use_environment
    adapter = HTTPAdapter(
        pool_maxsize=CONNECTIONS_MAX, max_retries=Retry(total=False, redirect=False, raise_on_status=False)
    )
    for scheme in ("http://", "https://"):
        session.mount(scheme, adapter)
    return session


def _check_layout(container: ContainerProxy) -> None:
    properties = container.read()
    paths = properties.get("partitionKey", {}).get("paths")
    if paths != [PARTITION_KEY_PATH]:
        raise Rejected(f"container {container.id}: its partition key is {paths}, it has to be {PARTITION_KEY_PATH}")
    if properties.get("defaultTtl") is not None:
        raise Rejected(f"container {container.id}: it has a time to live, which would delete jobs: turn it off")


def _credential(address: CosmosAddress, key: str | None) -> str | TokenCredential:
    if key is None and address.http:
        return EMULATOR_KEY
    if key is None:
        try:
            from azure.identity import DefaultAzureCredential  # type: ignore[import-not-found, import-untyped, unused-ignore]
        except ImportError as error:
            raise Rejected(
                f"no key for {address.host}: install claim-broker[azure] or set BROKER_COSMOS_KEY"
            ) from error
        credential: TokenCredential = DefaultAzureCredential()
        return credential
    if key == EMULATOR_KEY and not address.is_loopback:
        raise Rejected(f"the emulators' public key is for loopback only, {address.host} is not: set BROKER_COSMOS_KEY")
    try:
        base64.b64decode(key, validate=True)
    except binascii.Error as error:
        raise Rejected("the account key is not Base64: copy the whole key, without spaces or line ends") from error
    return key


def _operation(request: Any) -> str | None:
    """What a request does to items; None for one that speaks of the account or the container."""
    if "/docs/" not in request.url:
        return None
    if request.method == "POST":
        is_query = request.headers.get("Content-Type") == "application/query+json"
        return "query" if is_query else "create"
    return "replace" if request.method == "PUT" else "read"
