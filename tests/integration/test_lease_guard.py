"""The guards against real workers: how a lease is kept, lost and ended."""

import asyncio
import signal
import threading
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import count
from pathlib import Path

import pytest
import structlog

from broker.answers import Reason, Word
from broker.client import (
    AsyncClient,
    BrokerTimeout,
    Client,
    InvalidRequest,
    Lease,
    LeaseLost,
    NotGranted,
)
from tests.conftest import StartValkey
from tests.fleet import Fleet
from tests.processes import end, start_python, wait_for

pytestmark = pytest.mark.redis
TTL_MS = 1_000


@pytest.fixture
def client(fleet: Fleet) -> Iterator[Client]:
    fleet.start_worker()
    with Client.connect(fleet.redis_url, factory_id="f") as client:
        client.submit({"n": 1}, job_id="j", ttl_ms=TTL_MS, labels={"a": "b"})
        yield client


def job(client: Client, job_id: str = "j") -> dict[str, object]:
    found: dict[str, object] = client.job(job_id).body["job"]
    return found


def renewals(client: Client, job_id: str = "j") -> int:
    lease = job(client, job_id)["lease"]
    assert isinstance(lease, dict), "the lease is gone"
    return int(lease["renewals"])


def last_run(client: Client) -> dict[str, object]:
    run: dict[str, object] = client.runs("j").body["runs"][-1]
    return run


def test_a_held_job_outlives_its_ttl_and_is_completed_by_its_holder(client: Client) -> None:
    with client.lease("j") as lease:
        assert (lease.job_id, lease.epoch, lease.payload, lease.labels) == ("j", 1, {"n": 1}, {"a": "b"})
        wait_for(lambda: renewals(client) >= 4, "it was renewed for longer than its ttl")
        assert client.claim("j").answer is Word.CONFLICT
        lease.progress({"half": True})
        lease.check()
        assert lease.complete({"done": 1}).good
    run = last_run(client)
    assert (run["outcome"], run["result"], run["progress"]) == ("succeeded", {"done": 1}, {"half": True})


def test_progress_may_be_taken_back_to_nothing(client: Client) -> None:
    with client.lease("j") as lease:
        lease.progress("half")
        lease.progress(None)
        assert last_run(client)["progress"] is None


def test_an_exception_fails_the_try_and_is_raised_on(client: Client) -> None:
    with pytest.raises(ZeroDivisionError), client.lease("j"):
        _ = 1 / 0
    assert (job(client)["state"], last_run(client)["error"]) == ("scheduled", "ZeroDivisionError: division by zero")


@pytest.mark.parametrize("interrupt", [KeyboardInterrupt, SystemExit])
def test_an_interrupt_releases_and_burns_no_try(client: Client, interrupt: type[BaseException]) -> None:
    with pytest.raises(interrupt), client.lease("j"):
        raise interrupt
    found = job(client)
    assert (found["state"], found["counters"]) == ("ready", {"failures": 0, "expiries": 0, "releases": 1})


def test_a_clean_end_without_a_result_releases(client: Client) -> None:
    with client.lease("j"):
        pass
    assert (job(client)["state"], last_run(client)["outcome"]) == ("ready", "released")


def test_a_lease_can_be_failed_for_good_by_hand(client: Client) -> None:
    with client.lease("j") as lease:
        lease.fail("hopeless", retryable=False)
        with pytest.raises(RuntimeError, match="ended before"):
            lease.complete()
    assert job(client)["state"] == "failed"


def test_two_threads_that_complete_one_lease_are_told_the_same_or_that_it_has_ended(client: Client) -> None:
    together, rounds = 0, count()
    while together < 3:
        round = next(rounds)
        assert round < 300, "hardly ever at once"
        client.submit(job_id=f"both-{round}")
        with client.lease(f"both-{round}") as lease, ThreadPoolExecutor(2) as threads:
            calls = [threads.submit(lease.complete) for _ in range(2)]
            ended = [call for call in calls if "was ended before" in str(call.exception())]
            told = [call.result() for call in calls if call not in ended]
        assert all(reply.good for reply in told)
        together += len(told) == len(calls)


def test_async_a_completion_that_is_asked_for_again_while_it_goes_on_is_told_the_same(
    client: Client, fleet: Fleet
) -> None:
    async def main() -> None:
        async with AsyncClient.connect(fleet.redis_url, factory_id="f") as asked, asked.lease("j") as lease:
            first = asyncio.ensure_future(lease.complete({"n": 1}))
            await asyncio.sleep(0)
            assert (await lease.complete({"n": 1})).good
            assert (await first).good

    asyncio.run(main())
    assert job(client)["state"] == "succeeded"


def test_without_a_grant_the_body_does_not_run(client: Client) -> None:
    with client.lease("j"), pytest.raises(NotGranted) as refused, client.lease("j"):
        pytest.fail("two holders")
    assert (refused.value.reply.answer, refused.value.reply.reason) == (Word.CONFLICT, Reason.HELD)


def test_a_result_that_is_too_large_leaves_the_lease_kept(client: Client) -> None:
    with client.lease("j") as lease:
        with pytest.raises(InvalidRequest):
            lease.complete("x" * 20_000)
        before = renewals(client)
        wait_for(lambda: renewals(client) > before, "it is renewed further")
        lease.complete("x")
    assert job(client)["state"] == "succeeded"


def test_a_revoked_lease_is_reported_once_and_ends_nothing(client: Client) -> None:
    reasons: list[str] = []
    with pytest.raises(LeaseLost), client.lease("j", on_lost=reasons.append) as lease:  # noqa: PT012  # a guard's whole block is what raises
        client.revoke("j")
        assert lease.lost.wait(10)
        for act in (lease.check, lease.complete, lease.release, lambda: lease.progress(1)):
            with pytest.raises(LeaseLost, match="revoked"):
                act()
    assert reasons == ["revoked"]
    assert (job(client)["state"], last_run(client)["outcome"]) == ("ready", "revoked")


def test_a_failing_callback_hinders_nothing(client: Client) -> None:
    callback: Future[None] = Future()  # its result never comes: a TimeoutError
    with pytest.raises(LeaseLost), client.lease("j", on_lost=lambda _: callback.result(0)) as lease:  # noqa: PT012  # a guard's whole block is what raises
        client.revoke("j")
        assert lease.lost.wait(10)


def test_a_callback_that_hangs_keeps_no_other_lease_from_being_renewed(client: Client) -> None:
    let_go = threading.Event()

    def hang(_reason: str) -> None:
        let_go.wait(20)

    client.submit(job_id="other", ttl_ms=TTL_MS)
    with client.lease("other") as other:
        with pytest.raises(LeaseLost), client.lease("j", on_lost=hang) as lease:  # noqa: PT012  # a guard's whole block is what raises
            client.revoke("j")
            assert lease.lost.wait(10)
            before = client.job("other").body["job"]["lease"]["renewals"]
            wait_for(lambda: client.job("other").body["job"]["lease"]["renewals"] >= before + 3, "it is renewed")
            let_go.set()
        other.complete()


@pytest.mark.usefixtures("client")
def test_a_closed_client_holds_nothing(fleet: Fleet) -> None:
    reasons: list[str] = []
    with Client.connect(fleet.redis_url, factory_id="closes") as closing:
        lease = closing.lease("j", on_lost=reasons.append)
        lease.__enter__()
    assert (reasons, lease.lost.is_set()) == (["ClientClosed"], True)
    with pytest.raises(LeaseLost):
        lease.check()
    assert [thread.name for thread in threading.enumerate() if thread.name.startswith("broker-renewals")] == []


def test_a_cancel_reaches_the_holder_once_and_a_release_acknowledges_it(client: Client) -> None:
    asked: list[str] = []
    with client.lease("j", on_cancel=lambda: asked.append("cancel")) as lease:
        client.cancel("j")
        wait_for(lambda: lease.cancel_requested, "the cancel is delivered")
        before = renewals(client)
        wait_for(lambda: renewals(client) > before, "it is renewed once more")
        assert asked == ["cancel"]
    assert job(client)["state"] == "cancelled"


def test_a_claim_that_waited_longer_than_the_ttl_begins_with_a_renewal(client: Client) -> None:
    started = threading.Event()
    seen: list[int] = []

    def work() -> None:
        with client.lease(queue="slow", wait_ms=20_000) as lease:
            lease.check()
            seen.append(lease.epoch)
            started.set()
            lease.complete()

    thread = threading.Thread(target=work)
    thread.start()
    with client.lease("j"):  # three of its renewals are longer than the ttl of the other job
        wait_for(lambda: renewals(client) >= 4, "the ttl has passed")
        client.submit(job_id="k", queue="slow", ttl_ms=TTL_MS)
        assert started.wait(20)
    thread.join()
    assert (seen, job(client, "k")["state"]) == ([1], "succeeded")
    assert client.runs("k").body["runs"][0]["outcome"] == "succeeded"


@pytest.mark.parametrize("fault", ["killed", "stopped"])
def test_where_redis_is_gone_the_loss_is_reported_all_the_same(
    start_valkey: StartValkey, tmp_path: Path, fault: str
) -> None:
    server = start_valkey()
    fleet = Fleet(server.url, tmp_path)
    try:
        fleet.start_worker()
        with Client.connect(server.url, factory_id="f") as client:
            for job_id in ("j", "k"):
                client.submit(job_id=job_id, ttl_ms=TTL_MS)
            reasons: list[str] = []
            with (  # noqa: PT012  # a guard's whole block is what raises
                pytest.raises(LeaseLost, match="deadline"),
                client.lease("k", on_lost=reasons.append) as other,
                client.lease("j", on_lost=reasons.append) as lease,
            ):
                if fault == "killed":
                    server.stop()
                else:
                    fleet.redis.execute_command("CLIENT", "PAUSE", 3_000)  # type: ignore[no-untyped-call]  # redis-py
                assert lease.lost.wait(10)
                assert other.lost.wait(10)
                lease.check()
            assert reasons == ["deadline", "deadline"]
    finally:
        fleet.close()


def test_an_unknown_completion_is_not_failed_and_its_id_tells_the_truth(fleet: Fleet) -> None:
    worker = fleet.start_worker()
    with Client.connect(fleet.redis_url, factory_id="f") as client:
        client.submit(job_id="j", ttl_ms=TTL_MS)
        with pytest.raises(BrokerTimeout) as unknown, client.lease("j") as lease:  # noqa: PT012  # a guard's whole block is what raises
            worker.kill()
            worker.wait()
            lease.complete({"done": 1})
        fleet.start_worker()
        again = client.complete(
            "j", epoch=lease.epoch, token=lease.token, result={"done": 1}, request_id=unknown.value.request_id,
            timeout_ms=60_000,
        )  # fmt: skip
        assert again.good
        assert (job(client)["state"], last_run(client)["error"]) == ("succeeded", None)


_HOLDER = """
import signal, sys
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1])
from broker.client import Client, LeaseLost
with Client.connect(sys.argv[1], factory_id="stopped") as client:
    try:
        with client.lease("j") as lease:
            if sys.argv[2] == "believes its lease":  # the broken twin: it has no deadline of its own
                lease._tenure.deadline_ms += 3_600_000
            print("holding", flush=True)
            signal.sigwait([signal.SIGUSR1])
            lease.complete()
            print("completed", flush=True)
    except LeaseLost as lost:
        print(f"lost {lost.reason}", flush=True)  # in one piece: the keeper's thread logs into the same pipe
"""


@pytest.mark.parametrize(
    ("holder", "says"), [("knows its deadline", "lost deadline"), ("believes its lease", "completed")]
)
def test_a_holder_stopped_past_its_ttl_completes_nothing(client: Client, fleet: Fleet, holder: str, says: str) -> None:
    """Nobody takes the job over here, so the broker would still accept the completion: only the deadline stands."""
    process = start_python(_HOLDER, fleet.redis_url, holder)
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "holding\n"
        process.send_signal(signal.SIGSTOP)
        expires_ms = wait_for(lambda: client.job("j").body["job"]["lease"]["expires_ms"], "its expiry is known")
        wait_for(lambda: client.job("j").server_now_ms > expires_ms, "the ttl has passed")
        process.send_signal(signal.SIGUSR1)
        process.send_signal(signal.SIGCONT)
        output = process.communicate(timeout=30)[0]
    finally:
        end(process)
    assert says in output
    assert (job(client)["state"] == "succeeded") == (says == "completed")


def run_async(fleet: Fleet, body: object) -> object:
    """Run `body(client)` in a loop of its own."""

    async def main() -> object:
        async with AsyncClient.connect(fleet.redis_url, factory_id="a") as client:
            return await body(client)  # type: ignore[operator]  # a coroutine function

    return asyncio.run(main())


def test_async_a_held_job_outlives_its_ttl_and_is_completed(client: Client, fleet: Fleet) -> None:
    async def body(own: AsyncClient) -> None:
        async with own.lease("j") as lease:
            async with asyncio.timeout(20):
                while (await own.job("j")).body["job"]["lease"]["renewals"] < 4:
                    lease.check()
            await lease.progress(1)
            await lease.complete({"done": 1})

    run_async(fleet, body)
    assert (job(client)["state"], last_run(client)["result"]) == ("succeeded", {"done": 1})


def test_async_the_loss_cancels_the_body_and_raises_lease_lost(client: Client, fleet: Fleet) -> None:
    reasons: list[str] = []

    async def body(own: AsyncClient) -> int:
        with pytest.raises(LeaseLost, match="revoked"):  # noqa: PT012  # a guard's whole block is what raises
            async with own.lease("j", on_lost=reasons.append):
                await own.revoke("j")
                await asyncio.Event().wait()
        task = asyncio.current_task()
        assert task is not None
        return task.cancelling()

    assert run_async(fleet, body) == 0, "the cancellation is taken back"
    assert reasons == ["revoked"]
    assert last_run(client)["outcome"] == "revoked"


def test_async_a_cancellation_from_outside_releases_and_goes_on(client: Client, fleet: Fleet) -> None:
    async def body(own: AsyncClient) -> None:
        held = asyncio.Event()

        async def work() -> None:
            async with own.lease("j"):
                held.set()
                await asyncio.Event().wait()

        task = asyncio.create_task(work())
        await held.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    run_async(fleet, body)
    assert (job(client)["state"], last_run(client)["outcome"]) == ("ready", "released")


def test_async_an_exception_fails_and_a_clean_end_releases(client: Client, fleet: Fleet) -> None:
    async def body(own: AsyncClient) -> None:
        async with own.lease("j"):
            pass
        assert (await own.job("j")).body["job"]["state"] == "ready"
        with pytest.raises(ZeroDivisionError):
            async with own.lease("j"):
                _ = 1 / 0
        with pytest.raises(NotGranted):
            async with own.lease("j"):
                pytest.fail("a job that is scheduled was granted")

    run_async(fleet, body)
    assert (job(client)["state"], last_run(client)["error"]) == ("scheduled", "ZeroDivisionError: division by zero")


def test_a_guard_shows_no_token(client: Client) -> None:
    with client.lease("j") as lease:
        assert isinstance(lease, Lease)
        assert lease.token not in repr(lease) + repr(lease._tenure) + str(LeaseLost("j", 1, "x"))


def test_a_log_that_can_not_be_written_keeps_no_loss_from_the_holder_and_no_other_lease_from_being_kept(
    client: Client,
) -> None:
    def fail(*_: object) -> str:
        raise BrokenPipeError("the log's reader has gone")

    client.submit(job_id="k", ttl_ms=TTL_MS)
    reasons: list[str] = []
    before = structlog.get_config()
    structlog.configure(processors=[fail])
    try:
        with client.lease("k") as other:
            with pytest.raises(LeaseLost), client.lease("j", on_lost=reasons.append) as lease:  # noqa: PT012  # a guard's whole block is what raises
                client.revoke("j")
                assert lease.lost.wait(10)
                lease.check()
            assert reasons == ["revoked"]
            renewed = renewals(client, "k")
            wait_for(lambda: renewals(client, "k") > renewed, "the other one is renewed further")
            other.complete()
    finally:
        structlog.configure(**before)
