"""A claim that was on its way as its caller gave it up: what it gets is given back before the caller is gone."""

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from threading import Thread
from typing import Any, cast

import pytest
import redis

from broker import claim_next
from broker.cli import session
from broker.client import AsyncClient, Client, ClientClosed
from broker.messages import Request
from tests.commands import BROKER
from tests.fleet import Fleet
from tests.in_process import InProcess
from tests.processes import wait_for

pytestmark = pytest.mark.redis

_LEASE = """
import json, sys
from broker.client import Client
with Client.connect(sys.argv[1], factory_id="given-up") as client:
    try:
        with client.lease(**json.loads(sys.argv[2])):
            pass
    except KeyboardInterrupt:
        print("heard", flush=True)
"""

_AGENT = """
import sys, time
from pathlib import Path
from broker.agent import Agent, Limits, Terms
from broker.client import Client
from broker.exec import Command
with Client.connect(sys.argv[1], factory_id="given-up") as client:
    assert client.register().good
    print("registered", flush=True)
    while not Path(sys.argv[2]).exists():
        time.sleep(0.01)
    Agent(client, Command(["true"]), Terms(), Limits(), ended=print, tell=lambda text: print(text, flush=True)).run()
"""


def asked_again_without_a_wait(broker: InProcess, claim: Request) -> Request:
    again = broker.caller.make("claim", request_id=claim.request_id, attempt=2)
    broker.caller.send(again)
    return again


@pytest.mark.parametrize("parked", [True, False], ids=["it is parked", "both come in one batch"])
def test_a_claim_repeated_without_a_wait_ends_its_wait(broker: InProcess, parked: bool) -> None:
    claim = broker.caller.make("claim", wait_ms=60_000)
    broker.caller.send(claim)
    if parked:
        broker.serve()
        assert broker.redis.hlen(claim_next.WAITING) == 1
    asked_again_without_a_wait(broker, claim)
    broker.serve()
    assert broker.caller.replies(claim, deadline_ms=1_000)[0]["answer"] == "none_available"
    assert not broker.redis.exists("broker:waiting", "broker:waiting:ends")
    broker.submit("a")
    broker.serve()
    assert not broker.caller.has_reply(claim)
    assert not broker.store.find({"kind": "job", "state": "leased"}).documents


def test_a_claim_repeated_without_a_wait_is_told_of_the_lease_it_got(broker: InProcess) -> None:
    broker.submit("a")
    claim = broker.caller.make("claim", wait_ms=60_000)
    broker.caller.send(claim)
    asked_again_without_a_wait(broker, claim)
    broker.serve()
    assert broker.caller.replies(claim, deadline_ms=1_000)[0]["body"]["job_id"] == "a"
    assert broker.redis.hlen(claim_next.WAITING) == 0


@pytest.fixture
def worker(fleet: Fleet) -> "subprocess.Popen[str]":
    return fleet.start_worker()


@pytest.fixture
def client(fleet: Fleet, worker: "subprocess.Popen[str]") -> Iterator[Client]:  # noqa: ARG001  # it serves
    with Client.connect(fleet.redis_url, factory_id="f") as client:
        client.submit(job_id="j")
        yield client


def job(client: Client) -> tuple[str, int]:
    found: dict[str, Any] = client.job("j").body["job"]
    return found["state"], found["epoch"]


def sent(fleet: Fleet) -> None:
    """Until a claim is on its way. The worker that is stopped has it in its list: Redis moves it there."""
    wait_for(lambda: fleet.redis.keys("rq:job:*"), "the claim is sent")


def stop_while_its_claim_is_on_its_way(
    fleet: Fleet, worker: "subprocess.Popen[str]", argv: list[str], number: signal.Signals
) -> tuple[str, str, int]:
    """What it says once it was told to stop, what it says until it has ended, and its exit status."""
    worker.send_signal(signal.SIGSTOP)
    process = fleet.start(argv)
    sent(fleet)
    process.send_signal(number)
    assert process.stdout is not None
    first = process.stdout.readline()
    worker.send_signal(signal.SIGCONT)
    return first, process.communicate(timeout=60)[0], process.returncode


@pytest.mark.parametrize("terms", [["--job", "j"], [], ["--wait", "60"]])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_an_exec_told_to_stop_gives_back_what_it_gets_then(
    fleet: Fleet, worker: "subprocess.Popen[str]", client: Client, number: signal.Signals, terms: list[str]
) -> None:
    argv = [*BROKER, "exec", "--factory", "e", *terms, "--", "true"]
    told, said, status = stop_while_its_claim_is_on_its_way(fleet, worker, argv, number)
    assert "waits for the answer to a claim" in told
    assert (said, status) == (f"stopped by {number.name} before a command was run\n", 1)
    wait_for(lambda: job(client)[0] == "ready", "the lease is given back", deadline_ms=5_000)


def test_an_exec_told_to_stop_while_it_waits_for_work_leaves_no_claim_behind(fleet: Fleet, client: Client) -> None:
    process = fleet.start([*BROKER, "exec", "--queue", "q", "--wait", "60", "--factory", "e", "--", "true"])
    wait_for(lambda: fleet.redis.hlen(claim_next.WAITING), "the claim waits")
    process.terminate()
    assert process.communicate(timeout=60)[0] == "stopped by SIGTERM before a command was run\n"
    assert fleet.redis.hlen(claim_next.WAITING) == 0
    client.submit(job_id="k", queue="q")
    assert client.claim(queue="q").body["epoch"] == 1, "nobody else was granted it"


@pytest.mark.usefixtures("client")
def test_a_second_signal_ends_at_once(fleet: Fleet, worker: "subprocess.Popen[str]") -> None:
    worker.send_signal(signal.SIGSTOP)
    process = fleet.start([*BROKER, "exec", "--timeout", "60", "--factory", "e", "--", "true"])
    sent(fleet)
    process.send_signal(signal.SIGINT)
    assert process.stdout is not None
    process.stdout.readline()
    process.send_signal(signal.SIGINT)
    wait_for(lambda: process.poll() is not None, "it has ended")
    assert process.returncode == 130


def test_who_interrupts_as_it_says_that_it_waits_is_not_kept_waiting(
    redis_client: redis.Redis, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt_the_claim() -> None:
        wait_for(lambda: redis_client.keys("rq:job:*"), "the claim is sent; nobody serves it")
        os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(session, "note", lambda _told: signal.raise_signal(signal.SIGINT))
    client = Client.connect(redis_url, factory_id="e", timeout_ms=60_000)
    interrupting = Thread(target=interrupt_the_claim)
    interrupting.start()
    with pytest.raises(KeyboardInterrupt):
        client.claim("j")
    interrupting.join()
    with pytest.raises(KeyboardInterrupt):
        session._settle(client)
    with pytest.raises(ClientClosed):
        client.job("j")


@pytest.mark.parametrize("terms", [{"job_id": "j"}, {"queue": "empty"}, {"wait_ms": 60_000}])
def test_a_claim_that_was_interrupted_before_it_left_does_not_keep_its_client_open(
    client: Client, monkeypatch: pytest.MonkeyPatch, terms: dict[str, Any]
) -> None:
    def interrupted(*_: Any) -> None:
        monkeypatch.undo()
        raise KeyboardInterrupt

    monkeypatch.setattr(client._exchange._sender, "send", interrupted)
    with pytest.raises(KeyboardInterrupt):
        client.claim(**terms, timeout_ms=60_000)
    assert client.settle(within_ms=20_000)
    wait_for(lambda: job(client)[0] == "ready", "what it got is given back", deadline_ms=5_000)


@pytest.mark.parametrize("terms", ['{"job_id": "j"}', '{"wait_ms": 60000}'])
def test_an_interrupted_lease_is_given_back(
    fleet: Fleet, worker: "subprocess.Popen[str]", client: Client, terms: str
) -> None:
    argv = [sys.executable, "-c", _LEASE, fleet.redis_url, terms]
    told, said, status = stop_while_its_claim_is_on_its_way(fleet, worker, argv, signal.SIGINT)
    assert (told, "unwanted_lease_released" in said, status) == ("heard\n", True, 0)
    wait_for(lambda: job(client)[0] == "ready", "the lease is given back", deadline_ms=5_000)


@pytest.mark.parametrize("terms", [{"job_id": "j"}, {"wait_ms": 60_000}])
def test_a_cancelled_claim_of_a_client_that_is_closed_is_given_back(
    fleet: Fleet, worker: "subprocess.Popen[str]", client: Client, terms: dict[str, Any]
) -> None:
    async def scene() -> None:
        async with AsyncClient.connect(fleet.redis_url, factory_id="a") as asking:
            task = asyncio.create_task(asking.claim(**terms))
            await asyncio.to_thread(sent, fleet)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            asyncio.get_running_loop().call_later(0.05, worker.send_signal, signal.SIGCONT)

    worker.send_signal(signal.SIGSTOP)
    asyncio.run(scene())
    wait_for(lambda: job(client)[0] == "ready", "the lease is given back", deadline_ms=5_000)


def test_what_a_cancelled_claim_gets_may_be_waited_for_without_closing_the_client(fleet: Fleet) -> None:
    async def scene() -> None:
        async with AsyncClient.connect(fleet.redis_url, factory_id="a", timeout_ms=60_000) as asking:
            task = asyncio.create_task(asking.claim("j"))
            await asyncio.to_thread(sent, fleet)
            task.cancel()
            assert await asyncio.wait([task])
            assert not await asking.settle(within_ms=50), "nobody has answered yet"
            fleet.start_worker()
            assert await asking.settle()
            assert await asking.settle(within_ms=0), "there is nothing to wait for any more"

    asyncio.run(scene())


def test_a_client_in_a_hurry_is_closed_without_the_answer_to_a_cancelled_claim(fleet: Fleet) -> None:
    async def scene() -> None:
        asking = await AsyncClient.connect(fleet.redis_url, factory_id="a", timeout_ms=600_000)
        task = asyncio.create_task(asking.claim("j"))
        await asyncio.to_thread(sent, fleet)
        task.cancel()
        assert await asyncio.wait([task])
        async with asyncio.timeout(30):
            await asking.close(settle=False)

    asyncio.run(scene())


def test_a_cancelled_claim_waits_no_more(fleet: Fleet, client: Client) -> None:
    async def scene() -> None:
        async with AsyncClient.connect(fleet.redis_url, factory_id="a") as asking:
            task = asyncio.create_task(asking.claim(queue="q", wait_ms=60_000))
            await asyncio.to_thread(wait_for, lambda: fleet.redis.hlen(claim_next.WAITING), "the claim waits")
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task

    asyncio.run(scene())
    assert fleet.redis.hlen(claim_next.WAITING) == 0
    client.submit(job_id="k", queue="q")
    assert client.claim(queue="q").body["epoch"] == 1, "nobody else was granted it"


def test_an_agent_told_to_stop_gives_back_what_it_gets_then(
    fleet: Fleet, worker: "subprocess.Popen[str]", client: Client, tmp_path: Path
) -> None:
    process = fleet.start([sys.executable, "-c", _AGENT, fleet.redis_url, str(tmp_path / "go")])
    assert process.stdout is not None
    assert process.stdout.readline() == "registered\n"
    worker.send_signal(signal.SIGSTOP)
    before = fleet.redis.keys("rq:job:*")
    (tmp_path / "go").touch()
    wait_for(lambda: set(cast(list[bytes], fleet.redis.keys("rq:job:*"))) - set(before), "the claim is sent")
    process.terminate()
    assert "no new work" in process.stdout.readline()
    worker.send_signal(signal.SIGCONT)
    assert process.wait(timeout=60) == 0
    assert job(client)[0] == "ready"
