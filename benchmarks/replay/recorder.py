"""Records what a client says to Redis: a proxy between them, which knows just enough of the protocol to count commands.

The client enqueues one request after the other, so that the commands of each stand together; those that belong
to a connection are left out, and scripts that it loads stay loaded in the server.
"""

import socket
import threading
from collections.abc import Iterator

OF_CONNECTIONS = frozenset(
    b"HELLO CLIENT AUTH SELECT INFO COMMAND PING SCRIPT QUIT SUBSCRIBE PSUBSCRIBE UNSUBSCRIBE PUNSUBSCRIBE".split()
)
CHUNK = 65_536


class Recorder:
    """A proxy on a port of its own. What each connection said is kept as whole commands, in order."""

    def __init__(self, server_port: int) -> None:
        self._server_port = server_port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        self.commands: list[bytes] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        """Take no more connections."""
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            server = socket.create_connection(("127.0.0.1", self._server_port))
            threading.Thread(target=self._record, args=(client, server), daemon=True).start()
            threading.Thread(target=_pass_on, args=(server, client), daemon=True).start()

    def _record(self, client: socket.socket, server: socket.socket) -> None:
        pending = b""
        try:
            while chunk := client.recv(CHUNK):
                pending += chunk
                for command, name in (whole := Commands(pending)):
                    if name not in OF_CONNECTIONS:
                        self.commands.append(command)
                pending = whole.rest
                server.sendall(chunk)  # once it is noted: who has an answer may say that what comes now counts
        except OSError:
            pass
        finally:
            server.close()


class Commands:
    """The whole commands at the start of some bytes, each with its name; `rest` is what is left after iterating."""

    def __init__(self, data: bytes) -> None:
        self.rest = data

    def __iter__(self) -> Iterator[tuple[bytes, bytes]]:
        while (found := _first(self.rest)) is not None:
            end, name = found
            command, self.rest = self.rest[:end], self.rest[end:]
            yield command, name


def _first(data: bytes) -> tuple[int, bytes] | None:
    """Where the first command ends, and its name; None where it is not whole. A command is an array of bulk strings."""
    head = data.find(b"\r\n")
    if head < 0:
        return None
    at, name = head + 2, b""
    for number in range(int(data[1:head])):
        line = data.find(b"\r\n", at)
        if line < 0:
            return None
        begin, length = line + 2, int(data[at + 1 : line])
        at = begin + length + 2
        if at > len(data):
            return None
        if number == 0:
            name = data[begin : begin + length].upper()
    return at, name


def _pass_on(source: socket.socket, target: socket.socket) -> None:
    try:
        while chunk := source.recv(CHUNK):
            target.sendall(chunk)
    except OSError:
        pass
    finally:
        target.close()
