"""Guards in the hands of those who enter them twice, interrupt them as they end, or raise what can't be told."""

import asyncio
import os
import signal
import subprocess
from concurrent.futures import ThreadPoolExecutor

import pytest

from broker.answers import Word
from broker.client import AsyncClient, AsyncLease, BrokerTimeout, Client, LeaseLost, NotGranted, Reply
from broker.queues import intake_key
from tests.fleet import Fleet
from tests.interrupts import interrupted
from tests.processes import end, wait_for

pytestmark = pytest.mark.redis


def state(client: Client, job_id: str = "j") -> str:
    return str(client.job(job_id).body["job"]["state"])


def last_run(client: Client, job_id: str = "j") -> dict[str, object]:
    run: dict[str, object] = client.runs(job_id).body["runs"][-1]
    return run


@pytest.mark.parametrize("nested", [False, True])
def test_a_guard_is_entered_once_and_claims_no_second_job_that_nobody_would_end(client: Client, nested: bool) -> None:
    client.submit(job_id="another")
    guard = client.lease()
    with guard as lease:
        if nested:
            with pytest.raises(RuntimeError, match="entered once"), guard:
                pytest.fail("it held two jobs")
        lease.complete()
    with pytest.raises(RuntimeError, match="entered once"), guard:
        pytest.fail("it held a second job")
    assert [job["id"] for job in client.jobs(state="leased").body["jobs"]] == []


def test_a_guard_that_was_not_granted_anything_may_be_entered_again(client: Client) -> None:
    guard = client.lease("later")
    with pytest.raises(NotGranted), guard:
        pytest.fail("there is no such job")
    client.submit(job_id="later")
    with guard as lease:
        assert lease.complete().good


def test_a_lease_that_was_ended_is_held_no_more(client: Client) -> None:
    reasons: list[str] = []
    with client.lease("j", on_lost=reasons.append) as lease:
        lease.check()
        lease.release()
        with pytest.raises(LeaseLost, match="ended"):
            lease.check()
        with pytest.raises(LeaseLost, match="ended"):
            lease.progress("on and on")
    assert (reasons, lease.lost.is_set()) == ([], False), "an end of one's own is no loss"
    assert "progress" not in last_run(client)


def test_whether_a_lease_is_held_is_not_known_once_its_completion_has_no_answer(fleet: Fleet) -> None:
    worker = fleet.start_worker()
    with Client.connect(fleet.redis_url, factory_id="f", attempt_ms=100) as client:
        client.submit(job_id="j", ttl_ms=1_000)
        with client.lease("j") as lease:
            end(worker)
            with pytest.raises(BrokerTimeout):
                lease.complete()
            with pytest.raises(LeaseLost):
                lease.check()


class Unspeakable(Exception):
    """Has no text."""

    def __str__(self) -> str:
        raise OSError("no text")


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (FileNotFoundError(os.fsdecode(b"caf\xe9.txt")), "FileNotFoundError: caf\\udce9.txt"),
        (Unspeakable(), "Unspeakable, whose text can't be had: OSError"),
    ],
)
def test_an_exception_whose_text_is_none_fails_the_try_all_the_same(
    client: Client, error: Exception, said: str
) -> None:
    with pytest.raises(type(error)), client.lease("j"):
        raise error
    assert (state(client), last_run(client)["error"]) == ("scheduled", said)


def test_a_try_is_failed_by_hand_with_a_text_that_holds_the_name_of_any_file(client: Client) -> None:
    with client.lease("j") as lease:
        lease.fail(os.fsdecode(b"caf\xe9.txt"))
    assert last_run(client)["error"] == "caf\\udce9.txt"


@pytest.fixture
def worker(fleet: Fleet) -> "subprocess.Popen[str]":
    return fleet.start_worker()


def test_a_completion_that_was_cancelled_is_asked_for_again_under_the_same_id(
    fleet: Fleet, worker: "subprocess.Popen[str]"
) -> None:
    async def main() -> Reply:
        async with AsyncClient.connect(fleet.redis_url, factory_id="f", wire="intake") as client:
            await client.submit(job_id="j")
            async with client.lease("j") as lease:
                worker.send_signal(signal.SIGSTOP)
                completing = asyncio.create_task(lease.complete({"n": 1}))
                while not sent(fleet):
                    await asyncio.sleep(0)
                completing.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await completing
                worker.send_signal(signal.SIGCONT)
                while (await client.job("j")).body["job"]["state"] == "leased":
                    pass
                return await lease.complete({"n": 1})

    assert asyncio.run(main()).answer is Word.REPLAYED


def sent(fleet: Fleet) -> bool:
    """Whether something was asked about leases, and not answered."""
    return any(fleet.redis.llen(name) for name in on_the_way(fleet))


def on_the_way(fleet: Fleet) -> list[str]:
    return [intake_key("leases"), *map(bytes.decode, fleet.redis.scan_iter("broker:inflight:*"))]


def test_a_lease_whose_completion_was_interrupted_and_is_lost_is_kept(
    fleet: Fleet, worker: "subprocess.Popen[str]"
) -> None:
    with Client.connect(fleet.redis_url, factory_id="f", wire="intake", timeout_ms=60_000) as client:
        client.submit(job_id="j", ttl_ms=30_000)
        with client.lease("j") as lease:
            end(worker)
            with pytest.raises(KeyboardInterrupt), interrupted(once=lambda: sent(fleet)):
                lease.complete()
            fleet.redis.delete(*on_the_way(fleet))
            fleet.start_worker()
            wait_for(lambda: client.job("j").body["job"]["lease"]["renewals"], "it is renewed")
            assert lease.complete().good


@pytest.mark.parametrize("ending", [None, ZeroDivisionError()])
def test_a_loss_that_is_told_as_the_block_ends_cancels_nobody(
    client: Client, fleet: Fleet, ending: Exception | None
) -> None:
    async def main() -> int:
        async with AsyncClient.connect(fleet.redis_url, factory_id="f") as own:
            with pytest.raises(LeaseLost if ending is None else type(ending)):  # noqa: PT012  # a guard's whole block
                async with own.lease("j"):
                    await own.revoke("j")  # a notice comes with the answer: a renewal is on its way as the block ends
                    if ending is not None:
                        raise ending
            task = asyncio.current_task()
            assert task is not None
            return task.cancelling()

    assert asyncio.run(main()) == 0
    assert last_run(client)["outcome"] == "revoked"


def test_a_thread_that_works_for_an_async_block_may_find_out_that_the_lease_is_lost(fleet: Fleet) -> None:
    worker = fleet.start_worker()
    reasons: list[str] = []

    async def main() -> None:
        async with AsyncClient.connect(fleet.redis_url, factory_id="f") as own:
            await own.submit(job_id="j", ttl_ms=1_000)
            with pytest.raises(LeaseLost, match="deadline"):  # noqa: PT012  # a guard's whole block
                async with own.lease("j", on_lost=reasons.append) as lease:
                    end(worker)
                    working = pool.submit(until_lost, lease)
                    wait_for(working.done, "the thread found out")  # the loop is busy: its own watch hears nothing
                    assert working.result().reason == "deadline"
                    await asyncio.Event().wait()

    with ThreadPoolExecutor(1) as pool:
        asyncio.run(main())
    assert reasons == ["deadline"]


def until_lost(lease: AsyncLease) -> LeaseLost:
    """Work for as long as the lease is held."""
    while True:
        try:
            lease.check()
        except LeaseLost as lost:
            return lost


class Interrupting(Exception):
    """Ctrl-C comes as it is put into words for the first time."""

    times = 0

    def __str__(self) -> str:
        self.times += 1
        if self.times == 1:
            raise KeyboardInterrupt
        return "told"


def test_an_interrupt_as_the_block_is_left_does_not_keep_the_broker_from_being_told(client: Client) -> None:
    with pytest.raises(KeyboardInterrupt), client.lease("j"):
        raise Interrupting
    assert (state(client), last_run(client)["error"]) == ("scheduled", "Interrupting: told")
