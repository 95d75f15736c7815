"""Both clients against real workers on a real server."""

import asyncio
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from broker import queues, replies
from broker.answers import Answer, Word, wire
from broker.claim_next import WAITING
from broker.client import AsyncClient, BrokerTimeout, BrokerUnavailable, Client, ClientClosed, Reply
from broker.messages import Claim, ClaimBody, SubmitBody
from broker.queues import Wire
from tests.conftest import StartValkey
from tests.fleet import Fleet
from tests.home import Home
from tests.processes import end, start_python, wait_for

pytestmark = pytest.mark.redis


@pytest.fixture
def served(fleet: Fleet) -> Fleet:
    """A fleet with one worker."""
    fleet.start_worker()
    return fleet


@pytest.fixture
def client(served: Fleet) -> Iterator[Client]:
    with Client.connect(served.redis_url, factory_id="f") as client:
        yield client


def state(client: Client, job_id: str) -> tuple[str, int]:
    job = client.job(job_id).body["job"]
    return job["state"], job["epoch"]


@pytest.mark.parametrize("wire", ["rq", "intake"])
def test_a_job_goes_from_submission_to_completion(served: Fleet, wire: Wire) -> None:
    with Client.connect(served.redis_url, factory_id="f", wire=wire) as client:
        assert client.submit({"n": 1}, job_id="j", requires=["engine=x"], labels={"a": "b"}).answer is Word.OK
        assert client.claim("j").answer is Word.NOT_CLAIMABLE
        grant = client.claim(offers=["engine=x"])
        assert grant.granted
        assert (grant.body["job_id"], grant.body["epoch"], grant.body["payload"]) == ("j", 1, {"n": 1})
        fence = {"epoch": 1, "token": grant.body["token"]}
        assert client.renew("j", **fence).answer is Word.RENEWED
        assert client.progress("j", **fence, progress={"half": True}).good
        assert client.claim("j").answer is Word.CONFLICT
        assert client.complete("j", **fence, result={"done": 1}).good
        assert client.claim("none").answer is Word.NOT_FOUND
        assert client.claim().answer is Word.NONE_AVAILABLE
        assert [job["id"] for job in client.jobs(state="succeeded").body["jobs"]] == ["j"]
        assert client.runs("j").body["runs"][0]["result"] == {"done": 1}


def test_a_second_grant_that_can_not_be_given_back_keeps_no_reply_from_anybody(served: Fleet, client: Client) -> None:
    asked = client.claim()
    body = {"job_id": "j", "epoch": 1, "token": "none of ours", "queue": "default", "ttl_ms": 60_000}
    grant = wire(Answer(Word.GRANTED, body=body), request_id=asked.request_id, now_ms=asked.server_now_ms)
    served.redis.rpush(replies.reply_key("f", client._exchange.address.instance), replies.encode(grant))
    for _ in range(2):
        assert client.claim().answer is Word.NONE_AVAILABLE


def test_release_fail_cancel_redrive_and_revoke_have_their_effect(client: Client) -> None:
    client.submit(job_id="j", max_failures=1)
    for end_lease in (client.release, client.fail):
        grant = client.claim("j")
        assert end_lease("j", epoch=grant.body["epoch"], token=grant.body["token"]).good
    assert state(client, "j") == ("failed", 2)
    assert client.redrive("j").good
    client.claim("j")
    assert client.revoke("j", hold=True).good
    assert client.cancel("j").good
    assert state(client, "j")[0] == "cancelled"


def test_a_claim_that_waits_gets_the_job_that_comes(client: Client) -> None:
    with ThreadPoolExecutor() as pool:
        waiting = pool.submit(client.claim, wait_ms=20_000)
        assert client.submit(job_id="late").good
        assert waiting.result(timeout=20).body["job_id"] == "late"


def test_several_jobs_are_claimed_and_renewed_with_one_request_each(client: Client) -> None:
    client.submit_many([SubmitBody(job_id=f"j{number}", fairness_key=f"t{number % 2}") for number in range(5)])
    first = client.claim(count=3)
    again = client.claim(count=3, request_id=first.request_id)
    leases = [(grant.body["job_id"], grant.body["epoch"], grant.body["token"]) for grant in first.grants]
    assert [(grant.body["job_id"], grant.body["epoch"], grant.body["token"]) for grant in again.grants] == leases
    assert len(leases) == 3
    client.revoke(leases[1][0])
    renewed = client.renew_many([grant.body for grant in first.grants])
    assert [each.answer for each in renewed.results] == [Word.RENEWED, Word.LEASE_LOST, Word.RENEWED]
    assert [each.body["job_id"] for each in renewed.results] == [job for job, _, _ in leases]
    assert renewed.sent_monotonic_ms == renewed.results[0].sent_monotonic_ms


def test_several_jobs_are_claimed_and_renewed_by_the_async_client_too(served: Fleet) -> None:
    async def run() -> None:
        async with AsyncClient.connect(served.redis_url, factory_id="f") as client:
            await client.submit(job_id="eu", prefers={"zone=eu": 10})
            await client.submit(job_id="any")
            claimed = await client.claim(count=2, offers=["zone=eu"])
            assert [grant.body["job_id"] for grant in claimed.grants] == ["eu", "any"]
            renewed = await client.renew_many([grant.body for grant in claimed.grants])
            assert [each.answer for each in renewed.results] == [Word.RENEWED] * 2

    asyncio.run(run())


def test_a_request_id_takes_effect_once(client: Client) -> None:
    client.submit(job_id="j")
    first = client.claim("j", request_id="claim-1")
    again = client.claim("j", request_id="claim-1")
    assert (first.answer, again.answer) == (Word.GRANTED, Word.REPLAYED)
    assert [first.body[name] for name in ("epoch", "token")] == [again.body[name] for name in ("epoch", "token")]
    fence = {"epoch": 1, "token": first.body["token"]}
    answers = [client.complete("j", **fence, request_id="complete-1").answer for _ in range(2)]
    assert answers == [Word.OK, Word.REPLAYED]


def test_many_requests_at_once_each_get_their_own_answer(client: Client) -> None:
    jobs = [f"j{number}" for number in range(256)]
    assert all(reply.good for reply in client.submit_many([SubmitBody(job_id=job) for job in jobs]))
    together = threading.Barrier(len(jobs))

    def claim(job: str) -> str:
        together.wait()
        return str(client.claim(job, timeout_ms=60_000).body["job_id"])

    with ThreadPoolExecutor(len(jobs)) as pool:
        assert list(pool.map(claim, jobs)) == jobs


def test_many_awaits_at_once_each_get_their_own_answer(served: Fleet) -> None:
    jobs = [f"j{number}" for number in range(256)]

    async def main() -> list[str]:
        async with AsyncClient.connect(served.redis_url, factory_id="f", timeout_ms=60_000) as client:
            await client.submit_many([SubmitBody(job_id=job) for job in jobs])
            replies = await asyncio.gather(*(client.claim(job) for job in jobs))
            return [reply.body["job_id"] for reply in replies]

    assert asyncio.run(main()) == jobs


def test_without_a_worker_the_outcome_is_unknown_and_the_same_id_finds_it_out(fleet: Fleet) -> None:
    with Client.connect(fleet.redis_url, factory_id="f", attempt_ms=100) as client:
        with pytest.raises(BrokerTimeout) as unknown:
            client.submit({"n": 1}, job_id="j", timeout_ms=300)
        lost = client.submit_many([SubmitBody(job_id="k")], timeout_ms=300)
        assert [reply.answer for reply in lost] == [Word.OUTCOME_UNKNOWN]
        fleet.start_worker()
        known = client.submit({"n": 1}, job_id="j", request_id=unknown.value.request_id, timeout_ms=10_000)
        assert known.good
        again = client.submit_many([SubmitBody(job_id="k")], request_ids=[lost[0].request_id])
        assert again[0].good
        assert len(client.jobs().body["jobs"]) == 2


def test_a_claim_past_its_deadline_is_not_granted(fleet: Fleet) -> None:
    with Client.connect(fleet.redis_url, factory_id="f", attempt_ms=100) as client:
        with pytest.raises(BrokerTimeout):
            client.claim("j", timeout_ms=300)
        before = fleet.start_worker()
        client.submit(job_id="j", timeout_ms=10_000)
        assert state(client, "j") == ("ready", 0)
        assert before.poll() is None


def test_where_redis_is_down_nothing_was_sent() -> None:
    with pytest.raises(BrokerUnavailable, match="not reachable"):
        Client.connect("redis://127.0.0.1:1/0", factory_id="f")

    async def connect() -> None:
        async with AsyncClient.connect("redis://127.0.0.1:1/0", factory_id="f"):
            pass

    with pytest.raises(BrokerUnavailable, match="not reachable"):
        asyncio.run(connect())


def test_a_restart_of_redis_costs_time_and_nothing_else(start_valkey: StartValkey, tmp_path: Path) -> None:
    server = start_valkey()
    fleet = Fleet(server.url, tmp_path)
    try:
        with Client.connect(server.url, factory_id="f", attempt_ms=500) as client, ThreadPoolExecutor() as pool:
            waiting = pool.submit(client.submit, job_id="before", timeout_ms=60_000)
            wait_for(lambda: fleet.redis.llen("rq:queue:jobs"), "the request is queued")
            server.stop()
            with pytest.raises(BrokerUnavailable, match="nothing was sent"):
                client.submit(job_id="while-down", timeout_ms=300)
            later = pool.submit(client.submit, job_id="during", timeout_ms=60_000)
            assert start_valkey().url == server.url
            fleet.start_worker()
            assert waiting.result(timeout=60).good
            assert later.result(timeout=60).good
            assert client.claim("before").granted
    finally:
        fleet.close()


def test_a_request_lost_with_all_of_redis_is_sent_again(fleet: Fleet) -> None:
    worker = fleet.start_worker()
    with Client.connect(fleet.redis_url, factory_id="f", attempt_ms=300) as client, ThreadPoolExecutor() as pool:
        client.submit(job_id="j")
        worker.send_signal(signal.SIGSTOP)
        waiting = pool.submit(client.claim, "j", timeout_ms=60_000)
        wait_for(lambda: fleet.redis.keys("rq:job:*"), "the request was sent")
        fleet.redis.flushall()
        worker.send_signal(signal.SIGCONT)
        assert waiting.result(timeout=60).granted
        assert worker.poll() is None


def two_wait_in_threads(url: str) -> list[Reply]:
    with Client.connect(url, factory_id="f") as client, ThreadPoolExecutor(2) as pool:
        waiting = [pool.submit(client.claim, wait_ms=60_000) for _ in range(2)]
        return [each.result() for each in waiting]


def two_wait_in_a_loop(url: str) -> list[Reply]:
    async def main() -> list[Reply]:
        async with AsyncClient.connect(url, factory_id="f") as client:
            return await asyncio.gather(*(client.claim(wait_ms=60_000) for _ in range(2)))

    return asyncio.run(main())


@pytest.mark.parametrize("wait", [two_wait_in_threads, two_wait_in_a_loop])
def test_claims_wait_on_in_a_redis_that_has_lost_everything_with_its_connections(
    served: Fleet, client: Client, wait: Callable[[str], list[Reply]]
) -> None:
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(wait, served.redis_url)
        for _ in range(2):
            wait_for(lambda: served.redis.hlen(WAITING) == 2, "they wait")
            served.redis.flushall()
            served.redis.client_kill_filter(_type="normal", skipme=True)
        wait_for(lambda: served.redis.hlen(WAITING) == 2, "they wait again")
        client.submit_many([SubmitBody(job_id="one"), SubmitBody(job_id="two")], timeout_ms=60_000)
        assert {grant.body["job_id"] for grant in waiting.result()} == {"one", "two"}


def test_a_second_grant_for_one_claim_is_released_at_once(served: Fleet, client: Client) -> None:
    client.submit_many([SubmitBody(job_id="first"), SubmitBody(job_id="second")])
    grant = client.claim("first")
    address = client._exchange.address.model_dump()
    copy = Claim(request_id=grant.request_id, body=ClaimBody(job_id="second"), **address)
    with served.redis.pipeline() as pipe:
        queues.enqueue(pipe, copy, wire="rq")
        pipe.execute()
    wait_for(lambda: state(client, "second") == ("ready", 1), "the second grant is given back")
    assert state(client, "first") == ("leased", 1)


def test_a_cancelled_claim_leaves_no_lease_behind(served: Fleet) -> None:
    async def main(steps: int) -> tuple[str, int]:
        async with AsyncClient.connect(served.redis_url, factory_id="f") as client:
            job_id = f"j{steps}"
            await client.submit(job_id=job_id)
            task = asyncio.create_task(client.claim(job_id))
            for _ in range(steps):
                await asyncio.sleep(0)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            # Its answer, if there is one, comes before the answer to anything that was sent later.
            async with asyncio.timeout(20):
                while (job := (await client.job(job_id)).body["job"])["state"] != "ready":
                    pass
            return job["state"], job["epoch"]

    for steps in (0, 1, 2, 3, 5):
        assert asyncio.run(main(steps))[0] == "ready"


def test_closing_wakes_whoever_waits(fleet: Fleet) -> None:
    client = Client.connect(fleet.redis_url, factory_id="f")
    with ThreadPoolExecutor() as pool:
        waiting = pool.submit(client.claim, wait_ms=60_000)
        wait_for(lambda: fleet.redis.llen("rq:queue:claims"), "the claim is sent")
        client.close()
        with pytest.raises(ClientClosed, match="on its way") as closed:
            waiting.result(timeout=10)
        [sent] = fleet.redis.lrange("rq:queue:claims", 0, -1)
        assert sent == f"{closed.value.request_id}-1".encode()
    client.close()
    with pytest.raises(ClientClosed) as closed:
        client.job("j")
    assert closed.value.request_id is None, "nothing was sent"


def test_closing_wakes_whoever_waits_in_an_event_loop_too(fleet: Fleet) -> None:
    async def main() -> None:
        client = await AsyncClient.connect(fleet.redis_url, factory_id="f")
        waiting = asyncio.create_task(client.claim(wait_ms=60_000))
        while not fleet.redis.llen("rq:queue:claims"):
            await asyncio.sleep(0)
        await client.close()
        with pytest.raises(ClientClosed, match="on its way") as closed:
            await waiting
        [sent] = fleet.redis.lrange("rq:queue:claims", 0, -1)
        assert sent == f"{closed.value.request_id}-1".encode()

    asyncio.run(main())


_FORK = """
import os, signal, sys, threading
from broker.client import Client, ClientClosed
client = Client.connect(sys.argv[1], factory_id="f")
holds, forked = threading.Event(), threading.Event()
def call():
    with client._exchange._lock, client._exchange._turns._lock:
        holds.set()
        forked.wait()
calling = threading.Thread(target=call)
calling.start()
holds.wait()
child = os.fork()  # while another thread is in the midst of a call
forked.set()
if child == 0:
    signal.alarm(20)
    try:
        client.job("j")
    except ClientClosed as error:
        client.close()
        print("child:", error, flush=True)
    os._exit(0)
os.wait()
print("parent:", client.job("j").answer, flush=True)
client.close()
"""


def test_a_forked_child_is_refused_and_its_parent_served_on(served: Fleet) -> None:
    child = start_python(_FORK, served.redis_url)
    try:
        output = child.communicate(timeout=60)[0]
    finally:
        end(child)
    assert "child: this client was made before a fork" in output
    assert "parent: not_found" in output


def test_a_factory_with_the_least_rights_is_served_through_the_intake(
    start_valkey: StartValkey, tmp_path: Path
) -> None:
    server = start_valkey()
    fleet = Fleet(server.url, tmp_path)
    rights = ["reset", "on", ">s3cret", "resetchannels", "+auth", "+hello", "+client|setname"]
    rights += ["(~broker:in:* +rpush)", "(~broker:reply:f:* +blpop +lpop)"]
    try:
        fleet.redis.execute_command("ACL", "SETUSER", "f", *rights)  # type: ignore[no-untyped-call]  # as redis-py has it
        fleet.start_worker()
        url = server.url.replace("unix://", "unix://f@")
        with Client.connect(url, factory_id="f", wire="intake", password="s3cret") as client:
            assert client.submit(job_id="j").good
            assert client.claim("j").granted
        with (
            Client.connect(url, factory_id="f", wire="rq", password="s3cret") as client,
            pytest.raises(BrokerUnavailable, match="Redis refused"),
        ):
            client.submit(job_id="k")
        with pytest.raises(BrokerUnavailable) as refused:
            Client.connect(url, factory_id="f", password="wr0ng")
        assert str(refused.value).startswith("Redis refused the password: ")
        assert refused.value.refused
        assert "wr0ng" not in str(refused.value)
        home = Home(tmp_path, {"BROKER_REDIS_URL": url})
        for environ, problem, step in (
            ({"BROKER_REDIS_PASSWORD": "wr0ng"}, "error: Redis refused the password", "BROKER_REDIS_PASSWORD_FILE"),
            ({"BROKER_REDIS_PASSWORD": "s3cret"}, "error: Redis refused: ", "BROKER_WIRE=intake"),
        ):
            status, _, told = home.run("jobs", "--factory", "f", env=environ)
            assert (status, told.startswith(problem)) == (1, True), told
            assert step in told.splitlines()[-1]
    finally:
        fleet.close()


def connections(served: Fleet) -> int:
    return len(served.redis.client_list())


def with_its_worker_idle(served: Fleet) -> int:
    """How many connections there are once the worker has opened those that wait."""
    wait_for(served.waits_stand, "all lists are waited on")
    return connections(served)


def test_a_client_keeps_few_connections_and_none_after_it(served: Fleet) -> None:
    before = with_its_worker_idle(served)
    with Client.connect(served.redis_url, factory_id="f") as client, ThreadPoolExecutor(64) as pool:
        replies: list[Reply] = list(pool.map(client.job, [f"j{number}" for number in range(256)]))
        assert {reply.answer for reply in replies} == {Word.NOT_FOUND}
        assert connections(served) - before <= 1 + 8
    wait_for(lambda: connections(served) <= before, "every connection is given back")


def test_an_async_client_keeps_few_connections_however_much_is_outstanding(served: Fleet) -> None:
    async def ask() -> int:
        async with AsyncClient.connect(served.redis_url, factory_id="f") as client:

            async def in_turn(number: int) -> Reply:
                for _ in range(number % 8):  # in several turns of the loop, while the first still connects
                    await asyncio.sleep(0)
                return await client.job(f"j{number}")

            replies = await asyncio.gather(*(in_turn(number) for number in range(256)))
            assert {reply.answer for reply in replies} == {Word.NOT_FOUND}
            return connections(served)

    before = with_its_worker_idle(served)
    assert asyncio.run(ask()) - before <= 3, "what reads, what sends, and the one that asked for the time"
    wait_for(lambda: connections(served) <= before, "every connection is given back")
