"""redis-py without what a worker's round trips don't need: kept connections, one write, one pass over the replies.

A worker makes two round trips for each batch, of one request as of sixty-four; through redis-py's own path they took
longer than settling a request does. Errors, time-outs and the parsing of replies are redis-py's. Nothing is retried.
"""

import os
from collections.abc import Sequence
from typing import Any

import hiredis
from redis import Redis
from redis.client import EMPTY_RESPONSE, NEVER_DECODE, Pipeline
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import DataError, RedisError
from redis.exceptions import TimeoutError as RedisTimeoutError

_NOT_FOR_PARSING = frozenset({"keys", EMPTY_RESPONSE, NEVER_DECODE})
"""What redis-py's own reading of a reply takes out of a command's options."""


class LeanRedis(Redis):
    """A `Redis` for a process that makes many round trips. Safe under threads; after a fork it connects anew."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._kept: list[Any] = []
        self._pid = os.getpid()

    def execute_command(self, *args: Any, **options: Any) -> Any:
        """One command, one round trip.

        Raises:
          RedisError: an error reply, or the connection is lost; then the command may have been carried out.
        """
        [reply] = self.exchange([args])
        if isinstance(reply, Exception):
            raise reply
        return self.parsed(args[0], reply, options)

    def pipeline(self, transaction: bool = True, shard_hint: str | None = None) -> Pipeline:
        """See redis-py. Without `transaction` its commands go out with one write."""
        if transaction:
            return super().pipeline(transaction, shard_hint)
        return LeanPipeline(self)

    def exchange(self, commands: Sequence[Sequence[Any]]) -> list[Any]:
        """The replies to `commands`, raw; an error reply is a ResponseError among them.

        Raises:
          RedisError: the connection is lost. Any of the commands may have been carried out.
        """
        if self._pid != os.getpid():
            self._pid, self._kept = os.getpid(), []
        connection = self._kept.pop() if self._kept else self.connection_pool.get_connection()
        try:
            # Any: redis-py leaves the methods of a connection untyped. Its own read_response parses no better.
            connection.send_packed_command([b"".join(map(_packed, commands))], check_health=False)
            read = connection._parser.read_response
            replies = [read(disable_decoding=True) for _ in commands]
        except OSError as error:  # what redis-py's read_response translates
            self._drop(connection)
            kind = RedisTimeoutError if isinstance(error, TimeoutError) else RedisConnectionError
            raise kind(f"the connection broke: {error}") from error
        except BaseException:
            self._drop(connection)
            raise
        self._kept.append(connection)
        return replies

    def parsed(self, name: Any, reply: Any, options: Any) -> Any:
        """A reply as redis-py gives it back for the command of this name."""
        callback = self.response_callbacks.get(name)  # type: ignore[no-untyped-call]  # redis-py leaves it untyped
        if options:
            options = {key: value for key, value in options.items() if key not in _NOT_FOR_PARSING}
        return reply if callback is None else callback(reply, **options)

    def _drop(self, connection: Any) -> None:
        """One is lost: the others, of the same server, most likely too."""
        kept, self._kept = self._kept, []
        for each in (connection, *kept):
            each.disconnect()
            self.connection_pool.release(each)


class LeanPipeline(Pipeline):
    """Commands that go out together, without a transaction."""

    def __init__(self, redis: LeanRedis) -> None:
        super().__init__(redis.connection_pool, redis.response_callbacks, False, None)
        self._redis = redis

    def execute(self, raise_on_error: bool = True) -> list[Any]:
        """See redis-py: every command's reply, or with `raise_on_error` the first error."""
        stack, self.command_stack = self.command_stack, []
        if not stack:
            return []
        replies = self._redis.exchange([args for args, _ in stack])
        for position, (args, options) in enumerate(stack):
            reply = replies[position]
            if not isinstance(reply, RedisError):
                replies[position] = self._redis.parsed(args[0], reply, options)
            elif raise_on_error:
                raise reply
        return replies


def _packed(command: Sequence[Any]) -> bytes:
    name = command[0]
    if " " in name:  # redis-py writes some names with their second word
        command = (*name.split(), *command[1:])
    try:
        packed: bytes = hiredis.pack_command(tuple(command))
    except TypeError as error:
        raise DataError(str(error)) from error
    return packed
