"""A Redis that answers and takes no writes serves nobody: `broker status` and `broker doctor` say why."""

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
import redis

from broker.acl import NOWHERE, RedisRole, user_line
from datastore import connect
from tests.commands import Commands
from tests.conftest import StartValkey
from tests.guarded import Guarded
from tests.home import Home
from tests.processes import wait_for
from workers.no_writes import no_writes

pytestmark = pytest.mark.redis

FULL_DEVICE = Path("/dev/full")
Hinder = Callable[[redis.Redis, Path], None]


def fill(client: redis.Redis, _: Path) -> None:
    client.config_set("maxmemory", 1)


def fail_snapshots(client: redis.Redis, folder: Path) -> None:
    """What it wants to put in place is in the way."""
    (folder / "dump.rdb" / "full").mkdir(parents=True)
    client.config_set("save", "3600 1")
    client.bgsave()
    wait_for(lambda: client.info("persistence")["rdb_last_bgsave_status"] == "err", "a snapshot has failed")


def fail_its_log(client: redis.Redis, folder: Path) -> None:
    """The next file of the append-only log is on a device without room."""
    if not FULL_DEVICE.exists():
        pytest.skip("no /dev/full on this system")
    [begun] = [each.name for each in folder.glob("appendonlydir/*.incr.aof")]
    (folder / "appendonlydir" / begun.replace(".1.", ".2.")).symlink_to(FULL_DEVICE)
    client.bgrewriteaof()
    wait_for(lambda: not client.info("persistence")["aof_rewrite_in_progress"], "the next one is begun")
    client.set("anything", 1)
    wait_for(lambda: client.info("persistence")["aof_last_write_status"] == "err", "it could not be written")


def demote(client: redis.Redis, _: Path) -> None:
    client.replicaof("127.0.0.1", 1)


WAYS: Sequence[tuple[Hinder, str, str]] = (
    (fill, "OOM command not allowed when used memory > 'maxmemory'", "it is full: "),
    (fail_snapshots, "MISCONF ", "it can't write to its disk: "),
    (fail_its_log, "MISCONF Errors writing to the AOF file: No space left on device", "it can't write to its disk: "),
    (demote, "READONLY ", "it is a replica: "),
)


@pytest.fixture
def server(start_valkey: StartValkey) -> Iterator[redis.Redis]:
    """Whatever hinders it is over in the end, or it would not stop: it would try to save."""
    with redis.Redis.from_url(start_valkey("redis").url) as client:
        yield client
        client.replicaof("NO", "ONE")
        client.config_set("maxmemory", 0)
        client.config_set("save", "")
        client.config_set("appendonly", "no")


@pytest.fixture
def home(server: redis.Redis, commands: Commands, tmp_path: Path) -> Home:
    """In which all is well, but for a worker."""
    connect(f"sqlite:///{tmp_path}/jobs.db").close()
    url = f"unix://{server.connection_pool.connection_kwargs['path']}"
    env = {"BROKER_REDIS_URL": url, "BROKER_DATASTORE_URL": f"sqlite:///{tmp_path}/jobs.db"}
    return Home(tmp_path, env, run=commands.run)


@pytest.mark.parametrize(("hinder", "said", "step"), WAYS, ids=[hinder.__name__ for hinder, *_ in WAYS])
def test_status_and_doctor_name_what_keeps_redis_from_taking_writes(
    server: redis.Redis, home: Home, tmp_path: Path, hinder: Hinder, said: str, step: str
) -> None:
    assert home.json("status")[1]["problem"] == "no worker serves", "or it is not told before that"
    assert home.run("doctor")[0] == 0
    hinder(server, tmp_path / "redis")
    status, shown = home.json("status")
    assert (status, shown["up"]) == (1, False)
    assert shown["problem"].startswith(f"Redis takes no writes: {said}")
    assert shown["next"].startswith(step)
    status, out, _ = home.run("doctor", "--json")
    [problem] = [found for line in out.splitlines() if not (found := json.loads(line))["ok"]]
    assert (status, problem["check"]) == (1, "redis")
    assert (problem["problem"], problem["next"]) == (shown["problem"], shown["next"])


@pytest.mark.parametrize(("hinder", "said", "step"), WAYS, ids=[hinder.__name__ for hinder, *_ in WAYS])
def test_who_can_not_start_for_that_is_told_the_same(
    server: redis.Redis, home: Home, tmp_path: Path, hinder: Hinder, said: str, step: str
) -> None:
    hinder(server, tmp_path / "redis")
    status, _, err = home.run("sweep", "--once")
    assert status == 1
    assert f"Redis takes no writes: {said}" in err
    assert step in err


def test_where_redis_takes_writes_the_question_writes_nothing(redis_client: redis.Redis) -> None:
    assert no_writes(redis_client) is None
    assert redis_client.keys() == []
    redis_client.set(NOWHERE, "somebody else's")
    assert no_writes(redis_client) is None, "it was taken so far that the type of the key was looked at"


def test_a_reader_is_told_while_workers_are_still_heard_of(
    guarded: Guarded, commands: Commands, tmp_path: Path
) -> None:
    env = {"BROKER_REDIS_URL": guarded.url("reader"), "BROKER_FACTORY": "reader"}
    home = Home(tmp_path, env, run=commands.run)
    assert home.run("status")[0] == 0
    guarded.denied()
    guarded.command("CONFIG", "SET", "maxmemory", 1)
    try:
        status, shown = home.json("status")
    finally:
        guarded.command("CONFIG", "SET", "maxmemory", 0)
    assert (status, bool(shown["workers"])) == (1, True)
    assert shown["problem"].startswith("Redis takes no writes: OOM")
    assert [user for user, _ in guarded.denied() if user == "reader"] == []


def test_a_reader_with_the_rules_of_before_is_served_as_before(
    guarded: Guarded, commands: Commands, tmp_path: Path
) -> None:
    line = user_line("early", RedisRole.READER, factory="early", password="early-pw").replace(
        f" (~{NOWHERE} +rpushx)", ""
    )
    guarded.command(*line.split())
    try:
        home = Home(tmp_path, {"BROKER_REDIS_URL": guarded.url("early")}, run=commands.run)
        assert home.run("status")[0] == 0
        assert ("early", "rpushx") in guarded.denied(), "it may ask"
    finally:
        guarded.command("ACL", "DELUSER", "early")
