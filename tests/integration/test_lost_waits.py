"""Redis may serve a wait that its worker has given up: the worker knows that its connection is gone, Redis not yet."""

import signal
import threading
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import redis
from redis.exceptions import ConnectionError as RedisConnectionError

from broker.clock import RedisClock
from broker.queues import QUEUES, Wire, intake_key, rq_queue_key
from broker.settings import load
from datastore.memory import MemoryDatastore
from tests.caller import Caller
from tests.chaos.proxy import Proxy
from tests.in_process import InProcess
from tests.processes import wait_for
from workers import left_behind, waiters
from workers import shift as shifts
from workers.claim_worker import ServeLoop
from workers.fleet_status import look
from workers.inflight import WAITS, WOKEN, arrivals_key, lists
from workers.left_behind import OVER_MS
from workers.local_fleet import child_specs, plan_fleet
from workers.runtime import open_runtime
from workers.shift import Shift
from workers.state_dir import StateDir
from workers.taking import TAKE, WORKERS, Taker
from workers.waiters import Waiters

WIRES: tuple[Wire, ...] = ("rq", "intake")
SOURCES = {"rq": rq_queue_key("jobs"), "intake": intake_key("jobs")}
DEAD_AFTER_MS = 60_000


class Broken(redis.Redis):
    """A client whose connection breaks before the answer to the next script comes."""

    breaks = False

    def execute_command(self, *args: Any, **options: Any) -> Any:
        answer = super().execute_command(*args, **options)  # type: ignore[no-untyped-call]  # redis-py leaves it untyped
        if self.breaks and args[0] in ("EVAL", "EVALSHA"):
            self.breaks = False
            raise RedisConnectionError("scripted")
        return answer


class Returning:
    """A worker that comes back again and again, while Redis hears of no end of its connections."""

    def __init__(self, broker: InProcess, connection: redis.Redis) -> None:
        self.broker = broker
        self.connection = connection
        self.shift = Shift(broker.context, connection, "returning", QUEUES, load())
        self.sessions: list[str] = []
        self._waiters: list[Waiters] = []

    def come(self) -> Waiters:
        """Begin a session, as `ServeLoop` does, and wait for whatever comes."""
        self.shift.settle(self.shift.leftovers())
        self.sessions.append(self.shift.session)
        self._waiters.append(Waiters(self.connection, self.shift.session, QUEUES, at_most=64))
        self._waiters[-1].arm()
        blocked = WAITS * len(self._waiters)
        wait_for(lambda: self.broker.redis.info("clients")["blocked_clients"] == blocked, "all of its waits stand")
        return self._waiters[-1]

    def look_after(self) -> None:
        """Its next look at what dead workers have left."""
        self.shift.look_after(RedisClock(self.broker.redis).now_ms())

    def close(self) -> None:
        """Redis hears of it at last."""
        for each in self._waiters:
            each.close()


@pytest.fixture
def broker(redis_client: redis.Redis) -> InProcess:
    broker = InProcess(MemoryDatastore(), redis_client)
    broker.submit("known-scripts")  # as in any life of a server
    return broker


@pytest.fixture
def worker(broker: InProcess, redis_url: str) -> Iterator[Returning]:
    with Broken.from_url(redis_url) as connection:
        worker = Returning(broker, connection)
        yield worker
        worker.close()


@pytest.fixture
def one_session(monkeypatch: pytest.MonkeyPatch) -> None:
    """The twin: a worker that comes back fills lists of the same names."""
    monkeypatch.setattr(shifts, "session_name", lambda worker, _number: worker)


def in_flight(broker: InProcess) -> Sequence[object]:
    return broker.redis.keys("broker:inflight:*")


def taken_by_a_lost_wait(broker: InProcess, worker: Returning, wire: Wire) -> bool:
    """Whether a request is answered that the wait of a lost connection takes, whatever the worker does afterwards."""
    worker.come()
    waits = worker.come()
    first, second = (broker.caller.make("submit", job_id=job) for job in ("first", "second"))
    broker.caller.send(first, wire=wire)
    wait_for(lambda: in_flight(broker), "Redis has served who waited first")
    broker.caller.send(second, wire=wire)
    worker.shift.serve(waits.wait(5))
    assert broker.caller.has_reply(second)
    worker.look_after()
    worker.shift.settle(worker.shift.leftovers())
    broker.kill(worker.shift.session)
    broker.take_over("w2")
    assert in_flight(broker) == []
    return broker.caller.has_reply(first)


@pytest.mark.parametrize("wire", WIRES)
def test_what_the_wait_of_a_lost_connection_takes_is_answered(broker: InProcess, worker: Returning, wire: Wire) -> None:
    assert taken_by_a_lost_wait(broker, worker, wire)


@pytest.mark.usefixtures("one_session")
@pytest.mark.parametrize("wire", WIRES)
def test_a_worker_that_filled_the_same_lists_again_would_lose_it(
    broker: InProcess, worker: Returning, wire: Wire
) -> None:
    assert not taken_by_a_lost_wait(broker, worker, wire)


def test_it_is_taken_over_at_the_next_look_whoever_looks(broker: InProcess, worker: Returning) -> None:
    worker.come()
    worker.come()
    request = broker.caller.make("submit", job_id="job")
    broker.caller.send(request)
    wait_for(lambda: in_flight(broker), "Redis has served who waited first")
    broker.take_over("w2")
    assert broker.caller.has_reply(request)
    assert in_flight(broker) == []


@pytest.mark.parametrize("wire", WIRES)
def test_what_it_took_before_its_worker_came_back_is_answered_then(
    broker: InProcess, worker: Returning, wire: Wire
) -> None:
    worker.come()
    request = broker.caller.make("submit", job_id="job")
    broker.caller.send(request, wire=wire)
    wait_for(lambda: in_flight(broker), "Redis has served the wait")
    worker.shift.settle(worker.shift.leftovers())
    assert broker.caller.has_reply(request)
    assert in_flight(broker) == []


@pytest.mark.parametrize("wire", WIRES)
def test_what_it_moved_before_and_what_it_took_after_are_answered(
    broker: InProcess, worker: Returning, wire: Wire
) -> None:
    worker.shift.leftovers()
    lost = worker.shift.session
    moved, taken = (broker.caller.make("submit", job_id=job) for job in ("moved", "taken"))
    broker.caller.send(moved, wire=wire)
    broker.redis.lmove(SOURCES[wire], arrivals_key(lost, wire), "LEFT", "RIGHT")
    worker.shift.settle(worker.shift.leftovers())
    assert broker.caller.has_reply(moved)
    broker.caller.send(taken, wire=wire)
    keys, arguments = Taker(broker.redis, lost, QUEUES).call(WOKEN[0][0], at_most=64, others=64, moved=wire)
    TAKE.run(broker.redis, keys, arguments)
    assert not broker.caller.has_reply(taken)
    worker.look_after()
    assert broker.caller.has_reply(taken)
    assert in_flight(broker) == []


def ended_late(broker: InProcess, worker: Returning) -> bool:
    """Whether a request is answered that stands where another stood whose end Redis carries out only now."""
    mine = worker.shift
    mine.leftovers()
    first, second = (broker.caller.make("submit", job_id=job) for job in ("first", "second"))
    broker.caller.send(first)
    before = mine.take().entries
    session, settled = mine.session, broker.settle(before)
    mine.settle(mine.leftovers())
    mine.take()
    broker.caller.send(second)
    assert {entry.slot for entry in mine.take().entries} == {entry.slot for entry in before}
    broker.finish(settled, session)
    broker.kill(mine.session)
    broker.take_over("w2")
    assert broker.caller.has_reply(first)
    return broker.caller.has_reply(second)


def test_the_end_of_a_batch_that_comes_late_ends_no_other(broker: InProcess, worker: Returning) -> None:
    assert ended_late(broker, worker)


@pytest.mark.usefixtures("one_session")
def test_in_the_same_lists_it_would(broker: InProcess, worker: Returning) -> None:
    assert not ended_late(broker, worker)


@pytest.mark.parametrize("failures", [1, 2, 3])
def test_a_worker_that_loses_redis_again_as_it_comes_back_leaves_nothing(
    broker: InProcess, redis_url: str, failures: int
) -> None:
    request = broker.caller.make("submit", job_id="job")
    with Broken.from_url(redis_url) as connection:
        mine = Shift(broker.context, connection, "w1", QUEUES, load())
        mine.leftovers()
        broker.caller.send(request)
        mine.take()
        for _ in range(failures):
            connection.breaks = True
            with pytest.raises(RedisConnectionError):
                mine.leftovers()
        mine.settle(mine.leftovers())
    for number in range(failures):
        broker.kill(f"w1~{number + 2}")  # in time nobody has heard of them any more
    broker.take_over("w2")
    assert broker.caller.has_reply(request)
    assert in_flight(broker) == []


def test_a_session_that_is_over_is_soon_forgotten_and_known_again_by_what_it_brings(
    broker: InProcess, worker: Returning
) -> None:
    worker.shift.leftovers()
    over = worker.shift.session
    worker.shift.leftovers()

    def known_after(ms: int) -> bool:
        broker.redis.zincrby(WORKERS, -ms, over)
        left_behind.take_over(broker.redis, "w2", dead_after_ms=DEAD_AFTER_MS, at_most=64)
        return broker.redis.zscore(WORKERS, over) is not None

    assert known_after(OVER_MS // 2)
    assert not known_after(OVER_MS)
    keys, arguments = Taker(broker.redis, over, QUEUES).call(WOKEN[0][0], at_most=64, others=64, moved="rq")
    TAKE.run(broker.redis, keys, arguments)
    assert broker.redis.zscore(WORKERS, over) is not None


def test_a_worker_that_came_back_counts_once_and_what_is_in_flight_counts_in_all_of_its_sessions(
    broker: InProcess, worker: Returning, redis_url: str, tmp_path: Path
) -> None:
    plan = plan_fleet(load(redis_url=redis_url), StateDir.at(tmp_path), workers=2)
    first, second = [spec.ready for spec in child_specs(plan) if spec.name.startswith("worker")]
    assert first is not None
    assert second is not None
    assert not first(), "nobody has come yet"
    worker.come()
    worker.come()
    for session in worker.sessions:
        broker.caller.send(broker.caller.make("submit"))
        wait_for(partial(broker.redis.exists, *lists(session)), "this session has it in hand")
    serving = look(broker.redis)
    assert "returning" in serving.alive(within_ms=DEAD_AFTER_MS)
    assert [name for name in serving.workers if name.startswith("returning")] == ["returning"]
    assert serving.in_flight == 2
    assert first()
    assert not second()


def test_a_gateway_that_fails_costs_a_request_no_more_than_a_look(
    redis_client: redis.Redis, redis_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(waiters, "BLOCK_S", 300)  # Redis serves them for as long as this test lasts
    monkeypatch.setattr(waiters, "SILENT_MS", 600_000)

    def stand(waits: int) -> None:
        wait_for(lambda: redis_client.info("clients")["blocked_clients"] == waits, f"{waits} waits stand")

    caller = Caller(redis_client)
    with Proxy(Path(redis_url.removeprefix("unix://"))) as proxy:
        runtime = open_runtime(load(redis_url=proxy.url, datastore_url=f"sqlite:///{tmp_path}/jobs.db"))
        loop = ServeLoop(runtime, "w1", QUEUES)
        serving = threading.Thread(target=lambda: loop.run(burst=False), daemon=True)
        serving.start()
        caller.submit("known-scripts")
        stand(WAITS)
        proxy.reset()
        stand(2 * WAITS)
        requests = [caller.make("submit", job_id=f"job-{number}") for number in range(6)]
        for request in requests:
            caller.send(request, wire="rq")
        assert {reply["answer"] for reply in caller.replies(*requests)} == {"ok"}
        wait_for(lambda: not redis_client.keys("broker:inflight:*"), "nothing is left in flight")
        loop.request_stop(signal.SIGTERM, None)
        serving.join()
        runtime.close()
