"""Calls on one connection get their own replies, in order, however the bytes arrive; a lost one fails them all."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, cast

from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError, ResponseError
from redis.exceptions import TimeoutError as RedisTimeoutError

from broker import queues
from broker.client.stream import Stream


class Wire:
    """A transport that keeps what is written, and can be aborted."""

    def __init__(self) -> None:
        self.written = b""
        self.protocol: Stream | None = None

    def write(self, data: bytes) -> None:
        self.written += data

    def abort(self) -> None:
        if self.protocol is not None:
            self.protocol.connection_lost(None)


def on_a_stream(scene: Callable[[Stream, Wire], Awaitable[None]], *, patience_s: float = 60) -> None:
    async def run() -> None:
        wire = Wire()
        stream = Stream(cast(asyncio.Transport, wire), patience_s=patience_s)
        wire.protocol = stream
        await scene(stream, wire)

    asyncio.run(run())


def call(stream: Stream, *commands: tuple[Any, ...]) -> asyncio.Future[list[Any] | RedisError]:
    """What the caller of these commands is told. A second telling would fail."""
    told: asyncio.Future[list[Any] | RedisError] = asyncio.get_running_loop().create_future()
    stream.call(b"".join(map(queues.pack, commands)), len(commands), told.set_result)
    return told


def test_replies_go_to_their_calls_whatever_pieces_they_come_in() -> None:
    async def scene(stream: Stream, wire: Wire) -> None:
        first = call(stream, ("PING",), ("GET", "a"))
        second = call(stream, ("LPOP", "b", 2))
        assert wire.written.count(b"*") == 3
        for byte in b"+PONG\r\n$-1\r\n*2\r\n$1\r\nx\r\n$1\r\ny\r\n":
            stream.data_received(bytes([byte]))
        assert (await first, await second) == ([b"PONG", None], [[b"x", b"y"]])

    on_a_stream(scene)


def test_replies_to_several_calls_that_come_in_one_piece_go_to_their_calls() -> None:
    async def scene(stream: Stream, _wire: Wire) -> None:
        calls = [call(stream, ("HSET", "a", "b", "c"), ("RPUSH", "d", "e")) for _ in range(3)]
        stream.data_received(b":0\r\n:1\r\n:0\r\n:2\r\n:0\r\n")
        assert [await each for each in calls[:2]] == [[0, 1], [0, 2]]
        assert not calls[2].done()
        stream.data_received(b":3\r\n")
        assert await calls[2] == [0, 3]

    on_a_stream(scene)


def test_an_error_is_a_reply_among_the_others() -> None:
    async def scene(stream: Stream, _wire: Wire) -> None:
        told = call(stream, ("RPUSH", "a", "x"), ("PING",))
        stream.data_received(b"-OOM command not allowed\r\n+PONG\r\n")
        answers = await told
        assert isinstance(answers, list)
        refused, pong = answers
        assert isinstance(refused, ResponseError)
        assert pong == b"PONG"

    on_a_stream(scene)


def test_what_nobody_asked_for_is_passed_over() -> None:
    async def scene(stream: Stream, _wire: Wire) -> None:
        told = call(stream, ("PING",))
        stream.data_received(b">2\r\n+invalidate\r\n+x\r\n+PONG\r\n+stray\r\n")
        assert await told == [b"PONG"]

    on_a_stream(scene)


def test_a_lost_connection_fails_the_calls_under_way_and_those_to_come() -> None:
    async def scene(stream: Stream, _wire: Wire) -> None:
        under_way = call(stream, ("PING",))
        stream.connection_lost(ConnectionResetError("reset"))
        assert isinstance(failure := await under_way, RedisConnectionError)
        assert "reset" in str(failure)
        assert isinstance(await call(stream, ("PING",)), RedisConnectionError)

    on_a_stream(scene)


def test_nonsense_from_the_server_ends_the_connection() -> None:
    async def scene(stream: Stream, _wire: Wire) -> None:
        told = call(stream, ("PING",))
        stream.data_received(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        assert isinstance(await told, RedisError)
        assert stream.lost

    on_a_stream(scene)


def test_a_call_that_is_not_answered_in_time_ends_the_connection() -> None:
    async def scene(stream: Stream, _wire: Wire) -> None:
        answered, silent = call(stream, ("PING",)), call(stream, ("PING",))
        stream.data_received(b"+PONG\r\n")
        assert await answered == [b"PONG"]
        assert isinstance(await asyncio.wait_for(silent, 10), RedisTimeoutError)
        assert stream.lost

    on_a_stream(scene, patience_s=0.01)


def test_calls_of_a_connection_that_is_closed_on_purpose_are_told_nothing() -> None:
    async def scene(stream: Stream, _wire: Wire) -> None:
        told = call(stream, ("PING",))
        stream.close()
        await asyncio.sleep(0)
        assert not told.done()

    on_a_stream(scene)
