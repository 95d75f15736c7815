"""A run record that could not be written, and for which nobody asks again, is written by the sweep."""

import pytest
import redis

from broker import owed
from broker.runs import read_run
from datastore.memory import MemoryDatastore
from tests.in_process import InProcess
from tests.twins.stale import ShowsEarlier
from tests.twins.without_runs import WithoutRuns


def ended_without_a_record(redis_client: redis.Redis) -> InProcess:
    """A broker whose store took the end of a job, and no record of its run; nobody asks again."""
    store = WithoutRuns(MemoryDatastore())
    broker = InProcess(store, redis_client)
    broker.submit("a")
    store.away = True
    [grant] = broker.ask(broker.caller.make("claim", job_id="a"))
    lease = {name: grant["body"][name] for name in ("job_id", "epoch", "token")}
    [told] = broker.ask(broker.caller.make("complete", **lease, result=7))
    assert told["answer"] == "outcome_unknown"
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


def test_without_the_hint_nobody_writes_it(redis_client: redis.Redis) -> None:
    broker = ended_without_a_record(redis_client)
    redis_client.delete(owed.OWED)
    assert broker.sweep().runs_mended == 0
    assert read_run(broker.store, "a", 1) is None


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
