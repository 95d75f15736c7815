"""A run record that could not be written, and for which nobody asks again, is written by the sweep."""

from typing import Any

import pytest
import redis

from broker import owed
from broker.runs import read_run
from datastore.memory import MemoryDatastore
from tests.in_process import InProcess
from tests.twins.stale import ShowsEarlier
from tests.twins.without_runs import WithoutRuns
from workers.owed_runs import LANDING_MS, LOOKED


def end(broker: InProcess, job: str) -> None:
    """Complete a job under a lease of its own, while the store takes no records of runs."""
    [grant] = broker.ask(broker.caller.make("claim", job_id=job))
    lease = {name: grant["body"][name] for name in ("job_id", "epoch", "token")}
    [told] = broker.ask(broker.caller.make("complete", **lease, result=7))
    assert told["answer"] == "outcome_unknown"


def ended_without_a_record(
    redis_client: redis.Redis, store: WithoutRuns | None = None, broker: InProcess | None = None
) -> InProcess:
    """A broker whose store took the end of a job, and no record of its run; nobody asks again."""
    store = store or WithoutRuns(MemoryDatastore())
    broker = broker or InProcess(store, redis_client)
    broker.submit("a")
    store.away = True
    end(broker, "a")
    assert broker.sweep().runs_mended == 0
    store.away = False
    return broker


def test_a_run_that_could_not_be_written_is_on_record_after_a_later_sweep(redis_client: redis.Redis) -> None:
    broker = ended_without_a_record(redis_client)
    assert read_run(broker.store, "a", 1) is None
    assert broker.sweep().runs_mended == 1
    run = read_run(broker.store, "a", 1)
    assert run is not None
    assert (run.epoch, run.outcome, run.result) == (1, "succeeded", 7)
    assert owed.jobs(redis_client) == []
    assert broker.sweep().runs_mended == 0


def test_it_is_not_forgotten_for_a_read_that_shows_the_job_as_it_was(redis_client: redis.Redis) -> None:
    broker = ended_without_a_record(redis_client)
    before = MemoryDatastore()
    InProcess(before, redis_client).submit("a")
    behind = InProcess(ShowsEarlier(broker.store, "a", before.read("a", "a"), times=1), redis_client)
    behind.sweep()
    assert read_run(broker.store, "a", 1) is None
    assert owed.jobs(redis_client) == ["a"]
    assert broker.sweep().runs_mended == 1


def on_record_though_its_note_was_lost(
    broker: InProcess, store: WithoutRuns, op: str = "complete", **body: Any
) -> bool:
    """Of a run whose worker lost Redis right after the job's end was written, until the request was past its time."""
    looked(broker)
    broker.submit("a")
    [grant] = broker.ask(broker.caller.make("claim", job_id="a"))
    lease = {name: grant["body"][name] for name in ("job_id", "epoch", "token")}
    if op != "complete":
        broker.ask(broker.caller.make("cancel", job_id="a"))  # whatever ends the lease now, ends the job
    end = broker.caller.make(op, **lease, **body, deadline_ms=broker.clock.now_ms() + 1_000)
    broker.caller.send(end)
    store.away = True
    broker.settle(broker.take("w1").entries, "w1")  # and nothing of it reaches Redis
    store.away = False
    broker.clock.advance(2_000)
    broker.kill("w1")
    broker.take_over("w2")
    assert broker.caller.replies(end)[0]["answer"] == "outcome_unknown"
    broker.sweep()
    return read_run(broker.store, "a", 1) is not None


@pytest.mark.parametrize("op", ["complete", "fail", "release", "hand_over"])
def test_a_run_is_on_record_though_its_note_was_lost_and_its_request_is_past_its_time(
    redis_client: redis.Redis, op: str
) -> None:
    store = WithoutRuns(MemoryDatastore())
    said = {"fail": {"error": "failed"}, "hand_over": {"to": "another"}}.get(op, {})
    assert on_record_though_its_note_was_lost(InProcess(store, redis_client), store, op, **said)


def test_nobody_would_write_it_if_what_is_unknown_were_not_looked_at(
    redis_client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The twin of the test above.
    monkeypatch.setattr(owed, "note_unknown", lambda *_: None)
    store = WithoutRuns(MemoryDatastore())
    assert not on_record_though_its_note_was_lost(InProcess(store, redis_client), store)


def looked(broker: InProcess) -> None:
    """The look that follows upon every start of a server is over."""
    broker.sweep()
    broker.clock.advance(LANDING_MS)
    broker.sweep()
    assert broker.redis.get(LOOKED) == str(broker.redis.info("server")["run_id"]).encode()


@pytest.fixture
def forgotten(redis_client: redis.Redis) -> InProcess:
    """A run that is owed to a job, which Redis knows nothing of; and a sweep that has no reason to look for such."""
    store = WithoutRuns(MemoryDatastore())
    looked(InProcess(store, redis_client))
    broker = ended_without_a_record(redis_client, store)
    redis_client.delete(owed.OWED)
    return broker


def test_while_the_server_that_had_the_note_is_the_same_nobody_looks_for_what_is_owed(forgotten: InProcess) -> None:
    forgotten.clock.advance(LANDING_MS)
    assert [forgotten.sweep().runs_mended for _ in range(3)] == [0, 0, 0]


def test_once_redis_was_lost_a_sweep_looks_for_the_runs_that_were_owed(forgotten: InProcess) -> None:
    forgotten.redis.flushall()
    assert forgotten.sweep().runs_mended == 1
    assert read_run(forgotten.store, "a", 1) is not None


def test_a_promoted_replica_that_lacks_the_note_is_another_server_and_so_a_reason_to_look(
    forgotten: InProcess,
) -> None:
    forgotten.redis.set(LOOKED, "the run id of the server before")
    assert forgotten.sweep().runs_mended == 1


def test_what_was_on_its_way_as_redis_went_may_end_a_job_a_minute_later(redis_client: redis.Redis) -> None:
    store = WithoutRuns(MemoryDatastore())
    broker = InProcess(store, redis_client)
    broker.sweep()
    broker.clock.advance(LANDING_MS - 1)
    broker = ended_without_a_record(redis_client, store, broker)
    redis_client.delete(owed.OWED)
    assert broker.sweep().runs_mended == 0
    broker.clock.advance(1)
    assert broker.sweep().runs_mended == 1


def test_a_look_that_another_sweep_has_ended_is_not_gone_on_with_once_its_mark_is_lost(
    redis_client: redis.Redis,
) -> None:
    store = WithoutRuns(MemoryDatastore())
    broker = InProcess(store, redis_client)
    broker.sweep()
    looked(InProcess(store, redis_client))
    broker.clock.advance(LANDING_MS)
    broker.sweep()
    redis_client.flushall()
    assert broker.sweep().runs_mended == 0
    broker = ended_without_a_record(redis_client, store, broker)
    redis_client.delete(owed.OWED)
    broker.clock.advance(LANDING_MS)
    assert broker.sweep().runs_mended == 1


def test_jobs_that_have_ended_are_looked_at_a_page_a_sweep(
    redis_client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = WithoutRuns(MemoryDatastore())
    broker = InProcess(store, redis_client)
    jobs = [f"job-{number}" for number in range(5)]
    broker.submit(*jobs)
    store.away = True
    for job in jobs:
        end(broker, job)
    store.away = False
    redis_client.flushall()
    monkeypatch.setattr("workers.owed_runs.PAGE", 2)
    assert [broker.sweep().runs_mended for _ in range(4)] == [2, 2, 1, 0]


def owing(broker: InProcess, *jobs: str) -> None:
    """As if these had ended before the job `a`."""
    broker.redis.zadd(owed.OWED, dict.fromkeys(jobs, 1))


def test_jobs_that_nobody_knows_are_forgotten_and_keep_no_other_waiting(redis_client: redis.Redis) -> None:
    broker = ended_without_a_record(redis_client)
    owing(broker, *(f"nobody-{number}" for number in range(owed.AT_ONCE)))
    assert broker.sweep().runs_mended == 0
    assert broker.sweep().runs_mended == 1
    assert owed.jobs(redis_client) == []


def test_a_job_that_can_t_be_read_keeps_no_other_waiting(
    redis_client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(owed, "AT_ONCE", 1)
    broker = ended_without_a_record(redis_client)
    broker.store.create("b", "b", {"kind": "job"})
    owing(broker, "b")
    assert broker.sweep().runs_mended == 0
    assert broker.sweep().runs_mended == 1
    assert owed.jobs(redis_client) == ["b"], "it can still be mended"
