"""The demo as a newcomer runs it: it ends with its proof, twice in a row, and leaves nothing behind, come what may."""

import json
import re
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from tests.processes import end, start, wait_for
from workers.demo import run_demo, story

VERDICT = re.compile(
    r"demo: ok jobs=50 completed=50 double_grants=0 lost=0 takeovers=(\d+) stale_refused=(\d+) p50_ms=\d+ p99_ms=\d+"
)
DEMO = [sys.executable, "-m", "workers.cli", "demo"]
MISLEADING = {"BROKER_REDIS_URL": "redis://127.0.0.1:6379/0", "BROKER_DATASTORE_URL": "memory://", "BROKER_TTL_MS": "1"}
"""Settings of a developer's shell. The demo is about the embedded default."""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """With a space in it, as a checkout may have."""
    made = tmp_path / "a folder"
    made.mkdir()
    return made


def left_running(folder: Path) -> list[str]:
    """Every process that has to do with the folder."""
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            told = [*process.cmdline(), process.environ().get("BROKER_STATE_DIR", "")]
            if process.status() != psutil.STATUS_ZOMBIE and any(str(folder) in each for each in told):
                found.append(f"{process.pid}: {' '.join(process.cmdline())}")
    return found


@pytest.mark.slow
def test_it_holds_twice_in_a_row_and_leaves_nothing_running(folder: Path) -> None:
    for _ in range(2):
        ran = subprocess.run(
            [*DEMO, "--state-dir", str(folder)],
            env={"PATH": "/usr/bin:/bin", **MISLEADING},
            capture_output=True,
            text=True,
            check=False,
            timeout=90,
        )
        *told, last = ran.stdout.splitlines()
        matched = VERDICT.fullmatch(last)
        assert matched is not None, ran.stdout + ran.stderr
        assert all(int(number) >= 1 for number in matched.groups())
        assert ran.returncode == 0
        assert any("killed (SIGKILL)" in line and "epoch 2" in line for line in told)
        assert any("lease_lost (superseded)" in line for line in told)
        assert "50 jobs" in ran.stderr, "plain lines where there is no terminal"
        assert left_running(folder) == []


def test_a_run_that_does_not_get_there_in_time_says_failed_and_stops_what_it_started(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(story, "DEADLINE_MS", 0)
    assert run_demo(state_dir=folder, json=True) == 1
    result = json.loads(capsys.readouterr().out)
    assert (result["ok"], result["jobs"], result["takeovers"]) == (False, 0, 0)
    assert "still not: the broker serves" in result["story"][-1]
    assert run_demo(state_dir=folder, quiet=True) == 1
    last = capsys.readouterr().out.splitlines()[-1]
    assert last == (
        "demo: failed jobs=0 completed=0 double_grants=0 lost=0 takeovers=0 stale_refused=0 p50_ms=None p99_ms=None"
    )
    assert left_running(folder) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL], ids=lambda number: number.name)
def test_a_run_that_is_cut_short_leaves_nothing_running(folder: Path, number: signal.Signals) -> None:
    demo = start([*DEMO, "--state-dir", str(folder)])
    try:
        wait_for(lambda: list(folder.glob("*/records/*.jsonl")), "a factory has started", deadline_ms=30_000)
        assert len(left_running(folder)) > 3, "the server, the workers and a factory: else this test sees nothing"
        demo.send_signal(number)
        wait_for(lambda: demo.poll() is not None, "the demo has ended", deadline_ms=30_000)
        assert demo.returncode == (-number if number is signal.SIGKILL else 130)
        wait_for(lambda: left_running(folder) == [], "nothing is left running", deadline_ms=15_000)
    finally:
        end(demo)


def test_a_folder_that_can_not_be_used_is_told_without_a_traceback(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    ran = subprocess.run(
        [*DEMO, "--state-dir", str(tmp_path / "file")], capture_output=True, text=True, check=False, timeout=60
    )
    assert ran.returncode == 1
    assert "--state-dir" in ran.stderr
    assert "Traceback" not in ran.stderr
