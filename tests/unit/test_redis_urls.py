"""A password in a URL is shown nowhere, also where it was written in a way that makes it part of something else."""

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest

from broker.client import AsyncClient, Client, InvalidRequest, InvalidUrl
from broker.redis_urls import checked, without_password
from broker.settings import load
from workers.fleet_status import same_redis
from workers.runtime import connect_redis

BROKEN = [
    "redis://:hush/er@host:6379/0",
    "redis://:hush#er@host:6379/0",
    "redis://:hush?er@host:6379/0",
    "redis://:6379/hush@host",
    "redis://:6379#hush@host",
    "redis://:6379?hush@host",
    "redis://user%3Ahush%40host:6379",
    "redis://user:hush@host:port/0",
    "redis:////:hush@host",
    "redis://[:hush@host",
    "user:hush@host",
]


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("redis://:hush@host:6379/1", "redis://:…@host:6379/1"),
        ("redis://user:hu@sh@host", "redis://user:…@host"),
        ("redis://user@host", "redis://user@host"),
        ("redis://host?password=hush&db=1", "redis://host?password=…&db=1"),
        ("unix:///tmp/a@b.sock?pass%77ord=hush", "unix:///tmp/a@b.sock?pass%77ord=…"),
        ("redis://[::1]:6379/0", "redis://[::1]:6379/0"),
        ("sqlite:////tmp/a@b.db", "sqlite:////tmp/a@b.db"),
        ("memory://", "memory://"),
    ],
)
def test_a_url_is_shown_without_its_password(url: str, shown: str) -> None:
    assert without_password(url, instead="…") == shown
    assert checked(url) == url


@pytest.mark.parametrize("url", BROKEN)
def test_of_a_url_that_can_t_be_read_nothing_is_shown(url: str) -> None:
    assert "hush" not in without_password(url, instead="…")
    assert without_password(url) == ""


def _worker(url: str) -> None:
    connect_redis(load(redis_url=url, state_dir=Path("nowhere")))


def _client(url: str) -> None:
    with Client.connect(url, factory_id="f") as client:
        client.jobs(timeout_ms=1)


def _async_client(url: str) -> None:
    async def ask() -> None:
        async with AsyncClient.connect(url, factory_id="f") as client:
            await client.jobs(timeout_ms=1)

    asyncio.run(ask())


@pytest.mark.parametrize("connect", [_worker, _client, _async_client])
@pytest.mark.parametrize("url", BROKEN)
def test_who_connects_by_it_is_told_how_to_write_it_and_not_what_it_says(
    connect: Callable[[str], None], url: str
) -> None:
    with pytest.raises(Exception, match="URL") as told:
        connect(url)
    assert "hush" not in str(told.value)


@pytest.mark.parametrize("kind", [Client, AsyncClient])
@pytest.mark.parametrize(
    "url",
    [
        "http://x",
        "localhost",
        "redis://localhost:x/",
        "redis://localhost?bogus=1",
        "redis://localhost?socket_timeout=x",
    ],
)
def test_a_url_that_no_client_can_use_is_an_argument_of_the_clients_like_any_other(
    kind: type[Client] | type[AsyncClient], url: str
) -> None:
    with pytest.raises(InvalidUrl, match="use redis://") as caught:
        kind.connect(url, factory_id="f")
    assert isinstance(caught.value, InvalidRequest)
    assert isinstance(caught.value, ValueError)


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("redis://localhost:6379/0", "redis://:secret@127.0.0.1", True),
        ("redis://Queue.example:7000/1", "redis://user@queue.example:7000/1", True),
        ("redis://queue.example/1", "redis://queue.example/?db=1", True),
        ("redis://queue.example/1", "redis://queue.example/2", False),
        ("redis://localhost:7399/0", "redis://localhost:6379/0", False),
        ("redis://localhost", "unix:///run/valkey.sock", False),
        ("unix:///run/valkey.sock", "unix:///run/valkey.sock?db=0", True),
        ("unix:///run/valkey.sock", "unix:///run/other.sock", False),
        ("http://x", "http://x", False),
    ],
)
def test_urls_that_lead_to_one_database_are_known(one: str, other: str, same: bool) -> None:
    assert same_redis(one, other) is same
