"""The sweep: time's demands, mended runs, and nothing done twice, whoever else is at work."""

import random
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import redis

from broker import batch, repository
from broker.batch import CANDIDATES_MAX, Taken, settle_batch
from broker.clock import ManualClock, host_now_ms
from broker.families import CHILDREN_TTL_S, children_key
from broker.runs import read_run
from broker.settings import load
from datastore import (
    Datastore,
    Filter,
    Ok,
    Page,
    Unavailable,
    connect,
)
from tests.concurrency.race import at_once, read, runs_of
from tests.fleet import Fleet
from tests.in_process import SKEW_MS, TTL_MS, InProcess
from tests.processes import wait_for
from tests.twins.forwarding import Forwarding
from tests.twins.stale import ShowsEarlier
from tests.twins.without_runs import WithoutRuns
from workers.sweep import LOCK, LOCK_TTL_S, Sweep
from workers.swept import Swept
from workers.taking import WORKERS


def hold(broker: InProcess, job: str, **fields: Any) -> dict[str, Any]:
    reply = broker.ask(broker.caller.make("claim", job_id=job, **fields))[0]
    assert reply["answer"] == "granted", reply
    return {name: reply["body"][name] for name in ("job_id", "epoch", "token")}


def state(broker: InProcess, job: str) -> str:
    return read(broker.store, job).state.value


def test_a_dead_lease_is_reaped_and_its_job_found_again_but_not_within_the_skew(broker: InProcess) -> None:
    broker.submit("a")
    hold(broker, "a")
    broker.clock.advance(TTL_MS + SKEW_MS)
    assert (broker.sweep().reaped, state(broker, "a")) == (0, "leased")
    broker.clock.advance(1)
    assert (broker.sweep().reaped, state(broker, "a")) == (1, "ready")
    assert broker.ask(broker.caller.make("claim"))[0]["body"]["epoch"] == 2


def test_a_job_whose_holders_keep_dying_fails_at_the_cap(broker: InProcess) -> None:
    broker.submit("a", max_expiries=3)
    for epoch in (1, 2, 3):
        assert hold(broker, "a")["epoch"] == epoch
        broker.clock.advance(TTL_MS + SKEW_MS + 1)
        broker.sweep()
    assert state(broker, "a") == "failed"
    assert [run.outcome for run in runs_of(broker.store, "a")] == ["expired"] * 3


def test_schedules_deadlines_and_cancels_are_enforced(broker: InProcess) -> None:
    now = broker.clock.now_ms()
    broker.submit("scheduled", not_before_ms=now + 5_000)
    broker.submit("late-ready", "late-leased", timeout_ms=40_000)
    broker.submit("cancelled")
    hold(broker, "late-leased")
    hold(broker, "cancelled")
    broker.ask(broker.caller.make("cancel", job_id="cancelled"))
    broker.clock.advance(5_000)
    broker.sweep()
    assert (state(broker, "scheduled"), state(broker, "cancelled")) == ("ready", "leased")
    broker.clock.advance(35_001)
    broker.sweep()
    assert (state(broker, "late-ready"), state(broker, "late-leased")) == ("failed", "failed")
    assert state(broker, "cancelled") == "cancelled"
    assert [run.outcome for run in runs_of(broker.store, "late-leased")] == ["timed_out"]


def test_a_blocked_job_is_freed_once_all_its_parents_have_succeeded(broker: InProcess) -> None:
    broker.submit("p1", "p2")
    broker.submit("child", depends_on=["p1", "p2"])
    for parent in ("p1", "p2"):
        broker.sweep()
        assert state(broker, "child") == "blocked"
        broker.ask(broker.caller.make("complete", **hold(broker, parent)))
    assert broker.ask(broker.caller.make("claim"))[0]["body"]["job_id"] == "child"


def test_the_hint_that_a_job_has_children_ends_by_itself_unless_it_is_written_again(broker: InProcess) -> None:
    broker.submit("parent")
    broker.submit("child", depends_on=["parent"])
    key = children_key("parent")
    assert 0 < broker.redis.ttl(key) <= CHILDREN_TTL_S
    broker.redis.expire(key, 60)
    broker.sweep()
    assert broker.redis.ttl(key) > 60
    broker.ask(broker.caller.make("cancel", job_id="child"))
    assert broker.redis.exists(key) == 0


def test_a_run_whose_end_was_never_written_is_ended_as_its_job_says(broker: InProcess) -> None:
    broker.submit("a")
    lease = hold(broker, "a")
    careless = InProcess(WithoutRuns(broker.store, away=True), broker.redis)
    careless.ask(careless.caller.make("complete", **lease, result=7))
    assert read_run(broker.store, "a", 1) is None
    broker.clock.advance(1_000)
    assert broker.sweep().runs_mended == 1
    run = read_run(broker.store, "a", 1)
    assert run is not None
    assert (run.outcome, run.result, run.ended_ms) == ("succeeded", 7, careless.clock.now_ms())


class LosesASearch(Forwarding):
    """One kind of search fails."""

    def __init__(self, inner: Datastore, state: str) -> None:
        super().__init__(inner)
        self._state = state

    def find(self, filter: Filter, limit: int = 100, cursor: str | None = None) -> Page:
        if filter.get("state") == self._state:
            raise Unavailable("away")
        return super().find(filter, limit, cursor)


def test_what_a_sweep_has_written_before_it_failed_is_told(broker: InProcess) -> None:
    broker.submit("a")
    hold(broker, "a")
    broker.clock.advance(TTL_MS + SKEW_MS + 1)
    interrupted = InProcess(LosesASearch(WithoutRuns(broker.store, away=True), "blocked"), broker.redis)
    interrupted.clock.advance(broker.clock.now_ms() - interrupted.clock.now_ms())
    with pytest.raises(Unavailable):
        interrupted.sweep()
    assert broker.ask(broker.caller.make("claim"))[0]["body"]["job_id"] == "a", "it can be found again"
    assert "expired" in str(broker.redis.xrange("broker:events"))


def test_a_factory_that_cannot_be_read_does_not_hold_up_the_sweep(broker: InProcess) -> None:
    body: dict[str, Any] = {"kind": "factory", "state": "control", "replaced": 7}
    assert isinstance(broker.store.create("factory:broken", "factory:broken", body), Ok)
    broker.submit("a")
    hold(broker, "a")
    broker.clock.advance(TTL_MS + SKEW_MS + 1)
    assert broker.sweep().reaped == 1


def hold_with_progress(broker: InProcess, job_id: str) -> dict[str, Any]:
    """The run has a document of its own before it ends."""
    lease = hold(broker, job_id)
    assert broker.ask(broker.caller.make("progress", **lease, progress=1))[0]["answer"] == "ok"
    return lease


def test_a_run_that_goes_on_is_left_alone_where_its_job_is_read_as_it_was_before(broker: InProcess) -> None:
    broker.submit("a")
    was = broker.store.read("a", "a")
    lease = hold_with_progress(broker, "a")
    behind = InProcess(ShowsEarlier(broker.store, "a", was, times=99), broker.redis)
    assert behind.sweep().runs_mended == 0
    broker.ask(broker.caller.make("complete", **lease, result=7))
    assert [(run.outcome, run.result) for run in runs_of(broker.store, "a")] == [("succeeded", 7)]


def test_where_the_sweep_believes_any_read_the_result_of_a_run_that_goes_on_is_lost(
    broker: InProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(repository, "stands", lambda *_, **__: True)
    broker.submit("a")
    was = broker.store.read("a", "a")
    lease = hold_with_progress(broker, "a")
    InProcess(ShowsEarlier(broker.store, "a", was, times=99), broker.redis).sweep()
    broker.ask(broker.caller.make("complete", **lease, result=7))
    assert [(run.outcome, run.result) for run in runs_of(broker.store, "a")] == [("superseded", None)]


def test_a_run_nobody_accounts_for_is_ended_as_superseded(broker: InProcess) -> None:
    # Something has written where nobody but the broker may.
    broker.submit("a")
    hold(broker, "a")
    started = {"factory_id": "f", "incarnation": "i", "request_id": "r", "started_ms": 1}
    body: dict[str, Any] = {"kind": "run", "open": True, "job_id": "a", "epoch": 9, **started}
    assert isinstance(broker.store.create("a:run:9", "a", body), Ok)
    assert broker.sweep().runs_mended == 1
    assert [(run.epoch, run.outcome) for run in runs_of(broker.store, "a")] == [(1, None), (9, "superseded")]


@pytest.mark.parametrize(
    "broken",
    [
        ("bad", {"kind": "job", "state": "ready", "queue": 5}),
        ("bad", {"kind": "job", "state": "leased", "queue": "default", "lease": {"expires_ms": 1}}),
        ("bad", {"kind": "job", "state": "leased", "queue": "default", "lease": None}),
        ("bad:run:1", {"kind": "run", "open": True}),
        ("a:run:7", {"kind": "run", "open": True, "epoch": "seven"}),
    ],
    ids=["ready", "leased", "no lease", "run without a job", "run"],
)
def test_a_document_that_does_not_parse_stops_no_sweep(broker: InProcess, broken: tuple[str, dict[str, Any]]) -> None:
    broker.submit("a", "b")
    hold(broker, "a")
    id, body = broken
    broker.store.create(id, id.partition(":")[0], body)
    broker.redis.flushall()
    broker.clock.advance(TTL_MS + SKEW_MS + 1)
    assert broker.sweep().reaped == 1
    granted = {broker.ask(broker.caller.make("claim"))[0]["body"].get("job_id") for _ in range(2)}
    assert granted == {"a", "b"}


# With others at work.


@pytest.fixture(params=["memory", "sqlite"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Any:
    store = connect("memory://" if request.param == "memory" else f"sqlite:///{tmp_path}/jobs.db")
    yield store
    store.close()


def dead_leases(store: Datastore, connection: redis.Redis, count: int, *, now_ms: int) -> list[str]:
    """Jobs whose holders died an hour ago."""
    broker = InProcess(store, connection)
    broker.clock = ManualClock(now_ms - 3_600_000)
    jobs = [f"job-{number}" for number in range(count)]
    broker.submit(*jobs)
    replies = broker.ask(*(broker.caller.make("claim", job_id=job) for job in jobs))
    assert {reply["answer"] for reply in replies} == {"granted"}
    return jobs


def test_two_sweeps_at_once_reap_each_lease_once(store: Datastore, redis_client: redis.Redis) -> None:
    now_ms = host_now_ms()
    jobs = dead_leases(store, redis_client, 100, now_ms=now_ms)
    sweeps = [InProcess(store, redis_client) for _ in range(3)]
    for sweep in sweeps:
        sweep.clock = ManualClock(now_ms)
    swept = at_once([sweep.sweep for sweep in sweeps])
    assert sum(each.reaped for each in swept) == 100
    for job in jobs:
        found = read(store, job)
        assert (found.state, found.epoch, found.counters.expiries) == ("ready", 1, 1)
        assert [run.outcome for run in runs_of(store, job)] == ["expired"]


def test_claims_and_the_sweep_at_once_take_each_dead_lease_over_once(
    store: Datastore, redis_client: redis.Redis
) -> None:
    now_ms = host_now_ms()
    jobs = dead_leases(store, redis_client, 60, now_ms=now_ms)
    brokers = [InProcess(store, redis_client) for _ in range(3)]
    for broker in brokers:
        broker.clock = ManualClock(now_ms)
    granted: list[tuple[str, int, str]] = []
    lock = threading.Lock()

    def claim_all(broker: InProcess, worker: int) -> None:
        order = random.Random(worker).sample(jobs, len(jobs))
        requests = [broker.caller.make("claim", job_id=job) for job in order]
        taken = [Taken(request) for request in requests]
        for settled in settle_batch(broker.context, redis_client, taken, clock=broker.clock, worker=f"w{worker}"):
            assert settled.answer is not None
            if settled.answer.word == "granted":
                with lock:
                    body = settled.answer.body
                    granted.append((body["job_id"], body["epoch"], body["token"]))

    at_once([lambda: brokers[0].sweep(), lambda: claim_all(brokers[1], 1), lambda: claim_all(brokers[2], 2)])
    assert len({(job, epoch) for job, epoch, _ in granted}) == len(granted), "a second holder of one epoch"
    brokers[0].sweep()
    for job in jobs:
        found, runs = read(store, job), runs_of(store, job)
        tokens = {token for name, epoch, token in granted if (name, epoch) == (job, found.epoch)}
        assert found.counters.expiries == 1
        assert found.epoch == (2 if tokens else 1)
        assert tokens == ({found.lease.token} if found.lease else set())
        assert [(run.epoch, run.outcome) for run in runs] == [(1, "expired"), (2, None)][: found.epoch]


def test_a_sweep_that_finds_another_at_work_leaves_it_to_that_one(broker: InProcess) -> None:
    dead_leases(broker.store, broker.redis, 1, now_ms=host_now_ms())
    sweep = Sweep(broker.context, broker.redis, load())
    lock = broker.redis.lock(LOCK, timeout=LOCK_TTL_S)
    assert lock.acquire(blocking=False)
    assert sweep.run(once=True) == 0
    assert state(broker, "job-0") == "leased"
    lock.release()
    assert sweep.run(once=True) == 0
    assert state(broker, "job-0") == "ready"
    assert not broker.redis.exists(LOCK)


def test_a_sweep_killed_half_way_leaves_the_rest_to_the_next_and_nothing_twice(fleet: Fleet) -> None:
    store = connect(fleet.datastore_url)
    now_ms = host_now_ms()
    jobs = dead_leases(store, fleet.redis, 400, now_ms=now_ms)
    sweep = fleet.start_sweep()
    wait_for(lambda: read(store, "job-1").state == "ready", "the sweep is at work")
    sweep.send_signal(signal.SIGKILL)
    sweep.wait()
    assert fleet.redis.pttl(LOCK) > 0, "what a killed sweep has locked comes free by itself"
    left = [job for job in jobs if read(store, job).state == "leased"]
    assert left, "the sweep was done before it could be killed: it shows nothing"
    next_one = InProcess(store, fleet.redis)
    next_one.clock = ManualClock(now_ms)
    assert next_one.sweep().reaped == len(left)
    for job in jobs:
        found = read(store, job)
        assert (found.state, found.epoch, found.counters.expiries) == ("ready", 1, 1)
        assert [run.outcome for run in runs_of(store, job)] == ["expired"]
    assert fleet.redis.zcard("broker:ready:default:in:[]") == len(jobs)
    store.close()


def test_requests_of_a_worker_that_died_before_a_redis_that_lost_everything_knew_it_are_taken_over(
    broker: InProcess,
) -> None:
    broker.submit("a")
    broker.redis.flushall()
    claim = broker.caller.make("claim", job_id="a")
    broker.caller.send(claim)
    broker.take("w1")
    broker.redis.delete(WORKERS)  # as if the server had moved the request, and its worker died before it said a word
    broker.sweep()
    broker.take_over("w2")
    assert broker.caller.replies(claim, deadline_ms=1_000)[0]["answer"] == "granted"
    assert broker.redis.keys("broker:inflight:*") == []


class Overtaken(Forwarding):
    """Between a search for ready jobs and its answer, `meanwhile` happens once."""

    def __init__(self, inner: Datastore, meanwhile: Callable[[], None]) -> None:
        super().__init__(inner)
        self._meanwhile: Callable[[], None] | None = meanwhile

    def find(self, filter: Filter, limit: int = 100, cursor: str | None = None) -> Page:
        page = self.inner.find(filter, limit, cursor)
        if self._meanwhile is not None and filter.get("state") == "ready":
            meanwhile, self._meanwhile = self._meanwhile, None
            meanwhile()
        return page


def test_a_job_claimed_while_the_sweep_reads_is_not_offered_again(
    broker: InProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Each of them cost a later claim-next one of its tries, of which some sixteen may be all that it has time for.
    monkeypatch.setattr(batch, "TRIES_MS", 0)
    broker.sweep()
    jobs = [f"job-{number}" for number in range(CANDIDATES_MAX + 4)]
    broker.submit(*jobs)

    def claim_all() -> None:
        broker.ask(*(broker.caller.make("claim", job_id=job) for job in jobs))

    overtaken = InProcess(Overtaken(broker.store, claim_all), broker.redis)
    overtaken.sweep()
    broker.submit("one-more")
    [reply] = broker.ask(broker.caller.make("claim"))
    assert (reply["answer"], reply["body"].get("job_id")) == ("granted", "one-more")


def test_a_sweep_outlives_a_mistake_of_its_own_in_one_pass(broker: InProcess, monkeypatch: pytest.MonkeyPatch) -> None:
    sweep = Sweep(broker.context, broker.redis, load(sweep_interval_ms=10))
    passes: list[int] = []

    def mistaken(now_ms: int) -> Swept:
        passes.append(now_ms)
        if len(passes) == 3:
            signal.raise_signal(signal.SIGTERM)
        raise KeyError("ours")

    monkeypatch.setattr(sweep, "pass_over", mistaken)
    before = [(number, signal.getsignal(number)) for number in (signal.SIGTERM, signal.SIGINT)]
    try:
        assert sweep.run(once=False) == 0
    finally:
        for number, handler in before:
            signal.signal(number, handler)
    assert len(passes) == 3
