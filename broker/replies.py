"""Reply channels: one Redis list for each client, demultiplexed by request id."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import msgspec
from redis.client import Pipeline

from broker.answers import Reply

REPLY_PREFIX = "broker:reply:"
REPLY_TTL_MS = 900_000
"""A channel nobody reads is gone after 15 minutes, the time answers are remembered (design §9)."""
REPLIES_MAX = 4_096
"""A channel holds at most this many unread replies; the oldest go first."""


def reply_key(factory_id: str, instance: str) -> str:
    """The reply channel of one client. Built from a validated envelope, never taken from one."""
    return f"{REPLY_PREFIX}{factory_id}:{instance}"


encode: Callable[[Reply | Mapping[str, Any]], bytes] = msgspec.json.Encoder().encode
"""A reply, or a notice, as it goes over the channel: JSON."""


def push(pipe: Pipeline, key: str, replies: Iterable[bytes]) -> None:
    """Add the commands that deliver `replies` on one channel."""
    # Not pipe.rpush and its like: for each batch they build what is known here, at twice the cost.
    send = pipe.execute_command
    send("RPUSH", key, *replies)  # type: ignore[no-untyped-call]  # redis-py leaves it untyped
    send("LTRIM", key, -REPLIES_MAX, -1)  # type: ignore[no-untyped-call]
    send("PEXPIRE", key, REPLY_TTL_MS)  # type: ignore[no-untyped-call]
