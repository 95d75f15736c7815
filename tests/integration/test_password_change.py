"""A password of Redis that stands in a file may be changed while processes run: their next connection gives the new."""

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Protocol
from urllib.parse import urlsplit

import pytest

from broker.client import AsyncClient, BrokerUnavailable, Client, ClientError, Reply
from broker.redis_password import Password
from broker.settings import SecretFile, load
from tests.guarded import Guarded
from tests.processes import end
from workers.runtime import connect_redis

pytestmark = pytest.mark.redis

ANSWERED_MS = 20_000
CHANGED = ("worker", "sweep", "mac-1")


class Users:
    """Users of a server, each with a file that holds the password."""

    def __init__(self, guarded: Guarded, folder: Path) -> None:
        self._guarded = guarded
        self._folder = folder
        for user in CHANGED:
            self.path(user).write_text(f"{user}-pw\n")

    def path(self, user: str) -> Path:
        return self._folder / user

    def url(self, user: str) -> str:
        parts = urlsplit(self._guarded.server.url)
        return parts._replace(netloc=f"{user}@{parts.netloc}").geturl()

    def change(self, user: str) -> None:
        """First in the file, then in Redis, which drops whoever came with the one of before."""
        self.path(user).write_text("another-pw\n")
        self._guarded.command("ACL", "SETUSER", user, "resetpass", ">another-pw")
        self._guarded.command("CLIENT", "KILL", "USER", user)

    def restore(self, user: str) -> None:
        self._guarded.command("ACL", "SETUSER", user, "resetpass", f">{user}-pw")


@pytest.fixture
def users(guarded: Guarded, tmp_path: Path) -> Iterator[Users]:
    made = Users(guarded, tmp_path)
    yield made
    for user in CHANGED:
        made.restore(user)


def test_a_worker_goes_on_serving(guarded: Guarded, users: Users) -> None:
    end(guarded.worker)
    worker = guarded.fleet.start_worker(
        {"BROKER_REDIS_URL": users.url("worker"), "BROKER_REDIS_PASSWORD_FILE": str(users.path("worker"))}
    )
    users.change("worker")
    with guarded.client("mac-1") as client:
        assert client.submit(timeout_ms=ANSWERED_MS).good
    end(worker)
    users.restore("worker")
    guarded.worker = guarded.fleet.start_worker({"BROKER_REDIS_URL": guarded.url("worker")})


class Ask(Protocol):
    def __call__(
        self, url: str, password: Password, change: Callable[[], None], timeout_ms: int = ANSWERED_MS
    ) -> Reply: ...


def of_threads(url: str, password: Password, change: Callable[[], None], timeout_ms: int = ANSWERED_MS) -> Reply:
    with Client.connect(url, factory_id="mac-1", wire="intake", password=password) as client:
        assert client.queues().good
        change()
        return client.queues(timeout_ms=timeout_ms)


def of_asyncio(url: str, password: Password, change: Callable[[], None], timeout_ms: int = ANSWERED_MS) -> Reply:
    async def ask() -> Reply:
        async with AsyncClient.connect(url, factory_id="mac-1", wire="intake", password=password) as client:
            assert (await client.queues()).good
            change()
            return await client.queues(timeout_ms=timeout_ms)

    return asyncio.run(ask())


@pytest.mark.parametrize("ask", [of_threads, of_asyncio])
def test_a_client_of_either_kind_goes_on(users: Users, ask: Ask) -> None:
    password = SecretFile(users.path("mac-1"))
    assert ask(users.url("mac-1"), password, lambda: users.change("mac-1")).good


@pytest.mark.parametrize("ask", [of_threads, of_asyncio])
def test_a_function_that_fails_is_as_a_redis_that_is_away(users: Users, ask: Ask) -> None:
    words = iter(["mac-1-pw"] * 2)
    with pytest.raises(ClientError, match="StopIteration"):
        ask(users.url("mac-1"), lambda: next(words), lambda: users.change("mac-1"), 1_500)


def test_a_fleet_whose_password_has_changed_does_not_knock_with_the_one_of_before(
    users: Users, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BROKER_REDIS_PASSWORD_FILE", str(users.path("sweep")))
    settings = load(redis_url=users.url("sweep"))
    for _ in range(2):
        users.change("sweep")
        with connect_redis(settings) as connection:
            assert connection.ping()


def test_who_follows_the_events_is_told_that_the_password_is_refused(guarded: Guarded, users: Users) -> None:
    with Client.connect(users.url("mac-1"), factory_id="mac-1", wire="intake", password="mac-1-pw") as client:
        guarded.command("ACL", "SETUSER", "mac-1", "resetpass", ">another-pw")
        with pytest.raises(BrokerUnavailable, match="BROKER_REDIS_PASSWORD_FILE") as refused:
            list(client.events())
    assert refused.value.refused


@pytest.mark.parametrize("ask", [of_threads, of_asyncio])
def test_one_that_was_given_the_password_itself_is_told_that_it_is_refused(users: Users, ask: Ask) -> None:
    with pytest.raises(ClientError, match="BROKER_REDIS_PASSWORD_FILE"):
        ask(users.url("mac-1"), "mac-1-pw", lambda: users.change("mac-1"))
    with pytest.raises(BrokerUnavailable, match="Redis refused the password") as refused:
        ask(users.url("mac-1"), "mac-1-pw", lambda: None)
    assert refused.value.refused
