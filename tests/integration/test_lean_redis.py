"""The workers' own redis-py answers as redis-py does, and after a lost connection connects anew."""

import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from redis import Redis
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import DataError, NoScriptError, ResponseError
from redis.retry import Retry

from workers.lean_redis import LeanRedis

ASK: tuple[Callable[[Redis], Any], ...] = (
    lambda redis: redis.set("a", "1"),
    lambda redis: redis.get("a"),
    lambda redis: redis.get("missing"),
    lambda redis: redis.zadd("z", {"x": 1, "y": 2.5}),
    lambda redis: redis.zrange("z", 0, -1, withscores=True),
    lambda redis: redis.zscore("z", "y"),
    lambda redis: redis.hset("h", mapping={"k": "v", "n": 1}),
    lambda redis: redis.hgetall("h"),
    lambda redis: redis.hmget("h", "k", "none"),
    lambda redis: redis.rpush("l", b"\xff", "two", 3),
    lambda redis: redis.lrange("l", 0, -1),
    lambda redis: sorted(redis.smembers("none")),
    lambda redis: redis.xadd("s", {"f": "v"}, id="1-1"),
    lambda redis: redis.xrange("s"),
    lambda redis: redis.eval("return {1, 'two', false}", 0),
    lambda redis: redis.expire("a", 100),
    lambda redis: redis.exists("a", "missing"),
    lambda redis: redis.info("server")["redis_version"],
    lambda redis: redis.config_get("maxmemory-policy"),
    lambda redis: redis.client_setname("me"),
    lambda redis: next(iter(redis.hscan_iter("h"))),
)


@pytest.fixture
def lean(redis_url: str) -> Iterator[LeanRedis]:
    client = LeanRedis.from_url(redis_url, retry=Retry(NoBackoff(), 0))
    assert isinstance(client, LeanRedis)
    yield client
    client.close()


def test_every_kind_of_reply_is_what_redis_py_makes_of_it(lean: LeanRedis, redis_url: str) -> None:
    with Redis.from_url(redis_url) as plain:
        expected = [ask(plain) for ask in ASK]
        plain.flushall()
        assert [ask(lean) for ask in ASK] == expected


def test_a_pipeline_gives_its_replies_in_order_and_the_first_error(lean: LeanRedis) -> None:
    with lean.pipeline(transaction=False) as pipe:
        pipe.set("a", "text")
        pipe.incr("a")
        pipe.zadd("z", {"x": 1})
        pipe.zrange("z", 0, -1, withscores=True)
        done, error, added, members = pipe.execute(raise_on_error=False)
        assert (done, added, members) == (True, 1, [(b"x", 1.0)])
        assert isinstance(error, ResponseError)
        assert pipe.execute() == []
        pipe.get("a")
        pipe.incr("a")
        with pytest.raises(ResponseError, match="integer"):
            pipe.execute()
    with lean.pipeline(transaction=True) as transaction:
        transaction.set("b", 1)
        assert transaction.execute() == [True]


def test_errors_keep_their_kind(lean: LeanRedis) -> None:
    with pytest.raises(NoScriptError):
        lean.evalsha("0" * 40, 0)
    with pytest.raises(DataError):
        lean.execute_command("SET", "a", object())
    assert lean.ping()


def test_what_was_posted_is_carried_out_in_order_and_read_when_it_is_wanted(lean: LeanRedis) -> None:
    first, second = lean.line.post([("RPUSH", "l", "a")]), lean.line.post([("RPUSH", "l", "b"), ("LLEN", "l")])
    assert lean.lrange("l", 0, -1) == [b"a", b"b"], "whatever is sent later comes after it"
    assert (second.read(), first.read()) == ([2, 2], [1])


def test_what_was_posted_and_not_read_fails_with_the_connection(lean: LeanRedis, redis_client: Redis) -> None:
    assert lean.ping()
    redis_client.client_kill_filter(_id=str(lean.client_id()))
    posted = [lean.line.post([("INCR", "n")]) for _ in range(2)]
    for each in posted:
        with pytest.raises(RedisConnectionError):
            each.read()
    assert lean.incr("n") == 1


def test_threads_do_not_read_each_others_replies(lean: LeanRedis) -> None:
    posted = lean.line.post([("ECHO", "mine")])
    with ThreadPoolExecutor(1) as other:
        assert other.submit(lean.execute_command, "ECHO", "theirs").result() == b"theirs"
    assert posted.read() == [b"mine"]


def test_a_lost_connection_is_told_and_the_next_command_has_another(lean: LeanRedis, redis_client: Redis) -> None:
    redis_client.client_kill_filter(_id=str(lean.client_id()))
    with pytest.raises(RedisConnectionError):
        lean.ping()
    assert lean.ping()


def test_a_connection_that_is_reset_is_a_lost_one(lean: LeanRedis) -> None:
    """Where Redis ends it with bytes on the way, the system's own error comes up, not an end of the stream."""

    class Reset:
        def sendall(self, _data: bytes) -> None: ...
        def recv_into(self, _buffer: bytearray) -> int:
            raise ConnectionResetError(104, "Connection reset by peer")

        def shutdown(self, _how: int) -> None: ...
        def close(self) -> None: ...

    assert lean.ping()
    lean.line._connection._parser._sock = Reset()
    with pytest.raises(RedisConnectionError, match="reset"):
        lean.ping()
    assert lean.ping()


def test_a_child_connects_anew_and_leaves_its_parents_replies_alone(lean: LeanRedis) -> None:
    mine = lean.client_id()
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(writing, str(lean.client_id()).encode())
        os._exit(0)
    os.waitpid(child, 0)
    assert int(os.read(reading, 64)) != mine
    os.close(reading)
    os.close(writing)
    assert lean.client_id() == mine
