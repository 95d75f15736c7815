"""Who asks for much and reads nothing fills Redis, unless what it keeps for a connection, and for all, has a limit."""

import json
import socket
from collections.abc import Iterator
from contextlib import ExitStack, closing, suppress
from urllib.parse import urlsplit

import pytest

from broker import queues
from broker.client import BrokerUnavailable, Client
from broker.events import STREAM
from tests.guarded import Guarded
from tests.processes import wait_for

pytestmark = pytest.mark.redis

LIMIT = "client-output-buffer-limit"
TOGETHER = "maxmemory-clients"
ROOM_BYTES = 12 << 20
EVENTS_BYTES = 1 << 20
QUESTIONS = 20
"""Each is answered with all the events: more than there is room for."""
READ_ALL = queues.pack(("XREAD", "STREAMS", STREAM, "0"))


@pytest.fixture
def crowded(guarded: Guarded) -> Iterator[Guarded]:
    """A server with little room, whose stream of events is as long as a busy fleet's, scaled down; without limits."""
    before = str(guarded.admin.config_get(LIMIT)[LIMIT])
    entry = json.dumps([{"event": "renewed", "job_id": "j", "at_ms": 1, "reason": "r" * 1_000}])
    for _ in range(EVENTS_BYTES // len(entry)):
        guarded.admin.xadd(STREAM, {"e": entry})
    room = guarded.admin.info("memory")["used_memory"] + ROOM_BYTES
    guarded.command("CONFIG", "SET", "maxmemory", room, LIMIT, "normal 0 0 0", TOGETHER, 0)
    yield guarded
    guarded.command("CONFIG", "SET", "maxmemory", 0, LIMIT, before, TOGETHER, 0)
    guarded.command("DEL", STREAM)


def reader_of_nothing(guarded: Guarded, questions: int) -> socket.socket:
    """A connection of the user that may read events and count, which has asked for all of them, again and again."""
    connection = socket.socket(socket.AF_UNIX)
    connection.connect(urlsplit(guarded.server.url).path)
    connection.sendall(queues.pack(("AUTH", "reader", "reader-pw")))
    assert connection.recv(100) == b"+OK\r\n"
    connection.sendall(READ_ALL * questions)
    return connection


def readers_left(guarded: Guarded) -> int:
    return sum(client["user"] == "reader" for client in guarded.admin.client_list())


def full(client: Client) -> bool:
    """Whether a submission finds no room."""
    try:
        client.submit(timeout_ms=300)
    except BrokerUnavailable as told:
        return "it is full" in str(told)
    return False


def test_a_reader_that_reads_nothing_is_disconnected_and_others_are_served(crowded: Guarded) -> None:
    crowded.command("CONFIG", "SET", LIMIT, "normal 4mb 2mb 10")
    with closing(reader_of_nothing(crowded, QUESTIONS)) as reader, crowded.client("ci") as ci:
        wait_for(lambda: readers_left(crowded) == 0, "the server has closed it")
        assert ci.submit().good
        told = 0
        with suppress(ConnectionResetError):
            while part := reader.recv(1 << 20):
                told += len(part)
        assert told < QUESTIONS * EVENTS_BYTES, "it was answered in full"


def test_many_that_each_keep_below_the_limit_are_disconnected_by_that_of_all(crowded: Guarded) -> None:
    crowded.command("CONFIG", "SET", LIMIT, "normal 4mb 4mb 10", TOGETHER, "6mb")
    with ExitStack() as open_ones, crowded.client("ci") as ci:
        for _ in range(QUESTIONS // 2):
            open_ones.enter_context(reader_of_nothing(crowded, 2))
        wait_for(lambda: readers_left(crowded) <= 3, "the server has closed those that hold most")
        assert ci.submit().good


@pytest.mark.parametrize("readers", [1, QUESTIONS // 2], ids=["one", "many"])
def test_without_limits_readers_fill_redis_for_all(crowded: Guarded, readers: int) -> None:
    # The twin: as every server is set that nobody has told otherwise.
    with ExitStack() as open_ones, crowded.client("ci") as ci:
        for _ in range(readers):
            open_ones.enter_context(reader_of_nothing(crowded, QUESTIONS // readers))
        wait_for(lambda: full(ci), "there is no room left")
        assert readers_left(crowded) == readers
    with crowded.client("ci") as ci:
        wait_for(lambda: not full(ci), "there is room again once they have gone")
