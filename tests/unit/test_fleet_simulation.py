"""The simulated fleet: every job ends, nothing is granted twice, and where something is, it is seen."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from benchmarks.fleet_simulation.__main__ import table, wrong
from benchmarks.fleet_simulation.broker import Broker
from benchmarks.fleet_simulation.fleet import run
from benchmarks.fleet_simulation.plan import Plan
from benchmarks.fleet_simulation.tally import percentile
from broker.documents import Job

ROUGH = Plan(factories=100, jobs=2_000, dies_every_s=600, down_s=60, failing=0.1)


class ForgetsEpochs(Broker):
    """Begins to count anew when a job was given back."""

    def _keep(self, job_id: str, body: Mapping[str, Any], *, rev: int, before: Job | None) -> Job:
        epoch = body["epoch"] if body["state"] == "leased" else 0
        return super()._keep(job_id, {**body, "epoch": epoch}, rev=rev, before=before)


def test_a_fleet_that_keeps_dying_ends_every_job_and_grants_none_twice() -> None:
    ran = run(ROUGH)
    assert not wrong(ran), table(ran)
    assert ran.tally.deaths > 50
    assert len(ran.tally.takeovers_ms) > 30
    assert ran.tally.refused > 0, "nobody came back to a lease that was gone"
    # At the latest after ttl, skew and a sweep's interval, and a wait for a free factory.
    assert percentile(ran.tally.takeovers_ms, 0.5) < (ROUGH.ttl_s + ROUGH.skew_s + ROUGH.ttl_s / 4) * 1_100


def test_leases_that_are_taken_too_early_are_seen() -> None:
    assert run(replace(ROUGH, skew_s=-50)).tally.double_holders > 0


def test_epochs_that_are_used_again_are_seen() -> None:
    assert run(ROUGH, make_broker=ForgetsEpochs).tally.double_epochs > 0


def test_several_brokers_share_the_work_and_a_slow_one_is_seen_to_be_busy() -> None:
    slow = Plan(factories=200, jobs=2_000, worker_us=50_000, workers=1)
    alone, four = run(slow), run(replace(slow, redis=4))
    assert not wrong(four)
    assert four.workers_busy < 0.5 * alone.workers_busy
    assert percentile(four.tally.waits_ms, 0.99) < percentile(alone.tally.waits_ms, 0.99)
