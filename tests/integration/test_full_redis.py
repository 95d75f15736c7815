"""A Redis that is full of requests becomes empty again by itself: what queues is dropped, and sent again."""

import asyncio
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from pathlib import Path
from uuid import uuid4

import pytest
import redis
from redis.exceptions import OutOfMemoryError, ResponseError

from broker.acl import RedisRole, user_line
from broker.client import AsyncClient, BrokerUnavailable, Client, Reply
from broker.messages import Envelope
from broker.queues import QUEUES, Wire, intake_key
from broker.replies import REPLIES_MAX
from broker.settings import load
from datastore.memory import MemoryDatastore
from tests.caller import Caller
from tests.fleet import Fleet
from tests.home import Home
from tests.in_process import InProcess
from tests.processes import wait_for
from workers import full_redis
from workers.claim_worker import ServeLoop
from workers.full_redis import KEPT
from workers.inflight import PREFIX
from workers.lean_redis import LeanRedis
from workers.runtime import open_runtime
from workers.shift import Shift
from workers.taking import sources

pytestmark = pytest.mark.redis

ROOM_BYTES = 2 * 1024 * 1024
WIRES: tuple[Wire, ...] = ("rq", "intake")


@pytest.fixture
def server(redis_client: redis.Redis) -> Iterator[redis.Redis]:
    yield redis_client
    redis_client.config_set("maxmemory", 0)


@pytest.fixture
def workers(server: redis.Redis, redis_url: str, tmp_path: Path) -> Iterator[Fleet]:
    """Whose Redis user has a worker's rights and no more."""
    user = user_line("w", RedisRole.WORKER, password="pw")
    server.execute_command(*user.split())  # type: ignore[no-untyped-call]  # redis-py leaves it untyped
    fleet = Fleet(redis_url, tmp_path)
    fleet.redis_url = redis_url.replace("unix://", "unix://w:pw@")
    yield fleet
    fleet.close()
    server.execute_command("ACL", "DELUSER", "w")  # type: ignore[no-untyped-call]


def complete_in_threads(url: str, grant: Reply) -> Reply:
    with Client.connect(url, factory_id="f", incarnation="i") as client, client.keep(grant) as lease:
        return lease.complete({"done": 1})


def complete_in_a_loop(url: str, grant: Reply) -> Reply:
    async def main() -> Reply:
        async with AsyncClient.connect(url, factory_id="f", incarnation="i") as client, client.keep(grant) as lease:
            return await lease.complete({"done": 1})

    return asyncio.run(main())


def times_refused(server: redis.Redis, command: str) -> int:
    stats = server.info("commandstats").get(f"cmdstat_{command}", {})
    return int(stats.get("rejected_calls", 0))


@pytest.mark.parametrize("complete", [complete_in_threads, complete_in_a_loop])
def test_a_holder_asks_for_the_end_of_its_lease_until_there_is_room(
    server: redis.Redis, redis_url: str, workers: Fleet, complete: Callable[[str, Reply], Reply]
) -> None:
    workers.start_worker()
    with Client.connect(redis_url, factory_id="f", incarnation="i") as client:
        client.submit(job_id="mine")
        grant = client.claim("mine")
    before = times_refused(server, "hset")
    server.config_set("maxmemory", 1)
    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(complete, redis_url, grant)
        wait_for(lambda: times_refused(server, "hset") >= before + 3, "it was refused, and asked again")
        server.config_set("maxmemory", 0)
        assert asked.result().good


def test_where_it_stays_full_nothing_was_sent_and_memory_is_what_is_wanting(
    server: redis.Redis, redis_url: str, tmp_path: Path
) -> None:
    home = Home(tmp_path, {"BROKER_REDIS_URL": redis_url})
    server.config_set("maxmemory", 1)
    status, _, err = home.run("jobs", "--factory", "f", "--timeout", "2")
    assert status == 1
    assert "OOM" in err
    assert "nothing was sent" in err
    assert "raise its maxmemory" in err.splitlines()[-1]
    with Client.connect(redis_url, factory_id="f") as client, pytest.raises(BrokerUnavailable) as told:
        client.submit(job_id="j", timeout_ms=2_000)
    assert (told.value.answers, told.value.refused) == (True, False)


def queued(server: redis.Redis) -> int:
    return sum(int(server.llen(key)) for _, key in sources())


def flood(server: redis.Redis, herd: list[Caller], wire: Wire) -> dict[Caller, list[Envelope]]:
    """Send until Redis takes no more; what was sent."""
    server.config_set("maxmemory", server.info("memory")["used_memory"] + ROOM_BYTES)
    sent: dict[Caller, list[Envelope]] = {caller: [] for caller in herd}
    try:
        while True:
            for caller in herd:
                requests = [caller.make("submit", job_id=uuid4().hex) for _ in range(50)]
                caller.send(*requests, wire=wire)
                sent[caller] += requests
    except OutOfMemoryError:
        return sent


@pytest.mark.parametrize("wire", WIRES)
def test_what_fills_redis_is_dropped_until_there_is_room_and_holders_are_heard(
    server: redis.Redis, workers: Fleet, wire: Wire
) -> None:
    holder, herd = Caller(server, "holder"), [Caller(server, f"f{number}") for number in range(8)]
    first = workers.start_worker()
    holder.submit("mine")
    lease = holder.ask("claim", job_id="mine")["body"]
    first.terminate()
    assert first.wait(timeout=20) == 0
    renewal = holder.make("renew", **{name: lease[name] for name in ("job_id", "epoch", "token")})
    holder.send(renewal)
    sent = flood(server, herd, wire)
    assert queued(server) > 1_000
    workers.start_worker()  # beside a Redis that is full
    assert holder.replies(renewal)[0]["answer"] == "renewed"

    def settled() -> bool:
        for caller in herd:
            caller.collect()  # which makes room as well
        return not queued(server) and not server.keys(f"{PREFIX}*")

    wait_for(settled, "all else is settled")
    for caller in herd:
        answered = [each for each in sent[caller] if caller.has_reply(each)]
        assert {reply["answer"] for reply in caller.replies(*answered)} == {"ok"}
        sent[caller] = [each for each in sent[caller] if each not in answered]
    caller, dropped = next((caller, each) for caller in herd for each in sent[caller])
    caller.send(dropped.model_copy(update={"attempt": 2}), wire=wire)
    assert caller.replies(dropped)[0]["answer"] == "ok", "it is sent again, as after any loss"


def drained_of_renewals(
    server: redis.Redis, redis_url: str, tmp_path: Path, *, stuck: Callable[[], bool] = lambda: False
) -> bool:
    """Whether what holders ask is settled and answered, where nothing else has filled Redis, or the worker is stuck."""
    holder, other = Caller(server, "holder"), Caller(server, "other")
    runtime = open_runtime(load(redis_url=redis_url, datastore_url=f"sqlite:///{tmp_path}/jobs.db"))
    loop = ServeLoop(runtime, "w1", QUEUES)
    server.config_set("maxmemory", server.info("memory")["used_memory"] + ROOM_BYTES)
    claim = other.make("claim", job_id="job")
    other.send(claim)
    renewals: list[Envelope] = []
    with suppress(OutOfMemoryError):
        while True:
            renewal = holder.make("renew", job_id=uuid4().hex, epoch=1, token="0" * 32)
            holder.send(renewal, wire="intake")
            renewals.append(renewal)
    serving = threading.Thread(target=lambda: loop.run(burst=False), daemon=True)
    serving.start()
    wait_for(lambda: not server.llen(intake_key("leases")) or stuck(), "all is settled")
    settled = not server.llen(intake_key("leases"))
    if settled:
        assert other.replies(claim)[0]["answer"] == "not_found", "and all goes on"
        assert sum(map(holder.has_reply, renewals)) >= REPLIES_MAX
    loop.request_stop(signal.SIGTERM, None)
    serving.join()
    runtime.close()
    return settled


def test_a_redis_that_is_full_of_what_holders_ask_becomes_empty_again(
    server: redis.Redis, redis_url: str, tmp_path: Path
) -> None:
    assert drained_of_renewals(server, redis_url, tmp_path)


def test_it_would_stay_full_if_that_were_not_taken_all_the_same(
    server: redis.Redis, redis_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The twin of the test above.
    left: list[int] = []

    def leave(_: Shift) -> bool:
        left.append(server.llen(intake_key("leases")))
        return False

    monkeypatch.setattr(Shift, "relieve", leave)
    assert not drained_of_renewals(server, redis_url, tmp_path, stuck=lambda: len(left) >= 3)
    assert len(set(left)) == 1, "however often it looks, nothing is taken"


def test_without_that_nothing_is_taken_nor_answered(server: redis.Redis) -> None:
    broker = InProcess(MemoryDatastore(), server)
    broker.submit("mine")
    flood(server, [Caller(server, "f")], "intake")
    server.config_set("maxmemory", int(server.info("memory")["used_memory"] * 0.95))
    held = queued(server)
    shift = Shift(broker.context, server, "w1", QUEUES, load())
    with pytest.raises(OutOfMemoryError):
        shift.take()
    assert queued(server) == held
    assert full_redis.make_room(server, QUEUES) > 0
    shift.settle(shift.leftovers())
    assert shift.take().entries


def test_a_server_with_room_and_one_with_short_queues_are_left_alone(server: redis.Redis) -> None:
    caller = Caller(server)
    caller.send(*(caller.make("claim") for _ in range(KEPT + 9)))
    assert full_redis.make_room(server, QUEUES) == 0
    server.config_set("maxmemory", 1)
    assert full_redis.make_room(server, ["leases"]) == 0
    assert full_redis.make_room(server, QUEUES) == 9
    assert full_redis.make_room(server, QUEUES) == 0


def answered_as_redis_becomes_full(server: redis.Redis) -> bool:
    """Whether a claim has its answer that was granted just before."""
    broker = InProcess(MemoryDatastore(), server)
    broker.submit("mine")
    claim = broker.caller.make("claim", job_id="mine")
    broker.caller.send(claim)
    results = broker.settle(broker.take("w1").entries, "w1")
    server.config_set("maxmemory", 1)
    with suppress(OutOfMemoryError):
        broker.finish(results, "w1")
    server.config_set("maxmemory", 0)
    assert not server.keys(f"{PREFIX}*"), "nobody has it in hand any more"
    assert server.pttl(broker.caller.channel) != -1, "what nobody reads goes"
    return broker.caller.has_reply(claim)


def test_what_was_settled_as_redis_became_full_is_answered(server: redis.Redis) -> None:
    assert answered_as_redis_becomes_full(server)


def test_its_answer_would_be_lost_if_it_were_not_insisted_on(
    server: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The twin of the test above.
    monkeypatch.setattr(full_redis, "insist", lambda _connection, _commands, replies: replies)
    assert not answered_as_redis_becomes_full(server)


def full_once_settled(server: redis.Redis, point: str) -> None:
    if point == "settled":
        server.config_set("maxmemory", 1)


def answered_of_several(server: redis.Redis, redis_url: str, lose: Callable[[Shift], object]) -> int:
    """How many of four claims have an answer, where Redis is full at the end of their batch, and for the next one."""
    broker = InProcess(MemoryDatastore(), server)
    broker.submit(*(f"job-{number}" for number in range(4)))
    claims = [broker.caller.make("claim", job_id=f"job-{number}") for number in range(4)]
    with LeanRedis.from_url(redis_url) as connection:
        shift = Shift(broker.context, connection, "w1", QUEUES, load(), at=partial(full_once_settled, server))
        shift.settle(shift.leftovers())
        broker.caller.send(*claims)
        assert shift.serve(), "it has asked for the next one"
        with pytest.raises(OutOfMemoryError):
            shift.serve()
        lose(shift)
        with suppress(OutOfMemoryError):
            shift.leftovers()
    server.config_set("maxmemory", 0)
    return sum(map(broker.caller.has_reply, claims))


def test_a_batch_is_answered_though_redis_was_full_for_the_next_one(server: redis.Redis, redis_url: str) -> None:
    assert answered_of_several(server, redis_url, lambda _: None) == 4


def test_its_answers_would_be_lost_if_its_end_were_not_seen_to(server: redis.Redis, redis_url: str) -> None:
    # The twin of the test above.
    assert answered_of_several(server, redis_url, lambda shift: setattr(shift, "_ending", None)) == 0


@pytest.mark.parametrize(
    ("error", "full"),
    [
        (OutOfMemoryError("command not allowed when used memory > 'maxmemory'."), True),
        # Redis 6.2, of a script
        (
            ResponseError("Error running script (call to f_6b): @user_script: 4: -OOM command not allowed when used"),
            True,
        ),
        (ResponseError("WRONGTYPE Operation against a key holding the wrong kind of value"), False),
        (None, False),
    ],
)
def test_it_is_known_by_what_redis_says(error: Exception | None, full: bool) -> None:
    assert full_redis.met(error) == full
