"""The client's edge for threads: a few connections that send requests, and what both clients know of connections."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from queue import Empty, SimpleQueue
from typing import Any

from redis import ConnectionPool
from redis.backoff import NoBackoff
from redis.exceptions import AuthenticationError, InvalidResponse, RedisError, ResponseError
from redis.retry import Retry

from broker import queues
from broker.client.channel import Channel
from broker.client.errors import BrokerUnavailable, InvalidUrl
from broker.client.not_now import way_out
from broker.queues import Message, Sign, Wire
from broker.redis_password import Password, let_in
from broker.redis_urls import checked, require_known_options

BLOCK_S = 5
"""How long the server blocks one BLPOP."""
LOOK_S = 0.01
"""How long the first one on a connection that takes the place of a lost one: its answer tells that this one is read."""
DEAD_AFTER_S = 8.0
"""A blocked BLPOP that is not answered for this long stands on a dead connection."""
DRAIN_MAX = 256
"""Replies taken along with the first one."""
SEND_TIMEOUT_S = 3.0
"""How long Redis may take to confirm what is sent, and to take a new connection of either kind."""
SENDERS_MAX = 8
"""Connections that send. A send is one short round trip, so that few serve many threads."""


class NotSent(Exception):
    """Redis can't be reached, or takes nothing now. Nothing was sent."""


class NotAccepted(Exception):
    """Redis refused: the password, or the command. Nothing was sent, and a second try would fare no better."""

    advice = "check the user and its rights (those of `broker acl` are for BROKER_WIRE=intake)"


class NotLetIn(NotAccepted):
    """It refused the password, or there is none."""

    advice = "give the one of the URL's user, or of `default`: BROKER_REDIS_PASSWORD_FILE, or in Python password"


class MaybeSent(Exception):
    """The connection broke before Redis confirmed. The request may be in the queue."""


class NotHeard(Exception):
    """Redis does not let this user read the replies that a client would wait for. Nothing was sent."""


def is_refused(error: Exception) -> bool:
    """Whether Redis refused the password, which redis-py's asyncio may have wrapped."""
    return isinstance(error, AuthenticationError) or isinstance(error.__cause__, AuthenticationError)


def unsent(error: Exception) -> NotSent | NotAccepted:
    """What a failure to connect means for whatever was to be sent."""
    return (NotLetIn if is_refused(error) else NotSent)(str(error))


def shut_out(error: NotSent | NotAccepted | NotHeard, factory_id: str) -> BrokerUnavailable:
    """The failure to raise where a client can't even ask for the time, or would hear no answer."""
    if isinstance(error, NotHeard):
        named = "ask in the name that its rights are for: BROKER_FACTORY=NAME, --factory NAME, or in Python factory_id"
        what = f"Redis does not let this user read the replies to factory {factory_id}: {error}"
        return BrokerUnavailable(f"{what}; nothing was sent; {named}", refused=True)
    if isinstance(error, NotAccepted):
        return BrokerUnavailable(f"Redis refused the password: {error}; {NotLetIn.advice}", refused=True)
    return BrokerUnavailable(f"Redis is not reachable: {error}; start it, or check its URL")


@contextmanager
def url_told() -> Iterator[None]:
    """A URL that can't be used, found out in the block, is an argument of the client's like any other.

    Raises:
      InvalidUrl: in place of every ValueError.
    """
    try:
        yield
    except ValueError as error:
        raise InvalidUrl(f"{error}; use redis://HOST:PORT/DB, rediss:// or unix://PATH") from None


def options(timeout_s: float) -> dict[str, Any]:
    """How every connection of a client is made. redis-py sends nothing twice by itself: the client decides that."""
    return {"socket_timeout": timeout_s, "socket_connect_timeout": timeout_s}


def check_accepted(results: Sequence[Any], requests: int) -> None:
    """Do nothing where Redis refused no command.

    Raises:
      NotSent: it took no request, and may take it soon.
      NotAccepted: it took none, and will not.
      MaybeSent: it took some.
    """
    refused = [result for result in results if isinstance(result, Exception)]
    if refused:
        why = str(refused[0])
        # Of one alone the push decides, which is the last command.
        if len(refused) < len(results) and (requests > 1 or not isinstance(results[-1], Exception)):
            raise MaybeSent(why)
        raise (NotAccepted if way_out(why) is None else NotSent)(why)


def packed_wait(key: str) -> bytes:
    """What waits for replies. Both in one write: whatever has gathered as BLPOP returns comes along with it."""
    return _packed(key, BLOCK_S)


def packed_look(key: str) -> bytes:
    """The same for a moment."""
    return _packed(key, LOOK_S)


def _packed(key: str, block_s: float) -> bytes:
    return b"".join(queues.pack(command) for command in (("BLPOP", key, block_s), ("LPOP", key, DRAIN_MAX)))


_are_texts = frozenset({bytes}).issuperset


def replies_of(told: list[Any] | RedisError) -> list[bytes]:
    """The replies in the answers to that, or the failure.

    Raises:
      InvalidResponse: nothing that Redis says to this: whatever comes next on the connection answers something else.
    """
    if isinstance(told, RedisError):
        raise told
    for each in told:
        if isinstance(each, RedisError):
            raise each
    first, rest = told
    texts: list[bytes] | None = None
    with suppress(TypeError, LookupError):
        texts = ([] if first is None else [first[1]]) + (rest or [])
    if texts is None or not _are_texts(map(type, texts)):
        kinds = " and ".join(type(each).__name__ for each in told)  # what stands in them may be a grant
        raise InvalidResponse(f"Redis answered a wait for replies with {kinds}")
    return texts


def told_ms(now: Any) -> int:
    """The answer to TIME in milliseconds.

    Raises:
      NotSent: it is none.
    """
    try:
        seconds, micros = now
        return int(seconds) * 1000 + int(micros) // 1000
    except (TypeError, ValueError) as error:
        raise NotSent(f"what answers is no Redis: to TIME it says {type(now).__name__}") from error


class Sender:
    """Puts requests on their queues, one round trip at a time. Safe under threads."""

    def __init__(
        self,
        url: str,
        *,
        wire: Wire,
        password: Password | None,
        sign: Sign | None = None,
        connections_max: int = SENDERS_MAX,
    ) -> None:
        self._url, self._wire, self._password, self._sign = url, wire, password, sign
        self._pool = ConnectionPool.from_url(checked(url), retry=Retry(NoBackoff(), 0), **options(SEND_TIMEOUT_S))
        let_in(self._pool, password)
        self._free: list[Channel] = []
        self._places: SimpleQueue[None] = SimpleQueue()
        for _ in range(connections_max):
            self._places.put(None)
        self._closed = False

    @property
    def server(self) -> tuple[str, Password | None]:
        """URL and password, for a connection of another kind to the same server."""
        return self._url, self._password

    def check_url(self) -> None:
        """Do nothing where a connection can be made of its URL; none is opened.

        Raises:
          ValueError: the URL has an option that no connection knows.
        """
        require_known_options(self._pool)

    def another(self) -> "Sender":
        """A sender with one connection of its own, to the same server."""
        return Sender(self._url, wire=self._wire, password=self._password, sign=self._sign, connections_max=1)

    def send(self, messages: Sequence[Message], meanwhile: Callable[[], None] | None = None) -> None:
        """Put all of `messages` on their queues, in one round trip. `meanwhile` is called while it is on its way.

        Raises:
          NotSent, NotAccepted: none of them was sent.
          MaybeSent: each of them may have been.
        """
        sign = self._sign
        if sign is not None:
            messages = [message.signed(sign) for message in messages]
        packed, replies = queues.packed(messages, self._wire)
        try:
            told = self._carry(packed, replies, meanwhile)
        except (RedisError, OSError) as error:
            raise MaybeSent(str(error)) from error
        try:
            check_accepted(told, len(messages))
        except NotSent:
            self._close_free()  # where Redis has failed over, new ones may lead to another server
            raise

    def server_ms(self, channel: str) -> int | None:
        """Broker time, Unix milliseconds; None where this user may not ask.

        Raises:
          NotSent, NotAccepted: Redis can't be reached, or refuses the password.
          NotHeard: this user may not read what comes on `channel`, a reply channel that is still empty.
        """
        questions = queues.pack(("TIME",)) + queues.pack(("LPOP", channel, 1))
        try:
            now, replies = self._carry(questions, 2, None)
        except (RedisError, OSError) as error:
            raise NotSent(str(error)) from error
        if isinstance(replies, ResponseError) and str(replies).startswith("NOPERM"):
            raise NotHeard(str(replies))
        return None if isinstance(now, ResponseError) else told_ms(now)

    def close(self) -> None:
        """Give back the connections."""
        self._closed = True
        self._close_free()

    def _carry(self, packed: bytes, replies: int, meanwhile: Callable[[], None] | None) -> list[Any]:
        """One round trip.

        Raises:
          NotSent, NotAccepted: there is no connection.
          RedisError, OSError: it broke.
        """
        place: list[None] = []
        try:
            # Taken and noted in one call of C: an interrupt in between would leave one place less for good.
            place.extend(map(self._places.get, (True,), (SEND_TIMEOUT_S,)))
            channel = self._open()
            try:
                channel.send(packed)
                if meanwhile is not None:
                    meanwhile()
                told = channel.receive(replies)
            except BaseException as error:  # also an interrupt: what this one asked must not be answered to the next
                channel.close()
                if isinstance(error, RedisError | OSError):
                    self._close_free()  # they lead the same way: each would be tried at the price of a time-out
                raise
            self._free.append(channel)
        except Empty:
            raise NotSent(f"every connection was busy for {SEND_TIMEOUT_S} s") from None
        finally:
            if place:
                self._places.put(None)
        if self._closed:
            self.close()
        return told

    def _open(self) -> Channel:
        while (channel := self._take_free()) is not None:
            if not channel.stale():
                return channel
            channel.close()
        try:
            return Channel(self._pool)
        except (RedisError, OSError) as error:
            raise unsent(error) from error

    def _take_free(self) -> Channel | None:
        try:
            return self._free.pop()
        except IndexError:  # or another thread was quicker
            return None

    def _close_free(self) -> None:
        while (channel := self._take_free()) is not None:
            channel.close()
