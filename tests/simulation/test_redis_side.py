"""The simulated Redis answers as a real Valkey does, command by command and through the production scripts."""

from collections.abc import Callable, Sequence
from random import Random
from typing import Any, cast

import pytest
import redis
from redis.exceptions import OutOfMemoryError, ResponseError

from broker.entropy import SeededEntropy
from broker.messages import Envelope
from datastore.memory import MemoryDatastore
from tests.in_process import InProcess
from tests.simulation.redis_side.client import SimulatedRedis
from tests.simulation.redis_side.lua import Lua
from tests.simulation.redis_side.scarcity import FREE_MEMORY, NEED_MEMORY
from tests.simulation.redis_side.server import COMMANDS as KNOWN
from tests.simulation.redis_side.server import Server
from workers.taking import WORKERS

KEYS = ("a", "b", "c")
Make = Callable[[Random], list[Any]]


def _members(random: Random) -> list[str]:
    return [f"m{random.randrange(6)}" for _ in range(random.randint(1, 3))]


def _scored(random: Random) -> list[Any]:
    return [part for member in _members(random) for part in (random.choice((1, 2, 2.5, 1700000000000.001)), member)]


def _span(random: Random) -> list[int]:
    return [random.randint(-4, 4), random.randint(-4, 4)]


def _bounds(random: Random) -> list[str]:
    return [random.choice(("-inf", "1", "(1", "2")), random.choice(("+inf", "2", "(2.5", "1"))]


COMMANDS: dict[str, Make] = {
    "SET": lambda random: [random.choice("xy"), *random.choice(([], ["NX"], ["XX"], ["PX", "60000"]))],
    "GET": lambda _: [],
    "MGET": lambda random: [random.choice(KEYS)],
    "DEL": lambda _: [],
    "EXISTS": lambda _: [],
    "TYPE": lambda _: [],
    "PEXPIRE": lambda _: [60_000],
    "LPUSH": _members,
    "RPUSH": _members,
    "LPOP": lambda random: random.choice(([], [2])),
    "LMOVE": lambda random: [random.choice(KEYS), random.choice(("LEFT", "RIGHT")), random.choice(("LEFT", "RIGHT"))],
    "LRANGE": _span,
    "LTRIM": _span,
    "LREM": lambda random: [random.randint(0, 2), *_members(random)[:1]],
    "LLEN": lambda _: [],
    "HSET": lambda random: [part for member in _members(random) for part in (member, "v")],
    "HGET": lambda random: _members(random)[:1],
    "HMGET": _members,
    "HDEL": _members,
    "HLEN": lambda _: [],
    "HRANDFIELD": lambda _: [9],
    "HSTRLEN": lambda random: _members(random)[:1],
    "SADD": _members,
    "SREM": _members,
    "SMEMBERS": lambda _: [],
    "SCARD": lambda _: [],
    "ZADD": lambda random: [
        *random.choice(([], ["NX"], ["XX"], ["XX", "GT"], ["XX", "GT", "CH"], ["LT"], ["CH"])),
        *_scored(random),
    ],
    "ZREM": _members,
    "ZCARD": lambda _: [],
    "ZCOUNT": _bounds,
    "ZSCORE": lambda random: _members(random)[:1],
    "ZMSCORE": _members,
    "ZRANGE": lambda random: [*_span(random), *random.choice(([], ["WITHSCORES"]))],
    "ZREVRANGE": lambda random: [*_span(random), *random.choice(([], ["WITHSCORES"]))],
    "ZRANGEBYSCORE": lambda random: [*_bounds(random), *random.choice(([], ["LIMIT", 0, 2], ["LIMIT", 1, 1]))],
    "ZREMRANGEBYSCORE": _bounds,
    "ZREMRANGEBYRANK": _span,
    "ZPOPMIN": lambda random: [random.randint(1, 2)],
}


def simulated() -> SimulatedRedis:
    """A server of its own, at a time that stands still."""
    server = Server(Lua(), lambda: 1_700_000_000_000)

    def carry(commands: Sequence[Sequence[Any]]) -> list[Any]:
        replies: list[Any] = []
        for command in commands:
            try:
                replies.append(server.execute(command))
            except ResponseError as error:
                replies.append(error)
        return replies

    return SimulatedRedis(carry)


def _answer(client: redis.Redis, command: Sequence[Any]) -> Any:
    try:
        return client.execute_command(*command)  # type: ignore[no-untyped-call]  # redis-py's own
    except ResponseError as error:
        return str(error).split()[0]


@pytest.mark.parametrize("seed", range(4))
def test_it_answers_every_command_as_valkey_does(redis_client: redis.Redis, seed: int) -> None:
    random, ours = Random(seed), simulated()
    for _ in range(1_500):
        name = random.choice(list(COMMANDS))
        command = [name, random.choice(KEYS), *COMMANDS[name](random)]
        assert _answer(ours, command) == _answer(redis_client, command), command
        if random.random() < 0.02:
            key = random.choice(KEYS)
            assert _answer(ours, ["DEL", key]) == _answer(redis_client, ["DEL", key])


def test_it_refuses_what_a_full_valkey_refuses(redis_client: redis.Redis) -> None:
    flags: dict[bytes, set[str]] = {}
    for name in KNOWN:
        told = redis_client.execute_command("COMMAND", "INFO", name)  # type: ignore[no-untyped-call]  # redis-py's own
        [info] = cast(dict[str, Any], told).values()
        flags[name] = set(info["flags"])
    assert {name for name in flags if "denyoom" in flags[name]} == NEED_MEMORY
    assert {name for name in flags if "write" in flags[name]} - NEED_MEMORY == FREE_MEMORY


def test_a_script_that_has_freed_memory_is_let_finish_by_a_full_valkey_too(redis_client: redis.Redis) -> None:
    full = Server(Lua(), lambda: 1_700_000_000_000)
    full.full = True
    redis_client.config_set("maxmemory", 1)
    try:
        for text in ("return redis.call('SET', 'a', 1)", "redis.call('GET', 'a') return redis.call('SET', 'a', 1)"):
            with pytest.raises(OutOfMemoryError):
                redis_client.eval(text, 0)
            with pytest.raises(OutOfMemoryError):
                full.execute(("EVAL", text, 0))
        text = "redis.call('DEL', 'none') return redis.call('RPUSH', 'a', 1)"
        assert redis_client.eval(text, 0) == full.execute(("EVAL", text, 0)) == 1
    finally:
        redis_client.config_set("maxmemory", 0)


@pytest.mark.parametrize(("how", "left_ms"), [([], -1), (["PX", 60_000], 60_000), (None, -2)])
def test_it_says_how_long_a_key_stands(redis_client: redis.Redis, how: list[Any] | None, left_ms: int) -> None:
    for client in (simulated(), redis_client):
        if how is not None:
            client.execute_command("SET", "a", "x", *how)  # type: ignore[no-untyped-call]  # redis-py's own
        assert left_ms - 10_000 <= client.pttl("a") <= left_ms
        assert (client.pttl("a") < 0) == (left_ms < 0)


@pytest.mark.parametrize("size", [0, 1, 5, 700])
def test_a_scan_of_a_set_finds_whoever_stays_while_others_come_and_go(redis_client: redis.Redis, size: int) -> None:
    stay = {f"stays-{number}" for number in range(size)}
    for client in (simulated(), redis_client):
        if size:
            client.sadd("a", *stay, *(f"goes-{number}" for number in range(size)))
        found: list[bytes | str] = []
        cursor, calls = 0, 0
        while calls == 0 or cursor:
            cursor, members = client.sscan("a", cursor, count=16)
            found += members
            client.srem("a", f"goes-{calls}")
            client.sadd("a", f"comes-{calls}")
            calls += 1
        assert {each.encode() for each in stay} <= set(found)
        assert (calls > 1) == (size > 5) or client is not redis_client, "a small set comes at once from a real one"
        client.delete("a")
        assert client.sscan("a", cursor, count=16) == (0, [])
        client.set("b", "no set")
        with pytest.raises(ResponseError, match="WRONGTYPE"):
            client.sscan("b", 0)


class Lockstep:
    """One broker on each server: the same requests, step by step."""

    def __init__(self, clients: Sequence[redis.Redis]) -> None:
        self.brokers = [
            InProcess(MemoryDatastore(etag_prefix="e"), client, entropy=SeededEntropy(7)) for client in clients
        ]

    def ask(self, op: str, **fields: Any) -> list[dict[str, Any]]:
        """Carry out one request on each; what is then in each Redis."""
        found = []
        for broker in self.brokers:
            request: Envelope = broker.caller.make(op, **fields)
            broker.caller.send(request)
            broker.serve()
            found.append(self._left(broker))
        return found

    def _left(self, broker: InProcess) -> dict[str, Any]:
        """Everything in Redis, without what tells of real time or of one sender's name."""
        found: dict[str, Any] = {}
        for key in sorted(broker.redis.scan_iter()):
            name = key.decode()
            if name == WORKERS or name.startswith(("broker:reply:", "broker:events")):
                continue
            match broker.redis.type(name):
                case b"zset":
                    found[name] = broker.redis.zrange(name, 0, -1, withscores=True)
                case b"hash":
                    found[name] = broker.redis.hlen(name)
                case b"set":
                    found[name] = broker.redis.smembers(name)
                case kind:
                    found[name] = kind
        return found


def test_the_production_scripts_leave_the_same_behind(redis_client: redis.Redis) -> None:
    both = Lockstep([simulated(), redis_client])
    steps: list[tuple[str, dict[str, Any]]] = [
        ("submit", {"job_id": "a", "priority": 3}),
        ("submit", {"job_id": "b", "fairness_key": "tenant"}),
        ("submit", {"job_id": "c", "fairness_key": "tenant", "requires": ["gpu"]}),
        ("submit", {"job_id": "d", "prefers": {"gpu": 5}}),
        ("claim", {"request_id": "c1", "offers": ["gpu"]}),
        ("claim", {"request_id": "c2"}),
        ("claim", {"request_id": "c3", "offers": ["gpu"], "count": 2}),
        ("claim", {"request_id": "c4", "wait_ms": 30_000}),
        ("claim", {"request_id": "c4", "wait_ms": 30_000}),
        ("submit", {"job_id": "e", "locks": ["repo"]}),
        ("submit", {"job_id": "f", "locks": ["repo"]}),
        ("claim", {"request_id": "c5"}),
        ("cancel", {"job_id": "f"}),
    ]
    for op, fields in steps:
        ours, theirs = both.ask(op, **fields)
        assert ours == theirs, (op, fields)
