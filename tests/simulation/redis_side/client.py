"""redis-py's own client and pipeline on top of a simulated server: it makes the commands and reads the replies."""

from collections.abc import Callable, Sequence
from functools import cache
from itertools import count
from typing import Any, TypeAlias

from redis import ConnectionPool, Redis
from redis.client import Pipeline
from redis.exceptions import ResponseError
from redis.lock import Lock

from tests.simulation.redis_side.sorted_commands import Scored

Carry: TypeAlias = Callable[[Sequence[Sequence[Any]]], list[Any]]
"""Sends commands and brings a reply, or a ResponseError, for each; raises a ConnectionError where the line breaks."""


class SimulatedRedis(Redis):
    """A client whose commands are carried to the server by `carry`, which may lose them, or their replies."""

    def __init__(self, carry: Carry, name: str = "client") -> None:
        """`name`: no other client of this server that takes locks has it."""
        vars(self).update(_unconnected())
        self._carry = carry
        self._name = name
        self._locks = count()

    def lock(self, *args: Any, **options: Any) -> Lock:
        """redis-py's, with tokens of ours."""
        lock: Lock = super().lock(*args, **{**options, "lock_class": SimulatedLock})
        return lock

    def another_token(self) -> str:
        """For a lock."""
        return f"{self._name}:{next(self._locks)}"

    def execute_command(self, *args: Any, **options: Any) -> Any:
        """One command, one round trip."""
        [reply] = self._carry([args])
        if isinstance(reply, Exception):
            raise reply
        return self._read(args[0], reply, options)

    def pipeline(self, transaction: bool = True, shard_hint: Any = None) -> Pipeline:
        """Commands to be sent together; never as a transaction, which the broker does not use."""
        assert not transaction, "the broker sends no transactions"
        assert shard_hint is None
        return SimulatedPipeline(self)

    def _read(self, command: Any, reply: Any, options: Any) -> Any:
        if type(reply) is list and reply and type(reply[0]) is Scored:  # pairs as the third version of the protocol has
            reply = [list(each) for each in reply]
        callback = self.response_callbacks.get(command)  # type: ignore[no-untyped-call]  # redis-py's own
        if callback is None:
            return reply
        if not options:
            return callback(reply)
        options.pop("keys", None)
        return callback(reply, **options)


@cache
def _unconnected() -> dict[str, Any]:
    """What a client of redis-py consists of. To make it takes as long as a hundred simulated commands."""
    made = vars(Redis(connection_pool=ConnectionPool()))
    # By name, as redis-py writes them itself: its own dict looks at the case of each.
    return {**made, "response_callbacks": dict(made["response_callbacks"])}


class SimulatedLock(Lock):
    """redis-py's, but for its token: a UUID would be another one in each run, and takes longer than the command."""

    redis: SimulatedRedis

    def acquire(self, *args: Any, **options: Any) -> bool:
        """As redis-py's."""
        held: bool = super().acquire(*args, **{"token": self.redis.another_token(), **options})
        return held


class SimulatedPipeline(Pipeline):
    """Collects commands as redis-py's does."""

    def __init__(self, redis: SimulatedRedis) -> None:
        super().__init__(redis.connection_pool, redis.response_callbacks, False, None)
        self._redis = redis

    def reset(self) -> None:  # type: ignore[override]  # as its base has it
        """Forget what was collected. There is no connection to give back."""
        self.command_stack = []

    def execute(self, raise_on_error: bool = True) -> list[Any]:
        """Send what was collected. The first error is raised once every reply is there."""
        stack, self.command_stack = self.command_stack, []
        if not stack:
            return []
        replies = self._redis._carry([args for args, _ in stack])
        if raise_on_error:
            self.raise_first_error(stack, replies)  # type: ignore[no-untyped-call]  # redis-py's own
        read = self._redis._read
        return [
            reply if isinstance(reply, ResponseError) else read(args[0], reply, options)
            for (args, options), reply in zip(stack, replies, strict=True)
        ]
