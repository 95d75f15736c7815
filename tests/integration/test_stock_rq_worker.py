"""The wire is rq's: stock workers serve it with our function, and stock clients are served by our worker."""

import json
import subprocess
import sys
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import pytest
import redis
from redis.exceptions import ConnectionError as RedisConnectionError
from rq import Queue
from rq.job import Job as RqJob
from rq.job import JobStatus
from rq.serializers import JSONSerializer

from broker.messages import Request
from broker.queues import QUEUES, SETTLE
from datastore import Ok, connect
from tests.caller import Caller
from tests.commands import Commands
from tests.fleet import Fleet
from tests.home import Home
from tests.processes import wait_for
from tests.signed_fleet import Signed
from workers.fleet_status import look
from workers.one_store import serve_own
from workers.runtime import own_client


def rq_worker(fleet: Fleet, *queues: str, options: tuple[str, ...] = (), **env: str) -> "subprocess.Popen[str]":
    """`rq worker` as anybody would start it."""
    argv = [sys.executable, "-m", "rq.cli", "worker", "-S", "json", "--url", fleet.redis_url, *options, *queues]
    return fleet.start(argv, env)


def burst(fleet: Fleet, queue: str, *options: str) -> str:
    """Let a stock worker empty one queue; what it printed."""
    worker = rq_worker(fleet, queue, options=("--burst", *options))
    output, _ = worker.communicate(timeout=60)
    assert worker.returncode == 0, output
    return output


def plain(request: Request) -> dict[str, Any]:
    """What a client without our code enqueues."""
    return json.loads(request.model_dump_json(exclude_none=True))  # type: ignore[no-any-return]


@pytest.mark.parametrize("options", [(), ("-w", "rq.SimpleWorker")], ids=str)
def test_a_stock_worker_serves_a_jobs_whole_life(fleet: Fleet, options: tuple[str, ...]) -> None:
    caller = Caller(fleet.redis)
    submits = [caller.make("submit", job_id=f"job-{number}", payload=number) for number in range(2)]
    claims = [caller.make("claim", job_id="job-0"), caller.make("claim"), caller.make("claim")]
    caller.send(*submits, *claims)
    burst(fleet, "jobs", *options)
    assert [reply["answer"] for reply in caller.replies(*submits)] == ["ok", "ok"]
    burst(fleet, "claims", *options)
    first, second, third = caller.replies(*claims)
    assert [reply["answer"] for reply in (first, second, third)] == ["granted", "granted", "none_available"]
    assert (second["body"]["job_id"], second["body"]["payload"]) == ("job-1", 1)
    lease = {name: first["body"][name] for name in ("job_id", "epoch", "token")}
    complete, forged = caller.make("complete", **lease), caller.make("complete", **{**lease, "token": "f" * 32})
    caller.send(forged, complete)
    burst(fleet, "leases", *options)
    assert [reply["answer"] for reply in caller.replies(forged, complete)] == ["lease_lost", "ok"]


def test_status_and_the_doctor_count_stock_workers_and_name_the_queues_without_any(
    fleet: Fleet, commands: Commands, tmp_path: Path
) -> None:
    home = Home(tmp_path, {"BROKER_REDIS_URL": fleet.redis_url}, run=commands.run)

    def shown() -> Any:
        return home.json("status")[1]

    claims = rq_worker(fleet, "claims", options=("--name", "theirs"))
    wait_for(lambda: shown()["stock_workers"] == [{"name": "theirs", "queues": ["claims"]}], "it is told")
    status, out, told = home.run("status")
    assert (status, "serving    0 workers, 1 stock rq worker (claims)" in out) == (1, True), out
    assert "no worker serves the queues leases, jobs" in told
    assert "none serves leases, jobs" in home.run("doctor")[1]
    others = [rq_worker(fleet, queue) for queue in ("leases", "jobs")]
    wait_for(lambda: shown()["up"], "every queue is served")
    assert home.run("status")[0] == 0
    assert "0 serve, and 3 stock rq workers\n" in home.run("doctor")[1]
    for worker in (claims, *others):
        worker.terminate()
    wait_for(lambda: shown()["problem"] == "no worker serves", "those that ended are not counted")


@pytest.mark.parametrize("started_by", ["broker", "rq"])
def test_our_own_worker_is_no_stock_worker_whoever_starts_it(fleet: Fleet, started_by: str) -> None:
    if started_by == "broker":
        fleet.start_worker()
    else:
        rq_worker(fleet, *QUEUES, options=("-w", "workers.claim_worker.ClaimWorker"))
    wait_for(lambda: look(fleet.redis).workers, "it serves")
    wait_for(lambda: fleet.redis.smembers("rq:workers"), "rq knows it")
    assert look(fleet.redis).stock == {}


def test_requests_of_a_stock_worker_and_of_ours_see_one_another(fleet: Fleet) -> None:
    caller = Caller(fleet.redis)
    submit = caller.make("submit", job_id="job")
    caller.send(submit)
    burst(fleet, "jobs")
    caller.replies(submit)
    fleet.start_worker()
    again = caller.make("submit", job_id="job", request_id=submit.request_id, attempt=2)
    caller.send(again)
    assert caller.replies(again)[0]["answer"] == "replayed"
    assert caller.ask("claim")["body"]["job_id"] == "job"


def test_a_claim_that_would_wait_is_answered_at_once_by_a_stock_worker(fleet: Fleet) -> None:
    # A parked claim comes back over the intake, which a stock worker does not serve.
    caller = Caller(fleet.redis)
    claim = caller.make("claim", wait_ms=60_000)
    caller.send(claim)
    burst(fleet, "claims")
    assert caller.replies(claim)[0]["answer"] == "none_available"


def test_a_malformed_request_is_answered_and_buried_by_a_stock_worker_too(fleet: Fleet) -> None:
    caller = Caller(fleet.redis)
    queue = Queue("claims", connection=fleet.redis, serializer=JSONSerializer)
    wrong = plain(caller.make("claim")) | {"op": "explode"}
    queue.enqueue(SETTLE, wrong)
    queue.enqueue(SETTLE, "not even an object")
    burst(fleet, "claims")
    assert caller.replies_to([wrong["request_id"]])[0]["answer"] == "invalid"
    assert fleet.redis.llen("broker:dead") == 2


def test_a_plain_rq_client_is_served_by_our_worker_and_reads_the_result(fleet: Fleet) -> None:
    caller = Caller(fleet.redis)
    fleet.start_worker()
    jobs = Queue("jobs", connection=fleet.redis, serializer=JSONSerializer)
    claims = Queue("claims", connection=fleet.redis, serializer=JSONSerializer)
    submitted = jobs.enqueue(SETTLE, plain(caller.make("submit", job_id="job")))
    assert _finished(submitted) == "ok"
    claim = caller.make("claim", job_id="job")
    assert _finished(claims.enqueue(SETTLE, plain(claim), result_ttl=60)) == "granted"
    assert caller.replies(claim)[0]["body"]["epoch"] == 1
    found = RqJob.fetch(submitted.id, connection=fleet.redis, serializer=JSONSerializer)
    assert found.get_status() is JobStatus.FINISHED
    result = found.latest_result()
    assert result is not None
    assert result.return_value == "ok"


def test_a_plain_rq_client_that_wants_no_result_leaves_nothing(fleet: Fleet) -> None:
    caller = Caller(fleet.redis)
    fleet.start_worker()
    queue = Queue("claims", connection=fleet.redis, serializer=JSONSerializer)
    claim = caller.make("claim")
    rq_job = queue.enqueue(SETTLE, plain(claim), result_ttl=0)
    caller.replies(claim)
    wait_for(lambda: not fleet.redis.keys(f"rq:*{rq_job.id}*"), "rq's keys of the request are gone")


def test_rq_starts_our_worker_by_its_name_and_it_serves_all_three_queues(fleet: Fleet) -> None:
    worker = rq_worker(fleet, *QUEUES, options=("-w", "workers.claim_worker.ClaimWorker"))
    caller = Caller(fleet.redis)
    caller.submit("job")
    lease = caller.hold("job", wire="intake")
    assert caller.ask("complete", **lease)["answer"] == "ok"
    worker.terminate()
    assert worker.wait(timeout=20) == 0


def test_a_burst_of_our_worker_empties_the_queues_and_ends(fleet: Fleet) -> None:
    caller = Caller(fleet.redis)
    submits = [caller.make("submit", job_id=f"job-{number}") for number in range(100)]
    caller.send(*submits)
    worker = rq_worker(fleet, *QUEUES, options=("--burst", "-w", "workers.claim_worker.ClaimWorker"))
    output, _ = worker.communicate(timeout=60)
    assert worker.returncode == 0, output
    assert {reply["answer"] for reply in caller.replies(*submits)} == {"ok"}


def test_memory_is_refused_by_a_forking_worker_and_the_rq_job_says_why(fleet: Fleet) -> None:
    fleet.datastore_url = "memory://"
    caller = Caller(fleet.redis)
    queue = Queue("jobs", connection=fleet.redis, serializer=JSONSerializer)
    rq_job = queue.enqueue(SETTLE, plain(caller.make("submit", job_id="job")))
    burst(fleet, "jobs")
    failed = RqJob.fetch(rq_job.id, connection=fleet.redis, serializer=JSONSerializer)
    assert failed.get_status() is JobStatus.FAILED
    result = failed.latest_result()
    assert result is not None
    assert "memory:// can't be served by a forking rq worker" in str(result.exc_string)


def test_memory_is_served_by_one_stock_simple_worker_as_long_as_it_lives(fleet: Fleet) -> None:
    fleet.datastore_url = "memory://"
    caller = Caller(fleet.redis)
    submit, look = caller.make("submit", job_id="job"), caller.make("get_job", job_id="job")
    caller.send(submit, look)
    burst(fleet, "jobs", "-w", "rq.SimpleWorker")
    assert [reply["answer"] for reply in caller.replies(submit, look)] == ["ok", "ok"]


def test_a_second_process_on_memory_is_refused_and_may_come_when_the_first_has_gone(fleet: Fleet) -> None:
    fleet.datastore_url = "memory://"
    first = fleet.start_worker()
    second = rq_worker(fleet, *QUEUES, options=("-w", "workers.claim_worker.ClaimWorker"))
    output, _ = second.communicate(timeout=60)
    assert second.returncode != 0
    assert "already serves a memory:// store on this Redis" in output
    assert Caller(fleet.redis).ask("submit", job_id="job")["answer"] == "ok", "the first serves on"
    first.kill()
    first.wait()
    fleet.redis.delete("broker:workers")
    fleet.start_worker()


def test_a_stock_worker_refuses_what_it_gets_once_another_store_is_served(fleet: Fleet) -> None:
    """It is heard of by rq alone, so it keeps no other store off."""
    rq_worker(fleet, "jobs", options=("-w", "rq.SimpleWorker"))
    caller = Caller(fleet.redis)
    assert caller.ask("submit", job_id="first")["answer"] == "ok"
    serve_own(fleet.redis, "0123456789abcdef" * 2, session="theirs")
    queue = Queue("jobs", connection=fleet.redis, serializer=JSONSerializer)
    rq_job = queue.enqueue(SETTLE, plain(caller.make("submit", job_id="second")))
    wait_for(lambda: rq_job.get_status() is JobStatus.FAILED, "it is refused")
    with closing(connect(fleet.datastore_url)) as store:
        assert [isinstance(store.read(name, name), Ok) for name in ("first", "second")] == [True, False]


def _finished(rq_job: RqJob) -> object:
    wait_for(lambda: rq_job.get_status() is JobStatus.FINISHED, f"rq job {rq_job.id} is finished")
    return rq_job.return_value()


def test_a_stock_rq_worker_looks_at_signatures_too(fleet: Fleet, tmp_path: Path) -> None:
    made = Signed(fleet, tmp_path)
    stock = rq_worker(fleet, "jobs", options=("-w", "rq.SimpleWorker"), **made.env)
    with made.client(made.key("mac-1")) as client:
        assert client.submit(job_id="job").good
    caller = Caller(fleet.redis, "mac-2")
    assert caller.ask("submit", job_id="job-2")["answer"] == "unauthorized"
    assert stock.poll() is None
    made.store.close()


class Lossy(redis.UnixDomainSocketConnection):
    """Loses the answer to the first INCR."""

    lost = False

    def send_packed_command(self, command: Any, check_health: bool = True) -> None:
        super().send_packed_command(command, check_health)  # type: ignore[no-untyped-call]  # redis-py's own
        if not Lossy.lost and b"INCR" in b"".join(command):
            Lossy.lost = True
            super().read_response()
            raise RedisConnectionError("scripted")


def counted(connection: redis.Redis, server: redis.Redis) -> int:
    """How often one command is carried out whose answer is lost."""
    Lossy.lost = False
    server.delete("counted")
    with suppress(RedisConnectionError):
        connection.incr("counted")
    return int(server.get("counted") or 0)


def test_a_worker_that_rq_has_started_sends_no_command_again_by_itself(redis_client: redis.Redis) -> None:
    path = redis_client.connection_pool.connection_kwargs["path"]
    made_by_rq = redis.Redis(unix_socket_path=path)
    made_by_rq.connection_pool.connection_class = Lossy
    assert counted(made_by_rq, redis_client) == 2, "redis-py does"
    assert counted(own_client(made_by_rq), redis_client) == 1
