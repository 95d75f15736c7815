"""Clients that are entered twice, used in another event loop, cancelled with all the rest, or closed in a hurry."""

import asyncio
import threading
from collections.abc import Awaitable, Callable

import pytest

from broker.client import AsyncClient, Client, ClientClosed, LeaseLost
from broker.queues import rq_queue_key
from tests.fleet import Fleet
from tests.interrupts import interrupted
from tests.processes import end, wait_for

pytestmark = pytest.mark.redis


@pytest.fixture
def served(fleet: Fleet) -> Fleet:
    """A fleet with one worker."""
    fleet.start_worker()
    return fleet


def run(fleet: Fleet, use: Callable[[AsyncClient], Awaitable[None]]) -> None:
    """Use a client that is connected, and closed at the end, in a loop of its own."""

    async def main() -> None:
        async with AsyncClient.connect(fleet.redis_url, factory_id="f") as client:
            await use(client)
        assert others() == []

    asyncio.run(main())


def others() -> "list[asyncio.Task[object]]":
    """Every task but the one that asks."""
    return [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]


def test_a_client_that_was_awaited_may_be_entered_too(served: Fleet) -> None:
    async def use(client: AsyncClient) -> None:
        async with await client as again:
            assert again is client
            assert (await client.submit(job_id="j")).good
            assert [task.get_name() for task in others()] == ["broker-replies"]

    run(served, use)


@pytest.mark.parametrize("turns", range(4))
def test_a_close_that_is_cancelled_gives_everything_back_all_the_same(served: Fleet, turns: int) -> None:
    """At whichever of its steps."""

    async def use(client: AsyncClient) -> None:
        assert (await client.queues()).good
        connected = len(served.redis.client_list())
        other = await AsyncClient.connect(served.redis_url, factory_id="other")
        assert (await other.queues()).good
        closing = asyncio.create_task(other.close())
        for _ in range(turns):
            await asyncio.sleep(0)
        closing.cancel()
        await asyncio.wait([closing])
        await other.close()
        assert [task.get_name() for task in others()] == ["broker-replies"], "those of the client that is open"
        there: Callable[[], bool] = lambda: len(served.redis.client_list()) <= connected  # noqa: E731
        await asyncio.to_thread(wait_for, there, "its connections are closed")
        assert (await client.queues()).good

    run(served, use)


def test_a_client_that_is_closed_is_not_entered_again(served: Fleet) -> None:
    async def use(client: AsyncClient) -> None:
        await client.close()
        with pytest.raises(ClientClosed):
            await client

    run(served, use)


def test_in_another_event_loop_a_client_refuses_and_nothing_is_sent(fleet: Fleet) -> None:
    client = AsyncClient.connect(fleet.redis_url, factory_id="f")
    asks: list[Callable[[], Awaitable[object]]] = [lambda: client.claim("j"), lambda: client, client.close]

    async def elsewhere() -> None:
        for ask in asks:
            with pytest.raises(ClientClosed, match="another event loop"):
                await ask()

    async def main() -> None:
        async with client:
            await asyncio.to_thread(asyncio.run, elsewhere())
            assert fleet.redis.llen(rq_queue_key("claims")) == 0
            await client.submit_many([])

    asyncio.run(main())


def test_who_cancels_every_other_task_still_has_answers_and_keeps_its_lease(served: Fleet) -> None:
    async def use(client: AsyncClient) -> None:
        await client.submit(job_id="j", ttl_ms=1_000)
        async with client.lease("j") as lease:
            for task in others():
                task.cancel()
            async with asyncio.timeout(20):
                while (await client.job("j")).body["job"]["lease"]["renewals"] < 4:
                    lease.check()
            assert (await lease.complete()).good

    run(served, use)


def test_a_close_that_is_cancelled_leaves_no_task(fleet: Fleet) -> None:
    worker = fleet.start_worker()

    async def hold(client: AsyncClient, held: asyncio.Event) -> None:
        async with client.lease("j"):
            held.set()
            await asyncio.Event().wait()

    async def main() -> None:
        client, held = await AsyncClient.connect(fleet.redis_url, factory_id="f"), asyncio.Event()
        await client.submit(job_id="j")
        holding = asyncio.create_task(hold(client, held))
        await held.wait()
        end(worker)
        claiming = asyncio.create_task(client.claim("k"))
        while not fleet.redis.llen(rq_queue_key("claims")):
            await asyncio.sleep(0)
        claiming.cancel()
        closing = asyncio.create_task(client.close())  # waits for what the claim may get
        await asyncio.wait([claiming])
        closing.cancel()
        await asyncio.wait([holding, closing])
        assert isinstance(holding.exception(), LeaseLost)
        assert others() == []

    asyncio.run(main())


def test_a_close_that_is_interrupted_leaves_no_thread(fleet: Fleet) -> None:
    worker = fleet.start_worker()
    before = set(threading.enumerate())
    client = Client.connect(fleet.redis_url, factory_id="f")
    client.submit(job_id="j")
    with pytest.raises(LeaseLost, match="ClientClosed"), client.lease("j"):  # noqa: PT012  # a guard's whole block
        end(worker)
        sent = fleet.redis.llen
        with pytest.raises(KeyboardInterrupt), interrupted(once=lambda: bool(sent(rq_queue_key("claims")))):
            client.claim("k")
        with pytest.raises(KeyboardInterrupt), interrupted(once=lambda: client._exchange._turns.wanted):
            client.close()
        assert set(threading.enumerate()) - before == set(), "others' may have ended meanwhile"
