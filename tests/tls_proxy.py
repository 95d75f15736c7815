"""TLS in front of a server that speaks none, as a proxy would put it there: the wheel's Valkey is built without."""

import socket
import ssl
import threading
from contextlib import suppress
from urllib.parse import unquote, urlsplit


class TlsProxy:
    """Ends TLS on a loopback port and passes on to a Redis on a unix socket. Takes clients with a certificate only."""

    def __init__(self, redis_url: str, context: ssl.SSLContext) -> None:
        self._behind = unquote(urlsplit(redis_url).path)
        self._context = context
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        self.handshakes_failed = 0
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        """Take nobody new."""
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        try:
            secured = self._context.wrap_socket(client, server_side=True)
        except OSError:  # ssl.SSLError is one
            self.handshakes_failed += 1
            client.close()
            return
        with secured, socket.socket(socket.AF_UNIX) as server, suppress(OSError):
            server.connect(self._behind)
            back = threading.Thread(target=_pump, args=(server, secured), daemon=True)
            back.start()
            _pump(secured, server)
            back.join(5)


def _pump(source: socket.socket, target: socket.socket) -> None:
    with suppress(OSError):
        while data := source.recv(65_536):
            target.sendall(data)
    with suppress(OSError):
        target.shutdown(socket.SHUT_WR)
