"""Sockets that note what goes over them: the commands that were sent, and how often somebody waited for an answer."""

import socket
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Lock
from typing import Any
from urllib.parse import unquote, urlsplit

import hiredis
import pytest


class Traffic:
    """What the connections to Redis that were opened under its eyes have carried."""

    def __init__(self) -> None:
        self.commands: Counter[str] = Counter()
        """Commands sent, by name."""
        self.round_trips = 0
        """How often a connection was written to after it had been read from."""
        self._lock = Lock()

    def note(self, commands: list[str], *, first: bool) -> None:
        """Something was written; `first` since the last answer."""
        with self._lock:
            self.commands.update(commands)
            self.round_trips += first

    def forget(self) -> None:
        """Begin to count anew."""
        with self._lock:
            self.commands.clear()
            self.round_trips = 0


@contextmanager
def counted_traffic(patch: pytest.MonkeyPatch, redis_url: str) -> Iterator[Traffic]:
    """Counts what goes over every socket that is connected to this server within the block, for as long as it lives."""
    traffic = Traffic()
    url = urlsplit(redis_url)
    server = {unquote(url.path), (url.hostname, url.port)}

    class Counting(socket.socket):
        """A socket as every other one; whoever connects it is counted."""

        def connect(self, address: Any) -> None:
            if address in server:
                self._commands = hiredis.Reader()
                self._answered = True
            super().connect(address)

        def sendall(self, data: Any, flags: int = 0) -> None:
            self._note(bytes(data))
            super().sendall(data, flags)

        def send(self, data: Any, flags: int = 0) -> int:
            sent = super().send(data, flags)
            self._note(bytes(data[:sent]))
            return sent

        def recv(self, *arguments: Any) -> bytes:
            received = super().recv(*arguments)
            self._answered = True
            return received

        def recv_into(self, *arguments: Any) -> int:
            received = super().recv_into(*arguments)
            self._answered = True
            return received

        def _note(self, data: bytes) -> None:
            if not hasattr(self, "_commands"):
                return  # of another server, or one end of a pair over which a process wakes itself
            self._commands.feed(data)
            names = []
            while (command := self._commands.gets()) is not False:
                names.append(command[0].decode().lower())
            traffic.note(names, first=self._answered)
            self._answered = False

    with patch.context() as patched:
        patched.setattr(socket, "socket", Counting)
        yield traffic
