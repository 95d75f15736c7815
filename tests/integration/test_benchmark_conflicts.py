"""The benchmark's conflict rate: nothing where the index proposes each job once, and it shows workers that fight."""

from pathlib import Path
from typing import cast

import pytest
import redis

from benchmarks.bars import CONFLICTS, bars
from benchmarks.measure import Measure
from benchmarks.results import Results
from benchmarks.special.conflicts import OUTSTANDING
from benchmarks.special.counting_worker import Counted, Counting, Counts, counted, counting_tries
from broker import batch
from datastore import Datastore, connect
from tests.in_process import InProcess
from tests.twins.proposes_twice import ProposesTwice

BATCHES = 6


def conflicts_of_two_workers(folder: Path, connection: redis.Redis, patch: pytest.MonkeyPatch) -> Counted:
    """Each takes half of the claims that are outstanding, and answers only when the other has settled its half too."""
    counts = Counts(folder / "both.counts")
    store = connect(f"sqlite:///{folder / 'jobs.db'}")
    broker = InProcess(cast("Datastore", Counting(store, counts)), connection)
    patch.setattr(batch, "_outcome", counting_tries(batch._outcome, counts))
    broker.submit(*(f"job-{number}" for number in range(BATCHES * OUTSTANDING)))
    before = counted(folder)
    for _ in range(BATCHES):
        claims = [broker.caller.make("claim") for _ in range(OUTSTANDING)]
        settled = []
        for worker, part in (("w1", claims[::2]), ("w2", claims[1::2])):
            broker.caller.send(*part)
            settled.append((worker, broker.settle(broker.take(worker).entries, worker)))
        for worker, each in settled:
            broker.finish(each, worker)
        assert {reply["answer"] for reply in broker.caller.replies(*claims)} == {"granted"}
    store.close()
    counts.close()
    return counted(folder).since(before)


def test_no_job_is_tried_in_vain_where_each_is_proposed_once(
    tmp_path: Path, redis_client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    counts = conflicts_of_two_workers(tmp_path, redis_client, monkeypatch)
    assert counts == Counted(tried=BATCHES * OUTSTANDING, written=BATCHES * OUTSTANDING)
    assert verdict(counts) == "holds"


def test_workers_that_fight_for_jobs_are_seen_though_no_write_of_theirs_is_late(
    tmp_path: Path, redis_client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batch, "propose", ProposesTwice())
    counts = conflicts_of_two_workers(tmp_path, redis_client, monkeypatch)
    assert (counts.written, counts.late) == (BATCHES * OUTSTANDING, 0), "a figure of late writes would show nothing"
    assert counts.in_vain == counts.tried - counts.written
    assert counts.conflicts_percent > 10
    assert verdict(counts) == "missed"


def verdict(counts: Counted) -> str:
    """What the bar makes of it."""
    extra = {"conflicts_percent": counts.conflicts_percent}
    results = Results([Measure("sqlite-next", 0, OUTSTANDING, 1.0, 1.0, 1.0, 5.0, {}, 1, extra=extra)])
    [bar] = [each for each in bars([]) if each.figure is CONFLICTS]
    return bar.verdict(results)
