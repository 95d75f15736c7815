"""Clients of each kind keep to the rights of their Redis users as they connect, and as they do so again."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import cast

import pytest
from redis.exceptions import NoPermissionError

from broker.client import AsyncClient
from broker.events import Event
from tests.commands import Commands
from tests.guarded import Guarded
from tests.home import Home

pytestmark = pytest.mark.redis


def in_threads(guarded: Guarded, cut: Callable[[], None]) -> list[str]:
    """The jobs of which a reader of events hears that two clients submit and claim, the connections cut twice."""
    with guarded.client("ci") as ci, guarded.client("mac-1") as factory, guarded.client("reader") as reader:
        heard: Iterator[Event] = reader.events(follow=True)
        found = []
        for job in ("t1", "t2", "t3"):
            assert ci.submit(job_id=job).good
            grant = factory.claim(job, wait_ms=5_000)
            assert factory.complete(job, epoch=grant.body["epoch"], token=grant.body["token"]).good
            found.append(next(event.job_id for event in heard if (event.job_id, event.event) == (job, "completed")))
            cut()
        return found


def in_a_loop(guarded: Guarded, cut: Callable[[], None]) -> list[str]:
    """The same of clients for asyncio."""

    def client(user: str) -> AsyncClient:
        return AsyncClient.connect(guarded.url(user), factory_id=user, wire="intake")

    async def completed(heard: AsyncIterator[Event], job: str) -> str:
        while ((event := await anext(heard)).job_id, event.event) != (job, "completed"):
            pass
        return job

    async def main() -> list[str]:
        async with client("ci") as ci, client("mac-1") as factory, client("reader") as reader:
            heard = cast(AsyncGenerator[Event, None], reader.events(follow=True))
            found = []
            for job in ("a1", "a2", "a3"):
                assert (await ci.submit(job_id=job)).good
                grant = await factory.claim(job, wait_ms=5_000)
                assert (await factory.complete(job, epoch=grant.body["epoch"], token=grant.body["token"])).good
                found.append(await completed(heard, job))
                cut()
            await heard.aclose()
            return found

    return asyncio.run(main())


@pytest.mark.parametrize("served", [in_threads, in_a_loop])
def test_who_loses_each_connection_is_served_on_others_and_the_server_has_refused_nothing(
    guarded: Guarded, served: Callable[[Guarded, Callable[[], None]], list[str]]
) -> None:
    def cut() -> None:
        cuts.extend(guarded.command("CLIENT", "KILL", "USER", user) for user in ("ci", "mac-1", "reader"))

    cuts: list[int] = []
    guarded.denied()
    assert len(served(guarded, cut)) == 3
    assert min(cuts) > 0, "there was nothing to cut"
    assert guarded.denied() == []


@pytest.mark.parametrize(
    ("user", "command"),
    [
        ("ci", ("submit", "-")),
        ("ci", ("jobs",)),
        ("mac-1", ("claim",)),
        ("mac-1", ("bench", "--jobs", "10", "--timeout", "30")),
        ("mac-1", ("exec", "--", "true")),
        ("reader", ("events",)),
        ("reader", ("status",)),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else value,
)
def test_a_command_in_its_users_name_is_refused_nothing(
    guarded: Guarded, commands: Commands, tmp_path: Path, user: str, command: tuple[str, ...]
) -> None:
    with guarded.client("ci") as ci:
        assert ci.submit().good
    env = {"BROKER_REDIS_URL": guarded.url(user), "BROKER_WIRE": "intake", "BROKER_FACTORY": user}
    guarded.denied()
    status, out, err = Home(tmp_path, env, run=commands.run).run(*command, input='{"payload": 1}')
    assert status == 0, out + err
    assert guarded.denied() == []


def test_the_server_tells_of_a_command_that_it_refuses(guarded: Guarded) -> None:
    # The twin: that nothing was refused above says something, also of what a library would send by itself.
    guarded.denied()
    with guarded.as_user("reader") as reader, pytest.raises(NoPermissionError):
        reader.ping()
    assert guarded.denied() == [("reader", "ping")]
