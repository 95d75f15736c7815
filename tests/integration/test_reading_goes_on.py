"""Whoever reads the replies of a client goes on after a mistake of ours: nobody else would read them."""

import asyncio
from collections.abc import Callable
from typing import Never

import pytest

from broker.answers import Word
from broker.client import AsyncClient, Client
from broker.client.connection_async import AsyncListener
from broker.client.listener import Listener
from tests.fleet import Fleet
from tests.processes import wait_for

pytestmark = pytest.mark.redis


def test_the_thread_that_reads_unasked(fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    receive, asked = Listener.receive, list[int]()

    def stumbling(listener: Listener, wait_ms: int) -> list[bytes]:
        asked.append(wait_ms)
        if len(asked) == 1:
            raise RuntimeError("scripted")
        return receive(listener, wait_ms)

    monkeypatch.setattr(Listener, "receive", stumbling)
    with Client.connect(fleet.redis_url, factory_id="f"):
        wait_for(lambda: len(asked) > 1, "it reads again")


def test_the_task_that_reads(fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    fleet.start_worker()
    listen, asked = AsyncListener.listen, list[object]()

    async def stumbling(listener: AsyncListener, deliver: Callable[[list[bytes]], None]) -> Never:
        asked.append(deliver)
        if len(asked) == 1:
            raise RuntimeError("scripted")
        await listen(listener, deliver)

    monkeypatch.setattr(AsyncListener, "listen", stumbling)

    async def main() -> Word:
        async with AsyncClient.connect(fleet.redis_url, factory_id="f") as client:
            return (await client.claim()).answer

    assert asyncio.run(main()) is Word.NONE_AVAILABLE
