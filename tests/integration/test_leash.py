"""A leashed process ends with its parent, however the parent ends."""

import errno
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.processes import alive, start_python, wait_for
from workers.leash import LOCK_HELD_EXIT, NOT_STARTED_EXIT, PARENT_GONE_EXIT, leashed
from workers.leashed_start import start_leashed

SLEEPER = [sys.executable, "-c", "import os, signal; print(os.getpid(), flush=True); signal.pause()"]

PARENT = """
import json, signal, subprocess, sys
from workers.leash import leashed
argv = json.loads(sys.argv[1])
subprocess.Popen(argv if sys.argv[2] == "none" else leashed(argv, watch=sys.argv[2] == "watcher"))
signal.pause()
"""


def child_of_a_killed_parent(leash: str) -> int:
    """Start a parent with a sleeping child, SIGKILL the parent, and return the child's pid."""
    parent = start_python(PARENT, json.dumps(SLEEPER), leash)
    assert parent.stdout is not None
    child_pid = int(parent.stdout.readline())
    assert alive(child_pid)
    parent.kill()
    parent.wait()
    parent.stdout.close()
    return child_pid


@pytest.mark.parametrize("leash", ["kernel", "watcher"])
def test_a_killed_parent_takes_its_leashed_child_along(leash: str) -> None:
    if leash == "kernel" and sys.platform != "linux":
        pytest.skip("PR_SET_PDEATHSIG is Linux's")
    child_pid = child_of_a_killed_parent(leash)
    wait_for(lambda: not alive(child_pid), "the child to end")


def test_without_the_leash_the_child_outlives_its_parent() -> None:
    child_pid = child_of_a_killed_parent("none")
    try:
        assert alive(child_pid), "the test above would pass without a leash"
    finally:
        os.kill(child_pid, signal.SIGKILL)
    wait_for(lambda: not alive(child_pid), "the stray child to end")


@pytest.mark.parametrize("watch", [False, True])
@pytest.mark.parametrize("number", [signal.SIGPIPE, signal.SIGXFSZ])
def test_a_command_is_ended_by_the_signals_that_python_ignores(number: signal.Signals, watch: bool) -> None:
    argv = leashed(["sh", "-c", f"kill -{int(number)} $$; echo survived"], watch=watch)
    done = subprocess.run(argv, capture_output=True, timeout=10, check=False)
    assert (done.returncode, done.stdout) == (128 + number if watch else -number, b"")


@pytest.mark.parametrize("watch", [False, True])
def test_a_parent_that_died_before_the_leash_was_tied_is_noticed(watch: bool) -> None:
    argv = leashed(SLEEPER, watch=watch)
    argv[argv.index("--parent") + 1] = "1"  # as if this process had been our parent's heir
    done = subprocess.run(argv, capture_output=True, timeout=10, check=False)
    if not watch:
        assert done.returncode == PARENT_GONE_EXIT
        assert done.stdout == b"", "the command ran although nobody was left to end it"
    else:
        assert done.returncode == 128 + signal.SIGKILL


@pytest.mark.parametrize("watch", [False, True])
def test_exit_status_arguments_and_environment_pass_through(watch: bool) -> None:
    code = "import os, sys; print(sys.argv[1:], os.environ['PYTHONPATH']); sys.exit(7)"
    done = subprocess.run(
        leashed([sys.executable, "-c", code, "--", "a b", "--signal"], watch=watch),
        env={**os.environ, "PYTHONPATH": "here"},
        capture_output=True,
        text=True,
        timeout=10,
        check=False,
    )
    assert (done.returncode, done.stdout) == (7, "['--', 'a b', '--signal'] here\n")


@pytest.mark.parametrize("watch", [False, True])
def test_sigterm_reaches_the_command(watch: bool) -> None:
    code = (
        "import signal, sys; signal.signal(signal.SIGTERM, lambda *_: sys.exit(9)); print(flush=True); signal.pause()"
    )
    with subprocess.Popen(leashed([sys.executable, "-c", code], watch=watch), stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        process.terminate()
        assert process.wait(10) == 9


def test_a_command_that_is_missing_is_named() -> None:
    done = subprocess.run(leashed(["no-such-command"]), capture_output=True, text=True, timeout=10, check=False)
    assert done.returncode == NOT_STARTED_EXIT
    assert "no-such-command" in done.stderr


def started(argv: list[str], *, watch: bool, **options: Any) -> "subprocess.Popen[bytes]":
    with open(os.devnull, "rb") as nothing:
        given: dict[str, Any] = {"stdout": subprocess.PIPE, "env": os.environ, "process_group": 0}
        return start_leashed(argv, watch=watch, **{"stdin": nothing} | given | options)


@pytest.mark.parametrize("watch", [False, True])
@pytest.mark.parametrize(
    ("name", "code"),
    [("no-such-command", errno.ENOENT), (os.devnull, errno.EACCES), ("/", errno.EACCES)],
    ids=["missing", "not executable", "a folder"],
)
def test_a_start_that_fails_in_the_leash_fails_as_any_start(name: str, code: int, watch: bool) -> None:
    with pytest.raises(OSError, match=os.strerror(code)) as failed:
        started([name], watch=watch)
    assert (failed.value.errno, failed.value.filename) == (code, name)


@pytest.mark.parametrize("watch", [False, True])
@pytest.mark.parametrize("status", [NOT_STARTED_EXIT, PARENT_GONE_EXIT, LOCK_HELD_EXIT])
def test_an_exit_status_of_the_leashs_own_is_the_commands_where_it_was_started(status: int, watch: bool) -> None:
    with started(["sh", "-c", f"exit {status}"], watch=watch) as process:
        assert process.wait(10) == status


@pytest.mark.parametrize("watch", [False, True])
def test_a_start_is_over_as_the_command_begins_and_leaves_it_no_way_to_deny_that(watch: bool) -> None:
    code = "import os, sys; print(*[fd for fd in range(3, 256) if os.path.exists(f'/dev/fd/{fd}')]); sys.stdin.read()"
    reading, writing = os.pipe()
    with (
        os.fdopen(reading, "rb") as waits,
        os.fdopen(writing, "wb") as ends,
        started([sys.executable, "-c", code], watch=watch, stdin=waits) as process,
    ):
        ends.close()  # only now does the command end: the start did not wait for it
        assert process.stdout is not None
        assert process.stdout.read() == b"\n", "descriptors of others"
        assert process.wait(10) == 0


def test_a_leash_that_ends_before_it_has_tried_the_command_has_not_started_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("workers.leashed_start.leashed", lambda *_, **__: ["sh", "-c", "exit 2"])
    with pytest.raises(OSError, match="its leash ended with 2 before it"):
        started(["true"], watch=False)


@pytest.mark.parametrize("watch", [False, True])
def test_a_lock_admits_one_command_and_ends_with_it(tmp_path: Path, watch: bool) -> None:
    lock = tmp_path / "a lock"
    argv = leashed(SLEEPER, lock=lock, watch=watch)
    with subprocess.Popen(argv, stdout=subprocess.PIPE, process_group=0) as first:
        assert first.stdout is not None
        command = int(first.stdout.readline())
        assert lock.read_text() == f"{os.getpid()}\n"
        second = subprocess.run(argv, capture_output=True, timeout=10, check=False)
        assert (second.returncode, second.stdout) == (LOCK_HELD_EXIT, b"")
        os.killpg(first.pid, signal.SIGKILL)
    wait_for(lambda: not alive(command), "the command has ended too, where a watcher had started it")
    third = subprocess.run(leashed(["true"], lock=lock, watch=watch), timeout=10, check=False)
    assert third.returncode == 0
