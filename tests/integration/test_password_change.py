"""A password of Redis that stands in a file may be changed while processes run: their next connection gives the new."""

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from broker.client import AsyncClient, Client, ClientError, Reply
from broker.redis_password import Password
from broker.settings import SecretFile
from tests.guarded import Guarded
from tests.processes import end

pytestmark = pytest.mark.redis

ANSWERED_MS = 20_000


class Users:
    """Users of a server, each with a file that holds the password."""

    def __init__(self, guarded: Guarded, folder: Path) -> None:
        self._guarded = guarded
        self._folder = folder
        for user in ("worker", "mac-1"):
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


@pytest.fixture
def users(guarded: Guarded, tmp_path: Path) -> Iterator[Users]:
    yield Users(guarded, tmp_path)
    for user in ("worker", "mac-1"):
        guarded.command("ACL", "SETUSER", user, "resetpass", f">{user}-pw")


def test_a_worker_goes_on_serving(guarded: Guarded, users: Users) -> None:
    end(guarded.worker)
    guarded.fleet.start_worker(
        {"BROKER_REDIS_URL": users.url("worker"), "BROKER_REDIS_PASSWORD_FILE": str(users.path("worker"))}
    )
    users.change("worker")
    with guarded.client("mac-1") as client:
        assert client.submit(timeout_ms=ANSWERED_MS).good


def of_threads(url: str, password: Password, change: Callable[[], None]) -> Reply:
    with Client.connect(url, factory_id="mac-1", wire="intake", password=password) as client:
        assert client.queues().good
        change()
        return client.queues(timeout_ms=ANSWERED_MS)


def of_asyncio(url: str, password: Password, change: Callable[[], None]) -> Reply:
    async def ask() -> Reply:
        async with AsyncClient.connect(url, factory_id="mac-1", wire="intake", password=password) as client:
            assert (await client.queues()).good
            change()
            return await client.queues(timeout_ms=ANSWERED_MS)

    return asyncio.run(ask())


@pytest.mark.parametrize("ask", [of_threads, of_asyncio])
def test_a_client_of_either_kind_goes_on(
    users: Users, ask: Callable[[str, Password, Callable[[], None]], Reply]
) -> None:
    password = SecretFile(users.path("mac-1"))
    assert ask(users.url("mac-1"), password, lambda: users.change("mac-1")).good


@pytest.mark.parametrize("ask", [of_threads, of_asyncio])
def test_one_that_was_given_the_password_itself_is_told_that_it_is_refused(
    users: Users, ask: Callable[[str, Password, Callable[[], None]], Reply]
) -> None:
    with pytest.raises(ClientError, match="BROKER_REDIS_PASSWORD_FILE"):
        ask(users.url("mac-1"), "mac-1-pw", lambda: users.change("mac-1"))
