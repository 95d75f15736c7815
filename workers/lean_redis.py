"""redis-py without what a worker's round trips don't need: kept connections, one write, one pass over the replies.

A worker makes a round trip or two for each batch, of one request as of sixty-four; through redis-py's own path they
took longer than settling a request does. Commands can be posted, too: their replies are read later, so that Redis
works on them meanwhile. Errors, time-outs and the parsing of replies are redis-py's. Nothing is retried.
"""

import os
import threading
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from redis import ConnectionPool, Redis
from redis.client import EMPTY_RESPONSE, NEVER_DECODE, Pipeline
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import DataError, ReadOnlyError, RedisError
from redis.exceptions import TimeoutError as RedisTimeoutError

from broker.queues import pack

_NO_MORE = (RedisConnectionError, RedisTimeoutError, ReadOnlyError)
"""Errors after which no connection there is, is of use: what failed one may have cut off all of them."""
_NOT_FOR_PARSING = frozenset({"keys", EMPTY_RESPONSE, NEVER_DECODE})
"""What redis-py's own reading of a reply takes out of a command's options."""


class LeanRedis(Redis):
    """A `Redis` for a process that makes many round trips. Safe under threads; after a fork it connects anew."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._lines = threading.local()

    def execute_command(self, *args: Any, **options: Any) -> Any:
        """One command, one round trip.

        Raises:
          RedisError: an error reply, or the connection is lost; then the command may have been carried out.
        """
        [reply] = self.line.post([args]).read()
        if isinstance(reply, Exception):
            raise reply
        return self.parsed(args[0], reply, options)

    def pipeline(self, transaction: bool = True, shard_hint: str | None = None) -> Pipeline:
        """See redis-py. Without `transaction` its commands go out with one write."""
        if transaction:
            return super().pipeline(transaction, shard_hint)
        return LeanPipeline(self)

    @property
    def line(self) -> "Line":
        """This thread's own connection."""
        line: Line | None = getattr(self._lines, "line", None)
        if line is None or line.pid != os.getpid():
            line = self._lines.line = Line(self.connection_pool)
        return line

    def parsed(self, name: Any, reply: Any, options: Any) -> Any:
        """A reply as redis-py gives it back for the command of this name."""
        callback = self.response_callbacks.get(name)  # type: ignore[no-untyped-call]  # redis-py leaves it untyped
        if options:
            options = {key: value for key, value in options.items() if key not in _NOT_FOR_PARSING}
        return reply if callback is None else callback(reply, **options)


class Line:
    """One connection of one thread. Commands go out, and replies come in, in the order they were posted in."""

    def __init__(self, pool: ConnectionPool) -> None:
        self.pid = os.getpid()
        self._pool = pool
        self._connection: Any = None  # redis-py leaves the methods of a connection untyped
        self._unsent: list[bytes] = []
        self._unread: deque[Posted] = deque()

    def post(self, commands: Sequence[Sequence[Any]]) -> "Posted":
        """Have `commands` sent with the next flush, or as soon as anybody reads."""
        text = b"".join(map(packed, commands))
        posted = Posted(self, len(commands))
        self._unsent.append(text)
        self._unread.append(posted)
        return posted

    def flush(self) -> None:
        """Send what was posted, with one write.

        Raises:
          RedisError: the connection is lost. Any of the commands posted and not read may have been carried out.
        """
        if not self._unsent:
            return
        unsent, self._unsent = self._unsent, []
        self._carry(lambda: self._opened().send_packed_command([b"".join(unsent)], check_health=False))

    def read_up_to(self, wanted: "Posted") -> None:
        """Read the replies to all that was posted up to `wanted`. Raises as `flush`."""
        self.flush()
        while wanted.replies is None and wanted.failure is None:
            first = self._unread[0]
            first.replies = self._carry(partial(next_replies, self._connection, first.count))
            self._unread.popleft()

    def _opened(self) -> Any:
        if self._connection is None:
            self._connection = self._pool.get_connection()
        return self._connection

    def _carry(self, act: Callable[[], Any]) -> Any:
        try:
            return act()
        except OSError as error:  # what redis-py's read_response translates
            lost = broken(error)
            self.give_up(lost)
            raise lost from error
        except BaseException as error:
            self.give_up(
                error if isinstance(error, RedisError) else RedisConnectionError("the connection was given up")
            )
            raise

    def give_up(self, failure: RedisError) -> None:
        """Close the connection, and with it every reply that was not read: that failed. The next command opens one."""
        unread, self._unread, self._unsent = self._unread, deque(), []
        for posted in unread:
            posted.failure = failure
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.disconnect()
            self._pool.release(connection)


class Posted:
    """Commands on their way."""

    def __init__(self, line: Line, count: int) -> None:
        self.count = count
        self.replies: list[Any] | None = None
        """Once they are read: raw, an error reply as a ResponseError among them."""
        self.failure: RedisError | None = None
        self._line = line

    def read(self) -> list[Any]:
        """The replies, read now where they were not before.

        Raises:
          RedisError: the connection was lost. Any of the commands may have been carried out.
        """
        if self.replies is None:
            if self.failure is None:
                self._line.read_up_to(self)
            if self.failure is not None:
                raise self.failure
        assert self.replies is not None, "they are read, or they failed"
        return self.replies


class LeanPipeline(Pipeline):
    """Commands that go out together, without a transaction."""

    def __init__(self, redis: LeanRedis) -> None:
        super().__init__(redis.connection_pool, redis.response_callbacks, False, None)
        self._redis = redis

    def execute_command(self, *args: Any, **options: Any) -> "LeanPipeline":
        """See redis-py: one more command to go out. Here none goes out by itself, since nothing is watched."""
        self.command_stack.append((args, options))
        return self

    def reset(self) -> None:  # type: ignore[override]  # redis-py's own has this type, too
        """See redis-py: forget the commands. Nothing is watched, and no connection is held."""
        self.command_stack = []

    def execute(self, raise_on_error: bool = True) -> list[Any]:
        """See redis-py: every command's reply, or with `raise_on_error` the first error."""
        if not self.command_stack:
            return []
        stack, posted = self._posted()
        replies = posted.read()
        if raise_on_error:
            raise_first(replies)
        return [self._parsed(command, reply) for command, reply in zip(stack, replies, strict=True)]

    def post(self) -> Callable[[], list[Any]]:
        """Have the commands sent with the next flush. What is returned waits for their replies, which are raw."""
        if not self.command_stack:
            return list
        _, posted = self._posted()
        return posted.read

    def _posted(self) -> tuple[list[Any], Posted]:
        stack, self.command_stack = self.command_stack, []
        return stack, self._redis.line.post([args for args, _ in stack])

    def _parsed(self, command: Any, reply: Any) -> Any:
        args, options = command
        return reply if isinstance(reply, RedisError) else self._redis.parsed(args[0], reply, options)


def post(pipe: Pipeline) -> Callable[[], list[Any]]:
    """Post what `pipe` holds; with a client that can't, it is carried out now.

    What is returned gives the replies, an error among them. They are raw, or read as redis-py does.
    """
    if isinstance(pipe, LeanPipeline):
        return pipe.post()
    replies: list[Any] = pipe.execute(raise_on_error=False)
    return lambda: replies


def leave(connection: Redis, failure: Exception) -> None:
    """After a failure of that kind, have this thread's next command open a new connection: it may lead elsewhere.

    Where Redis has failed over the server that was may go on answering, that it takes no writes.
    """
    if not isinstance(failure, _NO_MORE):
        return
    if isinstance(connection, LeanRedis):
        connection.line.give_up(failure)
    connection.connection_pool.disconnect(inuse_connections=False)


def next_replies(connection: Any, count: int) -> list[Any]:
    """The next replies on a connection, raw; an error reply is one of them.

    Raises:
      RedisError, OSError: the connection is lost.
    """
    read = connection._parser.read_response  # the connection's own read_response parses no better
    return [read(disable_decoding=True) for _ in range(count)]


def broken(error: OSError) -> RedisError:
    """What redis-py's read_response makes of it."""
    kind = RedisTimeoutError if isinstance(error, TimeoutError) else RedisConnectionError
    return kind(f"the connection broke: {error}")


def first_error(replies: Sequence[Any]) -> RedisError | None:
    """The first error among replies."""
    for reply in replies:
        if isinstance(reply, RedisError):
            return reply
    return None


def raise_first(replies: Sequence[Any]) -> None:
    """Raise the first error among replies."""
    if (error := first_error(replies)) is not None:
        raise error


def flush(connection: Redis) -> None:
    """Send what was posted."""
    if isinstance(connection, LeanRedis):
        connection.line.flush()


def packed(command: Sequence[Any]) -> bytes:
    """A command as it goes over the connection."""
    name = command[0]
    if " " in name:  # redis-py writes some names with their second word
        command = (*name.split(), *command[1:])
    try:
        return pack(command)
    except TypeError as error:
        raise DataError(str(error)) from error
