"""Redis users as `broker acl` makes them: each does its own work through our own code, and nothing else."""

import asyncio
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, cast
from urllib.parse import urlsplit

import pytest
import redis
from redis.exceptions import NoPermissionError

from broker.acl import RedisRole, user_line
from broker.client import AsyncClient, BrokerTimeout, BrokerUnavailable, Client, Reply
from broker.queues import QUEUES
from broker.settings import load
from tests.caller import Caller
from tests.fleet import Fleet
from tests.home import Home
from tests.processes import wait_for
from workers.embedded import EmbeddedServer, start_embedded
from workers.fleet_status import look
from workers.runtime import StartError, check_redis, connect_redis
from workers.state_dir import StateDir

pytestmark = pytest.mark.redis

USERS: Sequence[tuple[str, RedisRole]] = (
    ("mac-1", RedisRole.FACTORY),
    ("mac-10", RedisRole.FACTORY),
    ("ci", RedisRole.SUBMITTER),
    ("reader", RedisRole.READER),
    ("worker", RedisRole.WORKER),
    ("sweep", RedisRole.SWEEP),
)


class Guarded:
    """A server whose users have their roles and no more, with a fleet on it."""

    def __init__(self, server: EmbeddedServer, folder: Path) -> None:
        self.server = server
        with redis.Redis.from_url(server.url) as first:
            first.execute_command("ACL", "SETUSER", "admin", "on", ">admin-pw", "~*", "&*", "+@all")
            first.execute_command("ACL", "SETUSER", "default", "off")
        self.admin = redis.Redis.from_url(self.url("admin"))
        for name, role in USERS:
            self.command(*user_line(name, role, factory=name, password=f"{name}-pw").split())
        self.fleet = Fleet(self.url("admin"), folder)
        self.worker = self.fleet.start_worker({"BROKER_REDIS_URL": self.url("worker")})
        self.sweep = self.fleet.start_sweep(
            {"BROKER_REDIS_URL": self.url("sweep"), "BROKER_SWEEP_INTERVAL_MS": "300", "BROKER_SKEW_MS": "100"}
        )

    def command(self, *words: str | int) -> None:
        """As the administrator."""
        self.admin.execute_command(*words)  # type: ignore[no-untyped-call]  # redis-py leaves it untyped

    def url(self, user: str) -> str:
        """Where a user logs in."""
        parts = urlsplit(self.server.url)
        return parts._replace(netloc=f"{user}:{user}-pw@{parts.netloc}").geturl()

    def client(self, user: str, factory: str | None = None, **options: Any) -> Client:
        return Client.connect(self.url(user), factory_id=factory or user, wire="intake", **options)

    def as_user(self, user: str) -> redis.Redis:
        return redis.Redis.from_url(self.url(user))

    def denied(self) -> list[tuple[str, str]]:
        """What the server has refused to whom, since the last look."""
        log = cast(list[dict[str, Any]], self.admin.acl_log())
        self.admin.acl_log_reset()
        return [(_text(entry["username"]), _text(entry["object"])) for entry in log]


def _text(value: bytes | str) -> str:
    return value.decode() if isinstance(value, bytes) else value


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guarded]:
    folder = tmp_path_factory.mktemp("acl")
    server = start_embedded(StateDir.at(folder / "valkey"))
    made = Guarded(server, folder)
    yield made
    made.fleet.close()
    made.admin.close()
    server.stop()


def granted(client: Client, job: str | None) -> Reply | None:
    """The grant of a job, or none yet."""
    reply = client.claim(job) if job is not None else client.claim(offers=["gpu"], wait_ms=5_000)
    return reply if reply.granted else None


def test_every_role_does_its_own_work_and_the_server_has_refused_nothing(guarded: Guarded) -> None:
    guarded.denied()
    with guarded.client("ci") as ci, guarded.client("mac-1") as factory, guarded.client("mac-10") as other:
        for name, fields in {
            "one": {}, "child": {"depends_on": ["one"]}, "locked": {"locks": ["repo:x"]},
            "keyed": {"fairness_key": "t"}, "later": {"not_before_ms": 1},
            "limited": {"concurrency": ["gpu"]}, "gpu": {"requires": ["gpu"]},
        }.items():  # fmt: skip
            assert ci.submit(name, job_id=name, **cast(dict[str, Any], fields)).good
        assert ci.set_limit("key:gpu", capacity=1).good
        assert factory.register(offers=["gpu"], capacity=2).good
        with factory.lease("one", wait_ms=1_000) as lease:
            lease.complete()
        for job in ("child", "locked", "keyed", "later", "limited"):
            grant = wait_for(partial(granted, factory, job), f"{job} is to be had")
            assert factory.renew(job, epoch=grant.body["epoch"], token=grant.body["token"]).good
            assert factory.complete(job, epoch=grant.body["epoch"], token=grant.body["token"]).good
        dead = factory.claim(ttl_ms=1_000)
        assert dead.body["job_id"] == "gpu"
        taken = wait_for(partial(granted, other, None), "the sweep reaps")
        assert taken.body["epoch"] == 2
        assert ci.job("one").body["job"]["state"] == "succeeded"
    with redis.Redis.from_url(guarded.url("reader")) as connection:
        assert look(connection).workers
    with guarded.client("reader") as reader:
        kinds = {event.event for event in reader.events()}
    assert {"submitted", "claimed", "completed"} <= kinds
    assert guarded.denied() == []
    assert (guarded.worker.poll(), guarded.sweep.poll()) == (None, None)


DENIED_TO_FACTORIES: Sequence[Sequence[str | int]] = (
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
    ("XREAD", "STREAMS", "broker:events", "0"),
    ("XADD", "broker:events", "MAXLEN", 0, "*", "a", "b"),
    ("HGETALL", "broker:waiting"),
    ("EVAL", "return 1", 0),
    ("EVALSHA", "0" * 40, 0),
    ("FCALL", "f", 0),
    ("SCRIPT", "FLUSH"),
    ("KEYS", "*"),
    ("SCAN", 0),
    ("RANDOMKEY",),
    ("EXISTS", "broker:workers"),
    ("CONFIG", "GET", "*"),
    ("CONFIG", "SET", "maxmemory", "1"),
    ("FLUSHALL",),
    ("FLUSHDB",),
    ("CLIENT", "PAUSE", 100),
    ("CLIENT", "KILL", "TYPE", "normal"),
    ("CLIENT", "LIST"),
    ("CLIENT", "NO-EVICT", "on"),
    ("CLIENT", "TRACKING", "on", "BCAST"),
    ("ACL", "WHOAMI"),
    ("ACL", "SETUSER", "mac-1", "+@all"),
    ("SHUTDOWN",),
    ("REPLICAOF", "127.0.0.1", 1),
    ("MONITOR",),
    ("INFO",),
    ("SELECT", 1),
    ("SUBSCRIBE", "x"),
    ("PUBLISH", "x", "y"),
    ("MULTI",),
    ("WAIT", 1, 1),
    ("SAVE",),
    ("MODULE", "LIST"),
    ("LATENCY", "LATEST"),
    ("SLOWLOG", "GET"),
    ("MEMORY", "USAGE", "broker:in:claims"),
    ("OBJECT", "ENCODING", "broker:in:claims"),
    ("DUMP", "broker:in:claims"),
    ("RENAME", "broker:in:claims", "broker:reply:mac-1:x"),
    ("COPY", "broker:in:claims", "broker:reply:mac-1:x"),
    ("MIGRATE", "127.0.0.1", 1, "broker:in:claims", 0, 1),
    ("SORT", "broker:in:claims", "STORE", "broker:reply:mac-1:x"),
)


@pytest.mark.parametrize("command", DENIED_TO_FACTORIES, ids=lambda command: " ".join(map(str, command))[:40])
def test_a_factory_is_denied(guarded: Guarded, command: Sequence[str | int]) -> None:
    with guarded.as_user("mac-1") as factory, pytest.raises(NoPermissionError):
        factory.execute_command(*command)


def test_who_resets_the_connection_is_nobody(guarded: Guarded) -> None:
    # RESET is allowed to all, and makes the connection the default user's: that one must be off.
    with guarded.as_user("mac-1") as factory:
        connection = factory.connection_pool.get_connection()
        connection.send_command("RESET")
        assert connection.read_response() == b"RESET"
        connection.send_command("LRANGE", "broker:in:claims", 0, -1)
        with pytest.raises(redis.AuthenticationError):
            connection.read_response()
        factory.connection_pool.release(connection)


@pytest.mark.parametrize("queue", [queue for queue in QUEUES if queue != "jobs"])
def test_a_submitter_pushes_on_no_list_but_that_of_submissions(guarded: Guarded, queue: str) -> None:
    with guarded.as_user("ci") as ci, pytest.raises(NoPermissionError):
        ci.rpush(f"broker:in:{queue}", "{}")
    with guarded.client("ci", timeout_ms=2_000) as client, pytest.raises(BrokerUnavailable, match="check the user"):
        client.claim()


def test_only_a_key_keeps_a_submitter_from_claiming(guarded: Guarded) -> None:
    # Redis can't look into what is pushed, and nothing is signed here (SECURITY.md).
    with guarded.client("ci") as client, guarded.as_user("ci") as ci:
        client.submit(job_id="for-a-factory")
        caller = Caller(ci, "ci")
        claim = caller.make("claim", job_id="for-a-factory")
        ci.rpush("broker:in:jobs", claim.model_dump_json(exclude_none=True))
        assert caller.replies(claim)[0]["answer"] == "granted"


def test_on_rqs_wire_a_factory_is_refused_before_anything_is_sent(guarded: Guarded) -> None:
    with (
        Client.connect(guarded.url("mac-1"), factory_id="mac-1", timeout_ms=2_000) as client,
        pytest.raises(BrokerUnavailable, match="nothing was sent"),
    ):
        client.submit(job_id="never")


def test_who_takes_anothers_name_is_told_as_it_connects(guarded: Guarded) -> None:
    with pytest.raises(BrokerUnavailable, match=r"replies to factory mac-10: NOPERM.*nothing was sent") as told:
        guarded.client("mac-1", factory="mac-10")
    assert told.value.refused, "another try would fare no better"


def test_the_async_client_is_told_the_same(guarded: Guarded) -> None:
    async def steal() -> None:
        async with AsyncClient.connect(guarded.url("mac-1"), factory_id="mac-10", wire="intake"):
            pass

    with pytest.raises(BrokerUnavailable, match=r"replies to factory mac-10: NOPERM.*nothing was sent") as told:
        asyncio.run(steal())
    assert told.value.refused


@pytest.mark.parametrize("command", [["jobs"], ["cancel", "one"], ["bench", "--jobs", "10"]], ids=lambda each: each[0])
def test_a_command_in_a_name_that_is_not_its_users_says_at_once_how_to_give_it(
    guarded: Guarded, tmp_path: Path, command: list[str]
) -> None:
    home = Home(tmp_path, {"BROKER_REDIS_URL": guarded.url("ci"), "BROKER_WIRE": "intake", "BROKER_FACTORY": ""})
    status, _, err = home.run(*command)
    assert (status, err.count("\n")) == (1, 2), err
    assert "error: Redis does not let this user read the replies to factory cli: NOPERM" in err
    assert "\nnext: ask in the name that its rights are for: BROKER_FACTORY=NAME, --factory NAME" in err


def test_a_command_is_served_in_its_users_name(guarded: Guarded, tmp_path: Path) -> None:
    home = Home(tmp_path, {"BROKER_REDIS_URL": guarded.url("mac-1"), "BROKER_WIRE": "intake", "BROKER_FACTORY": ""})
    assert home.run("jobs", "--factory", "mac-1")[0] == 0
    assert home.run("bench", "--factory", "mac-1", "--jobs", "10", "--timeout", "30")[0] == 0


@pytest.fixture
def moved(guarded: Guarded) -> Iterator[Callable[[str], None]]:
    """Gives user `moved` the rights of this factory."""

    def to(factory: str) -> None:
        guarded.command(*user_line("moved", RedisRole.FACTORY, factory=factory, password="moved-pw").split())

    to("moved")
    yield to
    guarded.command("ACL", "DELUSER", "moved")
    guarded.denied()


def test_who_loses_the_right_to_its_replies_gets_no_answer(guarded: Guarded, moved: Callable[[str], None]) -> None:
    # Without signatures the request itself is settled: Redis can't look into it (SECURITY.md).
    with guarded.client("moved", timeout_ms=2_500) as client:
        moved("another")
        with pytest.raises(BrokerTimeout, match=r"no answer within 2500 ms: Redis refuses to show it \(NOPERM"):
            client.job("one")


def test_who_loses_the_right_to_its_replies_gets_no_answer_in_a_loop_either(
    guarded: Guarded, moved: Callable[[str], None]
) -> None:
    async def ask() -> None:
        connecting = AsyncClient.connect(guarded.url("moved"), factory_id="moved", wire="intake", timeout_ms=2_500)
        async with connecting as client:
            moved("another")
            await client.job("one")

    with pytest.raises(BrokerTimeout, match="Redis refuses to show it"):
        asyncio.run(ask())


@pytest.mark.parametrize("command", ["status", "refused"])
def test_a_command_that_a_user_has_no_right_to_says_so(guarded: Guarded, tmp_path: Path, command: str) -> None:
    home = Home(tmp_path, {"BROKER_REDIS_URL": guarded.url("mac-1")})
    status, _, err = home.run(command)
    assert status == 1
    assert "Redis refused: " in err
    assert "`broker acl` prints those of each role" in err


DENIED_TO_SERVERS: Sequence[Sequence[str | int]] = (
    ("KEYS", "*"),
    ("FLUSHALL",),
    ("FLUSHDB",),
    ("CONFIG", "SET", "maxmemory", "1"),
    ("CLIENT", "PAUSE", 100),
    ("CLIENT", "KILL", "TYPE", "normal"),
    ("ACL", "LIST"),
    ("ACL", "SETUSER", "worker", "+@all"),
    ("SHUTDOWN",),
    ("REPLICAOF", "127.0.0.1", 1),
    ("MONITOR",),
    ("SCRIPT", "FLUSH"),
    ("SCRIPT", "KILL"),
    ("FUNCTION", "LIST"),
    ("FUNCTION", "LOAD", "REPLACE", "#!lua name=theirs"),
    ("FUNCTION", "DELETE", "theirs"),
    ("FUNCTION", "FLUSH"),
    ("FUNCTION", "RESTORE", "x"),
    ("FCALL", "theirs", 0),
    ("FCALL_RO", "theirs", 0),
    ("COPY", "broker:ready", "broker:ready", "DB", 1),
    ("MOVE", "broker:ready", 1),
    ("SELECT", 1),
    ("RANDOMKEY",),
    ("MODULE", "LIST"),
    ("SAVE",),
    ("SWAPDB", 0, 1),
    ("GET", "somebody-elses:key"),
    ("SET", "somebody-elses:key", 1),
    ("RPUSH", "rq:queue:default", "x"),
    ("HSET", "rq:registry", "a", "b"),
    ("EVAL", "return redis.call('GET', 'somebody-elses:key')", 1, "somebody-elses:key"),
    ("SUBSCRIBE", "x"),
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


@pytest.mark.parametrize("user", ["worker", "sweep"])
@pytest.mark.parametrize("command", DENIED_TO_SERVERS, ids=lambda command: " ".join(map(str, command))[:40])
def test_a_worker_and_a_sweep_are_denied(guarded: Guarded, user: str, command: Sequence[str | int]) -> None:
    with guarded.as_user(user) as connection, pytest.raises(redis.ResponseError) as refused:
        connection.execute_command(*command)
    assert isinstance(refused.value, NoPermissionError) or "ACL failure in script" in str(refused.value)


@pytest.mark.parametrize("command", ONLY_FOR_WORKERS, ids=lambda command: " ".join(map(str, command))[:40])
def test_a_sweep_does_not_touch_what_workers_have_in_hand(guarded: Guarded, command: Sequence[str | int]) -> None:
    with guarded.as_user("sweep") as connection, pytest.raises(NoPermissionError):
        connection.execute_command(*command)


@pytest.mark.parametrize(
    "command",
    [
        ("LRANGE", "broker:in:claims", 0, -1),
        ("LRANGE", "broker:inflight:w:rq", 0, -1),
        ("RPUSH", "broker:in:jobs", "{}"),
        ("XADD", "broker:events", "*", "a", "b"),
        ("XDEL", "broker:events", "1-1"),
        ("LPOP", "broker:reply:mac-1:x"),
        ("HGETALL", "broker:waiting"),
        ("KEYS", "*"),
        ("EVAL", "return 1", 0),
    ],
    ids=lambda command: " ".join(map(str, command)),
)
def test_a_reader_looks_and_touches_nothing(guarded: Guarded, command: Sequence[str | int]) -> None:
    with guarded.as_user("reader") as connection, pytest.raises(NoPermissionError):
        connection.execute_command(*command)


def test_a_password_in_a_file_goes_with_a_user_in_the_url(guarded: Guarded) -> None:
    parts = urlsplit(guarded.server.url)
    url = parts._replace(netloc=f"worker@{parts.netloc}").geturl()
    with connect_redis(load(redis_url=url, redis_password="worker-pw")) as connection:
        check_redis(connection)
    with (
        connect_redis(load(redis_url=url, redis_password="wrong")) as connection,
        pytest.raises(StartError, match="password"),
    ):
        check_redis(connection)


def test_a_user_with_everything_allowed_would_pass_none_of_this(guarded: Guarded) -> None:
    # The twin: with +@all each of these works, so a refusal above is the doing of the rules.
    guarded.command("ACL", "SETUSER", "loose", "reset", "on", ">loose-pw", "+@all", "~*", "&*")
    with guarded.as_user("loose") as loose:
        assert loose.rpush("broker:reply:mac-10:forged", "{}")
        assert loose.lpop("broker:reply:mac-10:forged")
        assert loose.keys("broker:*")
        assert loose.client_pause(1)
    guarded.command("ACL", "DELUSER", "loose")
