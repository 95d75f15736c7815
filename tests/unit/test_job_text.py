"""How a job is shown to a person."""

import pytest

from broker.cli.job_text import describe

JOB = {"id": "j", "state": "leased", "queue": "q", "priority": 0, "epoch": 1, "counters": {}, "created_ms": 0}
LEASE = {"factory_id": "f", "expires_ms": 9_000, "run_deadline_ms": 1_795_632_000_000}


@pytest.mark.parametrize("deadline_ms", [None, 1_795_632_060_000])
def test_the_deadline_of_a_run_is_called_one(deadline_ms: int | None, capsys: pytest.CaptureFixture[str]) -> None:
    describe({"job": {**JOB, "lease": LEASE, "deadline_ms": deadline_ms}, "spec": {}}, None, 0)
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("deadline")]
    assert lines[-1] == "deadline    2026-11-25 18:40:00Z, of this run"
    assert len(lines) == (1 if deadline_ms is None else 2)
