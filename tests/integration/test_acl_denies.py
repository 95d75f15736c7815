"""What each Redis user of `broker acl` is denied, and what a user with all rights is not."""

from collections.abc import Sequence

import pytest
import redis
from redis.exceptions import NoPermissionError

from broker.queues import QUEUES
from tests.guarded import Guarded

pytestmark = pytest.mark.redis

DENIED_TO_EVERYBODY: Sequence[Sequence[str | int]] = (
    ("KEYS", "*"),
    ("RANDOMKEY",),
    ("CONFIG", "GET", "*"),
    ("CONFIG", "SET", "maxmemory", "1"),
    ("FLUSHALL",),
    ("FLUSHDB",),
    ("SWAPDB", 0, 1),
    ("CLIENT", "PAUSE", 100),
    ("CLIENT", "UNPAUSE"),
    ("CLIENT", "KILL", "TYPE", "normal"),
    ("CLIENT", "LIST"),
    ("CLIENT", "NO-EVICT", "on"),
    ("CLIENT", "TRACKING", "on", "BCAST"),
    ("ACL", "WHOAMI"),
    ("ACL", "LIST"),
    ("ACL", "SETUSER", "mac-1", "+@all"),
    ("SHUTDOWN",),
    ("REPLICAOF", "127.0.0.1", 1),
    ("MONITOR",),
    ("SELECT", 1),
    ("SUBSCRIBE", "x"),
    ("PUBLISH", "x", "y"),
    ("WAIT", 1, 1),
    ("SAVE",),
    ("MODULE", "LIST"),
    ("LATENCY", "LATEST"),
    ("SLOWLOG", "GET"),
    ("SCRIPT", "FLUSH"),
    ("SCRIPT", "KILL"),
    ("FUNCTION", "LIST"),
    ("FUNCTION", "LOAD", "REPLACE", "#!lua name=theirs"),
    ("FUNCTION", "DELETE", "theirs"),
    ("FUNCTION", "FLUSH"),
    ("FUNCTION", "RESTORE", "x"),
    ("FCALL", "theirs", 0),
    ("FCALL_RO", "theirs", 0),
    ("MIGRATE", "127.0.0.1", 1, "broker:in:claims", 0, 1),
    ("SORT", "broker:in:claims", "STORE", "broker:reply:mac-1:x"),
    ("GET", "somebody-elses:key"),
    ("SET", "somebody-elses:key", 1),
    ("RPUSH", "rq:queue:default", "x"),
    ("HSET", "rq:registry", "a", "b"),
)
DENIED_TO_WHO_ASKS: Sequence[Sequence[str | int]] = (
    ("LRANGE", "broker:reply:mac-10:x", 0, -1),
    ("LPOP", "broker:reply:mac-10:x"),
    ("BLPOP", "broker:reply:mac-10:x", 1),
    ("RPUSH", "broker:reply:mac-1:x", "{}"),
    ("RPUSH", "broker:reply:mac-10:x", "{}"),
    ("DEL", "broker:reply:mac-1:x"),
    ("LPOP", "broker:in:claims"),
    ("LRANGE", "broker:in:leases", 0, -1),
    ("LPUSH", "broker:in:claims", "x"),
    ("LTRIM", "broker:in:claims", 0, 0),
    ("DEL", "broker:in:claims"),
    ("RPUSH", "broker:in:anything", "x"),
    ("BLMOVE", "broker:in:claims", "broker:reply:mac-1:x", "LEFT", "RIGHT", 1),
    ("RPUSH", "rq:queue:claims", "x"),
    ("HSET", "rq:job:x", "data", "x"),
    ("HGETALL", "rq:job:x"),
    ("SET", "broker:answer:r", "job"),
    ("ZADD", "broker:ready:default", 1, "job"),
    ("LRANGE", "broker:dead", 0, -1),
    ("XADD", "broker:events", "MAXLEN", 0, "*", "a", "b"),
    ("HGETALL", "broker:waiting"),
    ("EVAL", "return 1", 0),
    ("EVALSHA", "0" * 40, 0),
    ("SCAN", 0),
    ("EXISTS", "broker:workers"),
    ("INFO",),
    ("MULTI",),
    ("MEMORY", "USAGE", "broker:in:claims"),
    ("OBJECT", "ENCODING", "broker:in:claims"),
    ("DUMP", "broker:in:claims"),
    ("RENAME", "broker:in:claims", "broker:reply:mac-1:x"),
    ("COPY", "broker:in:claims", "broker:reply:mac-1:x"),
    ("LRANGE", "broker:inflight:w:rq", 0, -1),
    ("XDEL", "broker:events", "1-1"),
    ("PING",),
    ("PING", "x" * 1_000),
)
ONLY_FOR_READERS: Sequence[Sequence[str | int]] = (
    ("XREAD", "STREAMS", "broker:events", "0"),
    ("LLEN", "broker:in:claims"),
    ("HLEN", "broker:waiting"),
    ("ZRANGE", "broker:workers", 0, -1),
)
DENIED_TO_SERVERS: Sequence[Sequence[str | int]] = (
    ("COPY", "broker:ready", "broker:ready", "DB", 1),
    ("MOVE", "broker:ready", 1),
    ("EVAL", "return redis.call('GET', 'somebody-elses:key')", 1, "somebody-elses:key"),
)
ONLY_FOR_WORKERS: Sequence[Sequence[str | int]] = (
    ("HSET", "rq:job:x", "data", "x"),
    ("RPUSH", "rq:queue:claims", "x"),
    ("LRANGE", "broker:inflight:w:rq", 0, -1),
    ("LRANGE", "broker:in:leases", 0, -1),
    ("LPOP", "broker:in:jobs"),
    ("LRANGE", "broker:dead", 0, -1),
    ("SET", "broker:once:x", 1),
)


def denied(connection: redis.Redis, command: Sequence[str | int]) -> None:
    """See that the server refuses it for who asks, and for nothing else."""
    with pytest.raises(redis.ResponseError) as refused:
        connection.execute_command(*command)  # type: ignore[no-untyped-call]  # redis-py leaves it untyped
    assert isinstance(refused.value, NoPermissionError) or "ACL failure in script" in str(refused.value)


def named(command: Sequence[str | int]) -> str:
    """The test's name."""
    return " ".join(map(str, command))[:40]


@pytest.mark.parametrize("user", ["mac-1", "ci", "reader", "worker", "sweep"])
@pytest.mark.parametrize("command", DENIED_TO_EVERYBODY, ids=named)
def test_everybody_is_denied(guarded: Guarded, user: str, command: Sequence[str | int]) -> None:
    with guarded.as_user(user) as connection:
        denied(connection, command)


@pytest.mark.parametrize("user", ["mac-1", "ci", "reader"])
@pytest.mark.parametrize("command", DENIED_TO_WHO_ASKS, ids=named)
def test_a_factory_a_submitter_and_a_reader_are_denied(
    guarded: Guarded, user: str, command: Sequence[str | int]
) -> None:
    with guarded.as_user(user) as connection:
        denied(connection, command)


@pytest.mark.parametrize("user", ["mac-1", "ci"])
@pytest.mark.parametrize("command", ONLY_FOR_READERS, ids=named)
def test_who_asks_does_not_look_where_a_reader_does(guarded: Guarded, user: str, command: Sequence[str | int]) -> None:
    with guarded.as_user(user) as connection:
        denied(connection, command)


@pytest.mark.parametrize("user", ["worker", "sweep"])
@pytest.mark.parametrize("command", DENIED_TO_SERVERS, ids=named)
def test_a_worker_and_a_sweep_are_denied(guarded: Guarded, user: str, command: Sequence[str | int]) -> None:
    with guarded.as_user(user) as connection:
        denied(connection, command)


@pytest.mark.parametrize("command", ONLY_FOR_WORKERS, ids=named)
def test_a_sweep_does_not_touch_what_workers_have_in_hand(guarded: Guarded, command: Sequence[str | int]) -> None:
    with guarded.as_user("sweep") as connection:
        denied(connection, command)


@pytest.mark.parametrize("queue", QUEUES)
def test_a_reader_asks_for_nothing(guarded: Guarded, queue: str) -> None:
    with guarded.as_user("reader") as reader:
        denied(reader, ("RPUSH", f"broker:in:{queue}", "{}"))


def test_a_user_with_everything_allowed_would_pass_none_of_this(guarded: Guarded) -> None:
    # The twin: +@all allows each of these as it stands, so a refusal above is the doing of the rules.
    guarded.command("ACL", "SETUSER", "loose", "reset", "on", ">loose-pw", "+@all", "~*", "&*")
    for table in (DENIED_TO_EVERYBODY, DENIED_TO_WHO_ASKS, ONLY_FOR_READERS, DENIED_TO_SERVERS, ONLY_FOR_WORKERS):
        for command in table:
            assert guarded.command("ACL", "DRYRUN", "loose", *command) == b"OK", command
    with guarded.as_user("loose") as loose:
        assert loose.rpush("broker:reply:mac-10:forged", "{}")
        assert loose.lpop("broker:reply:mac-10:forged")
        assert loose.keys("broker:*")
        assert loose.client_pause(1)
    guarded.command("ACL", "DELUSER", "loose")
