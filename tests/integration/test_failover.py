"""A Redis that takes nothing for a while: it fails over, or has just been started and reads what it had stored."""

import asyncio
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import pytest
import redis
from redis.exceptions import ResponseError

from broker.client import AsyncClient, BrokerUnavailable, Client, Reply
from broker.client.connection import MaybeSent, NotAccepted, NotSent, check_accepted
from broker.index import INDEXED
from broker.queues import QUEUES
from broker.settings import load
from tests.caller import Caller
from tests.chaos.proxy import Proxy
from tests.conftest import StartValkey
from tests.fleet import Fleet
from tests.processes import wait_for
from workers.claim_worker import ServeLoop
from workers.runtime import open_runtime
from workers.sweep import Sweep
from workers.taking import WORKERS

Ask = Callable[[str, int], Reply]


@pytest.fixture
def fleet(start_valkey: StartValkey, tmp_path: Path) -> Iterator[Fleet]:
    fleet = Fleet(start_valkey().url, tmp_path)
    fleet.start_worker()
    yield fleet
    fleet.close()


def in_threads(url: str, timeout_ms: int) -> Reply:
    with Client.connect(url, factory_id="f") as client:
        return client.submit(job_id="j", timeout_ms=timeout_ms)


def in_a_loop(url: str, timeout_ms: int) -> Reply:
    async def main() -> Reply:
        async with AsyncClient.connect(url, factory_id="f") as client:
            return await client.submit(job_id="j", timeout_ms=timeout_ms)

    return asyncio.run(main())


def follow(fleet: Fleet, *server: str) -> None:
    """Make Redis the replica of `server`, or a master again."""
    fleet.redis.execute_command("REPLICAOF", *server)  # type: ignore[no-untyped-call]  # redis-py leaves it untyped


@pytest.mark.redis
@pytest.mark.parametrize("ask", [in_threads, in_a_loop])
def test_what_a_replica_refuses_is_sent_again_until_it_is_a_master(fleet: Fleet, ask: Ask) -> None:
    follow(fleet, "127.0.0.1", "1")
    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(ask, fleet.redis_url, 60_000)
        wait_for(lambda: "errorstat_READONLY" in fleet.redis.info("errorstats"), "it was refused")
        follow(fleet, "NO", "ONE")
        assert asked.result().good


@pytest.mark.redis
@pytest.mark.parametrize("ask", [in_threads, in_a_loop])
def test_where_it_stays_a_replica_nothing_was_sent_and_no_right_is_wanting(fleet: Fleet, ask: Ask) -> None:
    follow(fleet, "127.0.0.1", "1")
    with pytest.raises(BrokerUnavailable, match=r"READONLY .*nothing was sent") as told:
        ask(fleet.redis_url, 2_000)
    assert not told.value.refused


@pytest.fixture
def moved(start_valkey: StartValkey) -> Iterator[tuple[Proxy, Callable[[], redis.Redis]]]:
    """An address, and what leads it to another server: the one before takes no writes, and keeps its clients."""
    before, after = start_valkey("before").url, start_valkey("after").url

    def move() -> redis.Redis:
        proxy.lead_to(Path(after.removeprefix("unix://")))
        with redis.Redis.from_url(before) as old:
            old.replicaof("127.0.0.1", "1")
        new: redis.Redis = stack.enter_context(redis.Redis.from_url(after))
        return new

    with ExitStack() as stack, Proxy(Path(before.removeprefix("unix://"))) as proxy:
        yield proxy, move


def test_a_worker_goes_on_at_the_server_that_its_address_leads_to_though_the_old_one_answers(
    moved: tuple[Proxy, Callable[[], redis.Redis]], tmp_path: Path
) -> None:
    proxy, move = moved
    runtime = open_runtime(load(redis_url=proxy.url, datastore_url=f"sqlite:///{tmp_path}/jobs.db"))
    loop = ServeLoop(runtime, "w1", QUEUES)
    serving = threading.Thread(target=lambda: loop.run(burst=False), daemon=True)
    serving.start()
    with redis.Redis.from_url(proxy.url) as old:
        Caller(old).submit("before")
    caller = Caller(move())
    caller.submit("after")
    wait_for(lambda: caller.redis.zscore(WORKERS, "w1~2"), "its heart beats there, too")
    loop.request_stop(signal.SIGTERM, None)
    serving.join()
    runtime.close()


def test_so_does_a_sweep(moved: tuple[Proxy, Callable[[], redis.Redis]], tmp_path: Path) -> None:
    proxy, move = moved
    settings = load(redis_url=proxy.url, datastore_url=f"sqlite:///{tmp_path}/jobs.db", sweep_interval_ms=10)
    runtime = open_runtime(settings)
    sweep, stop = Sweep(runtime.context, runtime.connection, settings), threading.Event()
    one_pass = lambda: sweep.pass_over(runtime.clock.now_ms())  # noqa: E731
    sweeping = threading.Thread(target=lambda: sweep.go_on(one_pass, stop=stop), daemon=True)
    sweeping.start()
    wait_for(lambda: runtime.connection.exists(INDEXED), "it sweeps")
    new = move()
    wait_for(lambda: new.exists(INDEXED), "it sweeps at the new server")
    stop.set()
    sweeping.join()
    runtime.close()


@pytest.mark.parametrize(
    ("said", "means"),
    [
        ("LOADING Redis is loading the dataset in memory", NotSent),
        ("NOREPLICAS Not enough good replicas to write.", NotSent),
        ("OOM command not allowed when used memory > 'maxmemory'.", NotSent),
        ("MISCONF Errors writing to the AOF file: No space left on device", NotSent),
        ("NOPERM this user has no permissions", NotAccepted),
    ],
)
def test_only_what_says_nothing_of_the_user_is_tried_again(said: str, means: type[Exception]) -> None:
    with pytest.raises(means):
        check_accepted([ResponseError(said)], 1)


def test_a_request_whose_text_was_refused_and_whose_push_was_not_may_be_in_its_queue() -> None:
    with pytest.raises(MaybeSent):
        check_accepted([ResponseError("OOM command not allowed when used memory > 'maxmemory'."), 1], 1)
    with pytest.raises(NotSent):
        check_accepted([1, ResponseError("OOM command not allowed when used memory > 'maxmemory'.")], 1)
