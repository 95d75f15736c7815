"""What a server that has no memory left refuses, and what it lets a script do."""

from collections.abc import Callable, Sequence
from typing import Any

from redis.exceptions import OutOfMemoryError

NEED_MEMORY = frozenset(b"HSET LMOVE LPUSH RPUSH SADD SET XADD ZADD".split())
"""Commands that it refuses, of those that the simulation knows."""
FREE_MEMORY = frozenset(
    b"DEL EXPIRE FLUSHALL GETDEL HDEL LPOP LREM LTRIM PEXPIRE SREM UNLINK ZPOPMIN ZREM ZREMRANGEBYRANK "
    b"ZREMRANGEBYSCORE".split()
)
"""Commands that write and need none. A script that has carried one out is let finish."""


def refuse(name: bytes) -> None:
    """Raises OutOfMemoryError for a command that needs memory."""
    if name in NEED_MEMORY:
        raise OutOfMemoryError("command not allowed when used memory > 'maxmemory'.")


class Scarce:
    """What one script may call in a full server."""

    def __init__(self, carry_out: Callable[[bytes, Sequence[bytes]], Any]) -> None:
        self._carry_out = carry_out
        self._has_written = False

    def __call__(self, name: bytes, rest: Sequence[bytes]) -> Any:
        if not self._has_written:
            refuse(name)
            self._has_written = name in FREE_MEMORY
        return self._carry_out(name, rest)
