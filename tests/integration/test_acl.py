"""Redis users as `broker acl` makes them: each does its own work through our own code, and nothing else."""

import asyncio
from collections.abc import Callable, Iterator
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
from tests.guarded import Guarded
from tests.home import Home
from tests.processes import wait_for
from workers.fleet_status import look
from workers.runtime import StartError, check_redis, connect_redis

pytestmark = pytest.mark.redis


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
