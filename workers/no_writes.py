"""Tells why Redis takes no writes, where it answers whoever only looks: it is full, its disk is, or it is a replica."""

from collections.abc import Mapping

from redis import Redis
from redis.exceptions import (
    BusyLoadingError,
    ClusterDownError,
    MasterDownError,
    NoPermissionError,
    OutOfMemoryError,
    ReadOnlyError,
    RedisError,
    TryAgainError,
)

from broker.acl import NOWHERE
from broker.client.not_now import way_out
from workers import wrong_types

_FIRST_WORDS: Mapping[type[RedisError], str] = {
    BusyLoadingError: "LOADING",
    OutOfMemoryError: "OOM",
    ReadOnlyError: "READONLY",
    ClusterDownError: "CLUSTERDOWN",
    MasterDownError: "MASTERDOWN",
    TryAgainError: "TRYAGAIN",
}
"""Which redis-py takes off the errors that it knows."""


def no_writes(redis: Redis) -> str | None:
    """Why Redis takes none now, and what helps, as `problem; what to do`. None where it does, or this user may not ask.

    Asked by a write that writes nothing. What INFO says would not do: whether a snapshot that failed stops writes, and
    which memory counts, depends on settings that no user of the broker may read.

    Raises:
      RedisError: anything else.
    """
    try:
        redis.rpushx(NOWHERE, "")
    except NoPermissionError:
        return None  # a user who was given the rules of an earlier release
    except RedisError as error:
        if (refused := refusal(error)) is not None:
            return refused
        if not wrong_types.met(error):
            raise
    return None


def refusal(error: RedisError) -> str | None:
    """Why Redis takes no writes now, where an error says so, and what helps, as `problem; what to do`."""
    said = f"{_FIRST_WORDS.get(type(error), '')} {error}".strip()
    advice = way_out(said)
    return None if advice is None else f"Redis takes no writes: {said.partition('. ')[0].rstrip('.')}; {advice}"
