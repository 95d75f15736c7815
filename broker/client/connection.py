"""redis-py at the client's edge, for threads: one connection that reads replies, a few that send requests."""

import selectors
import socket
from collections.abc import Callable, Sequence
from typing import Any

from redis import BlockingConnectionPool, ConnectionPool, Redis
from redis.backoff import NoBackoff
from redis.exceptions import AuthenticationError, RedisError, ResponseError
from redis.retry import Retry

from broker import queues
from broker.queues import Message, Wire

BLOCK_S = 5
"""How long the server blocks one BLPOP."""
DEAD_AFTER_S = 8.0
"""A blocked BLPOP that is not answered for this long stands on a dead connection."""
DRAIN_MAX = 256
"""Replies taken along with the first one."""
SEND_TIMEOUT_S = 3.0
SENDERS_MAX = 8
"""Connections that send. A send is one short round trip, so that few serve many threads."""


class NotSent(Exception):
    """Redis can't be reached. Nothing was sent."""


class NotAccepted(Exception):
    """Redis refused: the password, or the command. Nothing was sent, and a second try would fare no better."""


class MaybeSent(Exception):
    """The connection broke before Redis confirmed. The request may be in the queue."""


def options(password: str | None, timeout_s: float) -> dict[str, Any]:
    """How every connection of a client is made. redis-py sends nothing twice by itself: the client decides that."""
    made: dict[str, Any] = {"socket_timeout": timeout_s, "socket_connect_timeout": timeout_s}
    return made if password is None else made | {"password": password}


def check_accepted(results: Sequence[Any], requests: int) -> None:
    """Raise where Redis refused commands: NotAccepted if it took no request, else MaybeSent."""
    refused = [result for result in results if isinstance(result, Exception)]
    if refused:
        raise (NotAccepted if requests == 1 or len(refused) == len(results) else MaybeSent)(str(refused[0]))


def packed_wait(key: str) -> bytes:
    """What waits for replies. Both in one write: whatever has gathered as BLPOP returns comes along with it."""
    return b"".join(queues.pack(command) for command in (("BLPOP", key, BLOCK_S), ("LPOP", key, DRAIN_MAX)))


def replies_of(told: list[Any] | RedisError) -> list[bytes]:
    """The replies in the answers to that, or the failure."""
    if isinstance(told, RedisError):
        raise told
    for each in told:
        if isinstance(each, RedisError):
            raise each
    first, rest = told
    return ([] if first is None else [first[1]]) + (rest or [])


class Sender:
    """Puts requests on their queues, one round trip at a time. Safe under threads."""

    def __init__(
        self,
        url: str,
        *,
        wire: Wire,
        password: str | None,
        sign: Callable[[str], str] = str,
        connections_max: int = SENDERS_MAX,
    ) -> None:
        self._url, self._wire, self._password, self._sign = url, wire, password, sign
        self._pool = BlockingConnectionPool.from_url(
            url,
            max_connections=connections_max,
            timeout=SEND_TIMEOUT_S,
            retry=Retry(NoBackoff(), 0),
            **options(password, SEND_TIMEOUT_S),
        )
        self._redis = Redis(connection_pool=self._pool)

    @property
    def server(self) -> tuple[str, str | None]:
        """URL and password, for a connection of another kind to the same server."""
        return self._url, self._password

    def another(self) -> "Sender":
        """A sender with one connection of its own, to the same server."""
        return Sender(self._url, wire=self._wire, password=self._password, sign=self._sign, connections_max=1)

    def send(self, messages: Sequence[Message]) -> None:
        """Put all of `messages` on their queues, in one round trip.

        Raises:
          NotSent, NotAccepted: none of them was sent.
          MaybeSent: each of them may have been.
        """
        try:
            connection = self._pool.get_connection()  # type: ignore[no-untyped-call]  # redis-py leaves it untyped
        except AuthenticationError as error:
            raise NotAccepted(str(error)) from error
        except RedisError as error:
            raise NotSent(str(error)) from error
        with self._redis.pipeline(transaction=False) as pipe:
            pipe.connection = connection  # given back to the pool as the block ends
            for command in queues.commands([message.signed(self._sign) for message in messages], self._wire):
                pipe.execute_command(*command)  # type: ignore[no-untyped-call]  # redis-py leaves it untyped
            try:
                check_accepted(pipe.execute(raise_on_error=False), len(messages))
            except RedisError as error:
                raise MaybeSent(str(error)) from error

    def server_ms(self) -> int | None:
        """Broker time, Unix milliseconds; None where this user may not ask.

        Raises:
          NotSent, NotAccepted: Redis can't be reached, or refuses the password.
        """
        try:
            seconds, micros = self._redis.time()
        except AuthenticationError as error:
            raise NotAccepted(str(error)) from error
        except ResponseError:
            return None
        except RedisError as error:
            raise NotSent(str(error)) from error
        return seconds * 1000 + micros // 1000

    def close(self) -> None:
        """Give back the connections."""
        self._redis.close()
        self._pool.disconnect()


class Listener:
    """The one connection that waits for replies. One thread receives; any thread may wake it."""

    def __init__(self, url: str, key: str, *, password: str | None) -> None:
        self._pool = ConnectionPool.from_url(url, retry=Retry(NoBackoff(), 0), **options(password, DEAD_AFTER_S))
        self._connection: Any = None  # redis-py leaves the methods of a connection untyped
        self._key = key
        self._woken, self._waker = socket.socketpair()
        self._armed = False

    def receive(self) -> list[bytes]:
        """Wait for replies and return all there are; an empty list now and then, and after `wake`.

        Raises:
          RedisError, OSError: the connection is lost; the next call makes a new one.
        """
        try:
            return self._receive()
        except (RedisError, OSError):
            self.disconnect()
            raise

    def wake(self) -> None:
        """Let `receive` return."""
        self._waker.send(b"w")

    def disconnect(self) -> None:
        """Drop the connection."""
        connection, self._connection, self._armed = self._connection, None, False
        if connection is not None:
            connection.disconnect()

    def close(self) -> None:
        """Drop the connection for good. To be called once nobody receives."""
        self.disconnect()
        self._pool.disconnect()
        self._woken.close()
        self._waker.close()

    def _receive(self) -> list[bytes]:
        if self._connection is None:
            self._connection = self._pool.make_connection()
            self._connection.connect()
        connection = self._connection
        if not self._armed:
            # Both in one write: whatever has gathered by the time BLPOP returns comes along with it.
            commands = [("BLPOP", self._key, BLOCK_S), ("LPOP", self._key, DRAIN_MAX)]
            connection.send_packed_command(connection.pack_commands(commands))
            self._armed = True
        # redis-py offers no other way to wait for a connection and something else at once.
        ready = self._wait(connection._sock)
        if connection._sock not in ready:
            return []
        first = connection.read_response(disable_decoding=True)
        rest = connection.read_response(disable_decoding=True)
        self._armed = False
        return ([] if first is None else [bytes(first[1])]) + [bytes(text) for text in rest or ()]

    def _wait(self, connected: socket.socket) -> list[Any]:
        with selectors.DefaultSelector() as selector:
            selector.register(connected, selectors.EVENT_READ)
            selector.register(self._woken, selectors.EVENT_READ)
            ready = [key.fileobj for key, _ in selector.select(DEAD_AFTER_S)]
        if not ready:
            raise TimeoutError(f"the reply channel was silent for {DEAD_AFTER_S} s")
        if self._woken in ready:
            self._woken.recv(4096)
        return ready
