"""Calls on one connection get their own replies, in order, however the bytes arrive; a lost one fails them all."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, cast

import pytest
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import ResponseError

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


def on_a_stream(scene: Callable[[Stream, Wire], Awaitable[None]]) -> None:
    async def run() -> None:
        wire = Wire()
        stream = Stream(cast(asyncio.Transport, wire))
        wire.protocol = stream
        await scene(stream, wire)

    asyncio.run(run())


def test_replies_go_to_their_calls_whatever_pieces_they_come_in() -> None:
    async def scene(stream: Stream, wire: Wire) -> None:
        first = stream.call([("PING",), ("GET", "a")])
        second = stream.call([("LPOP", "b", 2)])
        assert wire.written.count(b"*") == 3
        for byte in b"+PONG\r\n$-1\r\n*2\r\n$1\r\nx\r\n$1\r\ny\r\n":
            stream.data_received(bytes([byte]))
        assert (await first, await second) == ([b"PONG", None], [[b"x", b"y"]])

    on_a_stream(scene)


def test_an_error_is_a_reply_among_the_others() -> None:
    async def scene(stream: Stream, _wire: Wire) -> None:
        call = stream.call([("RPUSH", "a", "x"), ("PING",)])
        stream.data_received(b"-OOM command not allowed\r\n+PONG\r\n")
        refused, pong = await call
        assert isinstance(refused, ResponseError)
        assert pong == b"PONG"

    on_a_stream(scene)


def test_what_nobody_asked_for_is_passed_over() -> None:
    async def scene(stream: Stream, _wire: Wire) -> None:
        call = stream.call([("PING",)])
        stream.data_received(b">2\r\n+invalidate\r\n+x\r\n+PONG\r\n+stray\r\n")
        assert await call == [b"PONG"]

    on_a_stream(scene)


def test_a_lost_connection_fails_the_calls_under_way_and_those_to_come() -> None:
    async def scene(stream: Stream, _wire: Wire) -> None:
        under_way = stream.call([("PING",)])
        stream.connection_lost(ConnectionResetError("reset"))
        with pytest.raises(RedisConnectionError, match="reset"):
            await under_way
        with pytest.raises(RedisConnectionError):
            await stream.call([("PING",)])

    on_a_stream(scene)


def test_nonsense_from_the_server_ends_the_connection() -> None:
    async def scene(stream: Stream, _wire: Wire) -> None:
        call = stream.call([("PING",)])
        stream.data_received(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        with pytest.raises(RedisConnectionError):
            await call
        assert stream.lost

    on_a_stream(scene)


def test_a_call_of_a_connection_that_is_closed_on_purpose_is_cancelled() -> None:
    async def scene(stream: Stream, _wire: Wire) -> None:
        call: asyncio.Future[list[Any]] = stream.call([("PING",)])
        stream.close()
        await asyncio.wait([call], timeout=10)
        assert call.cancelled()

    on_a_stream(scene)
