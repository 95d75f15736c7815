"""An HTTP proxy before the emulator that tells the lies a network and an overloaded service tell."""

import http.client
import json
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Event, Lock, Thread
from typing import Any, Final
from urllib.parse import quote

HOLD_S_MAX: Final = 20
"""How long a held answer waits for `release`; above any read time-out in the tests."""


@dataclass(frozen=True, slots=True)
class Fault:
    """What happens to one request. `apply` says whether the emulator sees it before the client is lied to.

    `status` answers with that status and `body`, `drop` closes the connection without an answer, `hold` answers nothing
    until `FaultProxy.release`; a held request that was not applied is applied then. `stale` answers a read or a
    search with what the same one was answered first through this proxy. With `apply` alone nothing is wrong: it
    lets a request by, so that the next fault meets the one after it.
    """

    name: str
    apply: bool = False
    status: int | None = None
    headers: tuple[tuple[str, str], ...] = ()
    drop: bool = False
    hold: bool = False
    stale: bool = False
    body: bytes = b'{"code":"Fault","message":"scripted"}'


@dataclass(frozen=True, slots=True)
class _Answer:
    status: int
    headers: list[tuple[str, str]]
    body: bytes


@dataclass(slots=True)
class _Plan:
    faults: list[tuple[str, str | None, Fault]] = field(default_factory=list)
    requests: list[tuple[str, str]] = field(default_factory=list)
    first_read: dict[tuple[str, str, bytes], _Answer] = field(default_factory=dict)


class FaultProxy:
    """Forwards to the emulator, except for what `script` says; counts what comes by.

    It also makes two things of the emulator like the service: a read of a missing item is a 404, and the
    account document advertises this endpoint, so that the SDK's endpoint discovery and retries really run.
    With `ignore_if_match` it is the broken store that our races have to be seen to fail on.
    """

    def __init__(
        self,
        emulator_port: int,
        *,
        write_regions: int = 1,
        read_regions: int = 1,
        consistency: str | None = None,
        ignore_if_match: bool = False,
    ) -> None:
        self._emulator_port = emulator_port
        self._write_regions = write_regions
        self._regions = max(write_regions, read_regions)
        self._consistency = consistency
        self._ignore_if_match = ignore_if_match
        self._denied: Fault | None = None
        self._plan = _Plan()
        self._lock = Lock()
        self._released = Event()
        self.late_statuses: list[int] = []
        """What the emulator answered to requests that were held back and applied after `release`."""
        self.searches: list[dict[str, str]] = []
        """The headers of each search, their names in small letters."""
        proxy = self

        class Handler(_Handler):
            owner = proxy

        self._server = _Server(("127.0.0.1", 0), Handler)
        self.port: int = self._server.server_address[1]

    @contextmanager
    def running(self) -> Iterator["FaultProxy"]:
        """Serves until the block ends."""
        thread = Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        thread.start()
        try:
            yield self
        finally:
            self.release()
            self._server.shutdown()
            self._server.server_close()
            thread.join()

    def script(self, method: str, *faults: Fault, of: str | None = None) -> None:
        """The next requests to items with this method (`QUERY` for a search) meet these faults, in this order.

        `of`: only those to this item, whatever else is read or written meanwhile.
        """
        path = None if of is None else f"/docs/{quote(of, safe='')}"
        with self._lock:
            self._plan.faults.extend((method, path, fault) for fault in faults)

    def deny(self, fault: Fault | None) -> None:
        """Every request meets this from now on, whatever it asks for; None: none does any more."""
        self._denied = fault

    def unused(self) -> int:
        """Faults that no request has met yet."""
        with self._lock:
            return len(self._plan.faults)

    def forget(self) -> None:
        """Drop the faults that no request has met."""
        with self._lock:
            self._plan.faults.clear()

    def release(self) -> None:
        """Let held requests go on, and hold none until `hold_again`."""
        self._released.set()

    def hold_again(self) -> None:
        """Hold what is to be held."""
        self._released.clear()

    def connections(self) -> int:
        """How many a client has opened so far; one that it keeps and uses again counts once."""
        return self._server.opened

    def take_requests(self) -> list[tuple[str, str]]:
        """(method, path) of each request since the last call, account documents left out."""
        with self._lock:
            taken, self._plan.requests = self._plan.requests, []
        return [request for request in taken if request[1] != "/"]

    def answer(self, method: str, path: str, headers: dict[str, str], body: bytes) -> _Answer | None:
        """What the client gets; None drops its connection."""
        if self._ignore_if_match:
            headers = {name: value for name, value in headers.items() if name != "if-match"}
        is_item = "/docs" in path
        kind = "QUERY" if headers.get("content-type") == "application/query+json" else method
        with self._lock:
            self._plan.requests.append((kind, path))
            self.searches += [headers] if kind == "QUERY" else []
            fault = self._denied or (self._take_fault(kind, path) if is_item else None)
        if fault is None:
            return self._remembered((kind, path, body), self._forward(method, path, headers, body))
        if fault.stale:
            return self._plan.first_read[kind, path, body]
        answer = self._forward(method, path, headers, body) if fault.apply else None
        if fault.hold:
            self._released.wait(HOLD_S_MAX)
            if answer is None:
                answer = self._forward(method, path, headers, body)
                self.late_statuses.append(answer.status)
            return answer
        if fault.drop:
            return None
        if fault.status is None:
            assert answer is not None, f"{fault.name} does nothing"
            return answer
        return _Answer(fault.status, list(fault.headers), fault.body)

    def _take_fault(self, kind: str, path: str) -> Fault | None:
        for index, (wanted, item, fault) in enumerate(self._plan.faults):
            if wanted == kind and (item is None or path.rstrip("/").endswith(item)):
                del self._plan.faults[index]
                return fault
        return None

    def _remembered(self, request: tuple[str, str, bytes], answer: _Answer) -> _Answer:
        if request[0] in ("GET", "QUERY") and answer.status == 200:
            with self._lock:
                self._plan.first_read.setdefault(request, answer)
        return answer

    def _forward(self, method: str, path: str, headers: dict[str, str], body: bytes) -> _Answer:
        connection = http.client.HTTPConnection("127.0.0.1", self._emulator_port, timeout=HOLD_S_MAX)
        try:
            connection.request(method, path, body or None, {**headers, "connection": "close"})
            response = connection.getresponse()
            answer = _Answer(response.status, response.getheaders(), response.read())
        finally:
            connection.close()
        if path == "/":
            return _Answer(answer.status, answer.headers, self._account(answer.body))
        if method == "GET" and "/docs/" in path and answer.status == 500:
            return _Answer(404, answer.headers, answer.body)
        return answer

    def _account(self, body: bytes) -> bytes:
        account = json.loads(body)
        here = f"http://127.0.0.1:{self.port}/"
        regions = [{"name": f"Region {n + 1}", "databaseAccountEndpoint": here} for n in range(self._regions)]
        account["writableLocations"] = regions[: self._write_regions]
        account["readableLocations"] = regions
        if self._consistency is not None:
            account["userConsistencyPolicy"] = {"defaultConsistencyLevel": self._consistency}
        account["enableMultipleWriteLocations"] = self._write_regions > 1
        return json.dumps(account).encode()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def __init__(self, address: tuple[str, int], handler: type[BaseHTTPRequestHandler]) -> None:
        super().__init__(address, handler)
        self._connections: set[socket.socket] = set()
        self.opened = 0

    def get_request(self) -> tuple[socket.socket, Any]:
        connection, peer = super().get_request()
        self._connections.add(connection)
        self.opened += 1
        return connection, peer

    def server_close(self) -> None:
        """Stop listening, and end the connections that clients kept."""
        super().server_close()
        for connection in self._connections:
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that has gone away is what these tests are about: no noise for it."""


class _Handler(BaseHTTPRequestHandler):
    owner: FaultProxy
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def handle_any(self) -> None:
        body = self.rfile.read(int(self.headers.get("content-length") or 0))
        headers = {name.lower(): value for name, value in self.headers.items()}
        answer = self.owner.answer(self.command, self.path, headers, body)
        if answer is None:
            self.close_connection = True
            self.connection.shutdown(socket.SHUT_RDWR)
            return
        self.send_response(answer.status)
        for name, value in answer.headers:
            if name.lower() not in ("content-length", "transfer-encoding", "connection"):
                self.send_header(name, value)
        self.send_header("content-length", str(len(answer.body)))
        self.end_headers()
        self.wfile.write(answer.body)

    do_GET = do_POST = do_PUT = do_DELETE = do_PATCH = handle_any  # noqa: N815  # names the base class looks up

    def log_message(self, format: str, *args: object) -> None:
        """Tests speak through assertions."""
