"""One connection for one thread at a time: packed commands out, replies in, and none lost where an interrupt comes.

redis-py opens the connection (URL, TLS, login) and leaves it; its own way of reading costs more than the round trip.
"""

import select
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import filterfalse
from ssl import SSLWantReadError, SSLWantWriteError
from typing import Any

import hiredis
from redis import ConnectionPool
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import InvalidResponse, RedisError, ResponseError

READ_BYTES = 65_536
_IS_PUSH = hiredis.PushNotification.__instancecheck__
_NOT_YET = (BlockingIOError, SSLWantReadError, SSLWantWriteError)


@contextmanager
def connecting() -> Iterator[None]:
    """Raise as a lost connection whatever else redis-py stumbles over as it connects: what answers may be no Redis."""
    try:
        yield
    except (RedisError, OSError):
        raise
    except Exception as error:
        raise RedisConnectionError(f"no connection could be made: {type(error).__name__}: {error}") from error


class Channel:
    """Replies come in the order of the commands; an error reply is one of them, as a ResponseError.

    Its socket does not block: Python polls one with a time-out before whatever is done with it, and mostly for nothing.
    """

    def __init__(self, pool: ConnectionPool) -> None:
        """Connect as `pool` says.

        Raises:
          RedisError: no connection, or the password is refused.
        """
        # Not `make_connection`: the pool counts what it has made, and after some hundred lost ones it makes no more.
        connection: Any = pool.connection_class(**pool.connection_kwargs)
        with connecting():
            connection.connect()
        self._connection = connection
        self.socket: Any = connection._sock  # redis-py offers no other way to what it has opened
        self._patience_ms = int(self.socket.gettimeout() * 1000)
        self.socket.setblocking(False)
        self._buffered = getattr(self.socket, "pending", lambda: 0)
        self._reader = hiredis.Reader(protocolError=InvalidResponse, replyError=ResponseError)
        self._read: list[bytes] = []
        self._poll = select.poll()
        self._poll.register(self.socket, select.POLLIN)

    def stale(self) -> bool:
        """Whether there is something to read where nothing was asked: most likely that Redis has gone."""
        return bool(self._poll.poll(0))

    def send(self, packed: bytes) -> None:
        """Raises OSError where the connection is lost; any of the commands may then be carried out."""
        try:
            sent = self.socket.send(packed)
        except _NOT_YET:
            sent = 0
        if sent < len(packed):
            self._send_on(memoryview(packed)[sent:])

    def _send_on(self, rest: memoryview) -> None:
        """Send the rest, as the other side takes it."""
        wanted = select.POLLOUT
        while rest:
            poll = select.poll()
            poll.register(self.socket, wanted)
            self._wait(poll)
            try:
                rest, wanted = rest[self.socket.send(rest) :], select.POLLOUT
            except SSLWantReadError:
                wanted = select.POLLIN
            except _NOT_YET:
                wanted = select.POLLOUT

    def _wait(self, poll: select.poll) -> None:
        if not poll.poll(self._patience_ms):
            raise TimeoutError(f"Redis was silent for {self._patience_ms} ms")

    def receive(self, replies: int) -> list[Any]:
        """Wait for so many replies.

        Raises:
          RedisError, OSError: the connection is lost, or silent for as long as its sockets wait.
        """
        got: list[Any] = []
        while True:
            while len(got) < replies and (reply := self._reader.gets()) is not False:
                if not isinstance(reply, hiredis.PushNotification):
                    got.append(reply)
            if len(got) == replies:
                return got
            if not self._buffered():
                self._wait(self._poll)
            self.read()
            self._feed()

    def read(self) -> None:
        """Keep what there is to read. Nothing, where that is not enough for TLS.

        Raises:
          OSError: the connection is lost.
        """
        try:
            self._read.extend(map(self.socket.recv, (READ_BYTES,)))
        except _NOT_YET:
            return

    def drain(self, got: list[Any]) -> None:
        """Add to `got` the replies that were read and are complete, none of which may be a number.

        An interrupt loses nothing, here or in `read`: between two steps that are each one call of C, nothing is on its
        way that only a variable of a function would hold. What it leaves lying is there the next time.

        Raises:
          RedisError, OSError: the connection is lost.
        """
        if self._buffered():  # TLS has read ahead, which no poll tells
            self.read()
        self._feed()
        got.extend(filterfalse(_IS_PUSH, iter(self._reader.gets, False)))

    def _feed(self) -> None:
        read = self._read
        while read:
            if not read[0]:
                raise RedisConnectionError("the connection broke: closed by Redis")
            list(map(self._reader.feed, map(read.pop, (0,))))

    def close(self) -> None:
        """Drop the connection."""
        self._connection.disconnect()
