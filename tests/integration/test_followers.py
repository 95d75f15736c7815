"""Those who follow the events for long: the stream is trimmed under them, Redis loses it, or their client is closed."""

import asyncio
from collections.abc import Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

import pytest
import redis

from broker.client import AsyncClient, Client, ClientClosed
from broker.client.tail import PAGE_ENTRIES
from broker.events import STREAM, Event
from tests.processes import wait_for

pytestmark = pytest.mark.redis


def tell(server: redis.Redis, *jobs: str) -> None:
    """An entry for each of them, as a worker writes it."""
    with server.pipeline() as pipe:
        for job in jobs:
            pipe.xadd(STREAM, {"e": f'[{{"event":"submitted","job_id":"{job}","at_ms":1}}]'})
        pipe.execute()


def in_threads(url: str) -> Generator[Event]:
    with Client.connect(url, factory_id="watcher") as client:
        yield from client.events(follow=True)


def in_a_loop(url: str) -> Generator[Event]:
    with asyncio.Runner() as runner:
        client = runner.run(AsyncClient.connect(url, factory_id="watcher").__aenter__())
        events = client.events(follow=True)
        try:
            while True:
                yield runner.run(anext(events))  # type: ignore[arg-type]  # of an async generator it is a coroutine
        finally:
            runner.run(events.aclose())  # type: ignore[attr-defined]  # it is a generator
            runner.run(client.close())


Follow = Callable[[str], Generator[Event]]
both = pytest.mark.parametrize("follow", [in_threads, in_a_loop])


@both
def test_a_follower_that_the_stream_has_outrun_is_told_so(
    redis_client: redis.Redis, redis_url: str, follow: Follow
) -> None:
    tell(redis_client, "a")
    with closing(follow(redis_url)) as events:
        assert next(events).job_id == "a"
        tell(redis_client, *(f"b{number}" for number in range(2 * PAGE_ENTRIES)))
        redis_client.xtrim(STREAM, maxlen=PAGE_ENTRIES, approximate=False)
        missed, then = next(events), next(events)
        assert (missed.event, then.job_id) == ("missed", f"b{PAGE_ENTRIES}")
        rest = [next(events) for _ in range(PAGE_ENTRIES - 1)]
        assert {event.event for event in rest} == {"submitted"}


@both
def test_a_follower_of_a_redis_that_has_lost_the_stream_is_told_so_once(
    redis_client: redis.Redis, redis_url: str, follow: Follow
) -> None:
    tell(redis_client, "a")
    with closing(follow(redis_url)) as events:
        assert next(events).job_id == "a"
        redis_client.delete(STREAM)
        tell(redis_client, "b")
        told = [next(events) for _ in range(2)]
        assert [(event.event, event.job_id) for event in told] == [("missed", ""), ("submitted", "b")]
        tell(redis_client, "c")
        assert next(events).job_id == "c"


def test_what_was_missed_is_told_with_a_cursor_from_which_to_go_on(redis_client: redis.Redis, redis_url: str) -> None:
    with Client.connect(redis_url, factory_id="watcher") as client:
        tell(redis_client, "a")
        [seen] = client.events()
        redis_client.delete(STREAM)
        tell(redis_client, "b")
        missed, _ = client.events(since=seen.cursor)
        assert [event.job_id for event in client.events(since=missed.cursor)][-1] == "b"


@both
def test_who_ends_half_way_leaves_no_connection(redis_client: redis.Redis, redis_url: str, follow: Follow) -> None:
    before = len(redis_client.client_list())
    tell(redis_client, "a", "b")
    with closing(follow(redis_url)) as events:
        assert next(events).job_id == "a"
    wait_for(lambda: len(redis_client.client_list()) <= before, "its connections are given back")


def test_a_follower_that_waits_ends_with_its_client(redis_client: redis.Redis, redis_url: str) -> None:
    client = Client.connect(redis_url, factory_id="watcher")
    with ThreadPoolExecutor(1) as pool:
        tell(redis_client, "a")
        events = client.events(follow=True)
        assert next(events).job_id == "a"
        waiting = pool.submit(next, events)
        wait_for(lambda: redis_client.info("clients")["blocked_clients"], "it waits")
        client.close()
        with pytest.raises(ClientClosed):
            waiting.result(timeout=30)
    with pytest.raises(ClientClosed):
        next(client.events())


def test_an_async_follower_that_waits_ends_with_its_client(redis_client: redis.Redis, redis_url: str) -> None:
    async def follow(client: AsyncClient) -> None:
        async for _ in client.events(follow=True):
            pass

    async def main() -> None:
        async with AsyncClient.connect(redis_url, factory_id="watcher") as client:
            following = asyncio.create_task(follow(client))
            while not redis_client.info("clients")["blocked_clients"]:
                await asyncio.sleep(0)
        with pytest.raises(ClientClosed):
            async with asyncio.timeout(30):
                await following

    asyncio.run(main())
