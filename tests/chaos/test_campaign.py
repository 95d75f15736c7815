"""The campaign, short: what `make chaos` runs for a minute, and broken brokers that it has to find out."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest

from broker.history import Record
from broker.history.record import VERSION
from datastore.memory import MemoryDatastore
from tests.chaos.judge import Verdict, judge
from tests.chaos.measure import baseline, percentile, recovered_after_ms
from tests.chaos.plan import schedule

ROOT = Path(__file__).parents[2]
SMALL = (
    "--factories",
    "3",
    "--per-second",
    "10",
    "--warm-up",
    "2",
    "--duration",
    "1",
    "--seed",
    "1",
    "--only",
    "kill a worker",
)
KINDS = ("kill a", "kill b", "stop c", "flush d")


def campaign(*arguments: str) -> tuple[int, str]:
    """The exit status and the last line."""
    command = [sys.executable, "-m", "tests.chaos", *SMALL, *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=110, check=False)
    lines = done.stdout.splitlines()
    assert lines, done.stderr
    return done.returncode, lines[-1]


@pytest.mark.slow
@pytest.mark.redis
def test_a_campaign_without_a_fence_fails() -> None:
    status, line = campaign("--twin", "no-fence")
    assert (status, line.split()[1]) == (1, "failed"), line
    counts = dict(field.split("=") for field in line.split()[2:])
    assert int(counts["stale_refused"]) < int(counts["stale_tried"]), line


@pytest.mark.slow
@pytest.mark.redis
def test_a_campaign_whose_writers_do_not_look_again_as_they_write_grants_a_job_twice() -> None:
    status, line = campaign("--twin", "read-check-write")
    assert (status, line.split()[1]) == (1, "failed"), line
    counts = dict(field.split("=") for field in line.split()[2:])
    assert int(counts["double_grants"]) > 0, line


@pytest.mark.slow
@pytest.mark.redis
def test_a_short_campaign_holds() -> None:
    status, line = campaign()
    assert (status, line.split()[1]) == (0, "ok"), line
    assert line.endswith("lost=0 double_grants=0")


@pytest.mark.parametrize("untried", ["submitted", "grants", "stale_tried"])
def test_a_campaign_that_tried_nothing_of_a_kind_does_not_hold(untried: str) -> None:
    verdict = Verdict(
        grants=2,
        stale_tried=1,
        stale_refused=1,
        stale_unheard=0,
        submitted=1,
        lost=0,
        double_grants=0,
        completed=1,
        wrong=(),
    )
    assert verdict.holds
    nothing: dict[str, Any] = {untried: 0, "stale_refused": 0} if untried == "stale_tried" else {untried: 0}
    assert not replace(verdict, **nothing).holds


def test_a_seed_decides_the_schedule_and_every_kind_has_its_turn() -> None:
    first = [step for step, _ in zip(schedule(7, KINDS), range(8), strict=False)]
    again = [step for step, _ in zip(schedule(7, KINDS), range(8), strict=False)]
    assert first == again
    assert {step.kind for step in first[:4]} == set(KINDS)
    assert first != [step for step, _ in zip(schedule(8, KINDS), range(8), strict=False)]


def test_recovery_is_the_first_good_second_after_the_end() -> None:
    steady = list(range(0, 10_000, 100))
    gap = [at for at in steady if not 4_000 <= at < 6_000]
    assert baseline(steady, 0, 10_000) == 10
    assert recovered_after_ms(gap, 2_000, 10, now_ms=10_000) == 0
    assert recovered_after_ms(gap, 4_000, 10, now_ms=10_000) == 2_000
    assert recovered_after_ms(gap, 4_000, 10, now_ms=6_500) is None, "that second is not over"
    assert recovered_after_ms(gap, 4_000, 20, now_ms=10_000) is None, "never as good as before"


def test_a_percentile_is_one_of_the_values() -> None:
    assert [percentile([30, 10, 20], share) for share in (0.5, 0.99, 1.0)] == [20, 30, 30]


def test_a_job_that_was_acknowledged_and_is_gone_is_lost(tmp_path: Path) -> None:
    store = MemoryDatastore()
    written = [
        Record(type="start", at=1, client="c", factory="f", incarnation="i", v=VERSION),
        Record(type="invoke", at=2, client="c", call=1, op="submit", request="r", job="gone"),
        Record(type="ok", at=3, sent=2, client="c", call=1, op="submit", request="r", job="gone", answer="ok"),
    ]
    (tmp_path / "c.jsonl").write_bytes(b"".join(msgspec.json.encode(record) + b"\n" for record in written))
    verdict = judge(store, tmp_path)
    assert (verdict.submitted, verdict.lost, verdict.holds) == (1, 1, False)
