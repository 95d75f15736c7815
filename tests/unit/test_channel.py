"""A connection of the client of threads: its socket does not block, and it waits where that is needed."""

import socket
import threading
from collections.abc import Iterator
from contextlib import closing
from typing import Any, cast

import pytest
from redis import ConnectionPool

from broker.client.channel import Channel

PATIENCE_S = 10.0
HASTE_S = 0.2


class Connected:
    """What redis-py opens, on one end of a pair of sockets."""

    def __init__(self, sock: socket.socket, timeout_s: float) -> None:
        self._sock = sock
        self._timeout_s = timeout_s

    def connect(self) -> None:
        self._sock.settimeout(self._timeout_s)

    def disconnect(self) -> None:
        self._sock.close()


class Pool:
    """A pool of that one connection."""

    def __init__(self, sock: socket.socket, timeout_s: float) -> None:
        self.connection_kwargs = {"sock": sock, "timeout_s": timeout_s}
        self.connection_class = Connected


@pytest.fixture
def timeout_s() -> float:
    """How long the channel waits for the other end."""
    return PATIENCE_S


@pytest.fixture
def ends(timeout_s: float) -> Iterator[tuple[Channel, socket.socket]]:
    """A channel, and what is at the other end of it."""
    near, far = socket.socketpair()
    with near, far, closing(Channel(cast(ConnectionPool, Pool(near, timeout_s)))) as channel:
        yield channel, far


def test_what_the_other_side_can_not_take_at_once_is_sent_as_it_takes_it(ends: tuple[Channel, socket.socket]) -> None:
    channel, far = ends
    packed = bytes(range(256)) * 20_000
    taken = bytearray()

    def take() -> None:
        while len(taken) < len(packed):
            taken.extend(far.recv(65_536))

    taking = threading.Thread(target=take)
    taking.start()
    channel.send(packed)
    taking.join(timeout=10)
    assert bytes(taken) == packed


@pytest.mark.parametrize("timeout_s", [HASTE_S])
def test_who_takes_nothing_is_given_up(ends: tuple[Channel, socket.socket]) -> None:
    channel, _ = ends
    with pytest.raises(TimeoutError, match="silent for 200 ms"):
        channel.send(bytes(50_000_000))


@pytest.mark.parametrize("timeout_s", [HASTE_S])
def test_who_answers_nothing_is_given_up(ends: tuple[Channel, socket.socket]) -> None:
    channel, _ = ends
    with pytest.raises(TimeoutError, match="silent for 200 ms"):
        channel.receive(1)


def test_replies_in_pieces_are_waited_for(ends: tuple[Channel, socket.socket]) -> None:
    channel, far = ends
    far.sendall(b":1\r\n+O")
    rest = threading.Timer(HASTE_S / 4, far.sendall, [b"K\r\n"])
    rest.start()
    assert channel.receive(2) == [1, b"OK"]
    rest.join()


def test_to_read_where_nothing_has_come_waits_for_nothing_and_keeps_nothing(
    ends: tuple[Channel, socket.socket],
) -> None:
    channel, far = ends
    got: list[Any] = []
    channel.read()
    channel.drain(got)
    assert got == []
    far.sendall(b"+OK\r\n")
    channel.read()
    channel.drain(got)
    assert got == [b"OK"]
