"""Tells why Redis takes no writes, where it answers whoever only looks: it is full, its disk is, or it is a replica."""

from collections.abc import Mapping

from redis import Redis
from redis.exceptions import (
    ClusterDownError,
    MasterDownError,
    NoPermissionError,
    OutOfMemoryError,
    ReadOnlyError,
    ResponseError,
    TryAgainError,
)

from broker.acl import NOWHERE
from broker.client.not_now import way_out
from workers import wrong_types

_FIRST_WORDS: Mapping[type[ResponseError], str] = {
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
    except ResponseError as error:
        said = f"{_FIRST_WORDS.get(type(error), '')} {error}".strip()
        if (advice := way_out(said)) is not None:
            return f"Redis takes no writes: {said.partition('. ')[0].rstrip('.')}; {advice}"
        if not wrong_types.met(error):
            raise
    return None
