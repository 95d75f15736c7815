"""Starts commands whose process groups end with this process, however that ends: in a leash, beside a guard."""

import os
import sys
import threading
from collections.abc import Mapping, Sequence
from typing import IO, TYPE_CHECKING
from weakref import finalize

from workers import group_guard
from workers.leashed_start import start_leashed

if TYPE_CHECKING:
    import subprocess

    from broker.exec import Running


class GuardedStart:
    """Starts commands. The guard, one for all of them, is a process that is started with the first."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._guard: subprocess.Popen[bytes] | None = None

    def __call__(
        self,
        argv: Sequence[str],
        *,
        stdin: IO[bytes],
        stdout: IO[bytes] | int | None,
        env: Mapping[str, str],
        process_group: int,
    ) -> "Running":
        """As `start_leashed`."""
        self._tell(b"")
        process = start_leashed(argv, stdin=stdin, stdout=stdout, env=env, process_group=process_group)
        self._tell(b"+%d\n" % process.pid)
        return _Guarded(process, self)

    def ended(self, pid: int) -> None:
        """The command with this process has: what it has left behind by itself may stay."""
        self._tell(b"-%d\n" % pid)

    def _tell(self, line: bytes) -> None:
        """Where the guard was killed, another takes its place, and knows what is started from then on."""
        with self._lock:
            if self._guard is None or self._guard.poll() is not None:
                self._guard = _started()
                finalize(self, _end, self._guard)
            assert self._guard.stdin is not None, "it was asked for"
            try:
                os.write(self._guard.stdin.fileno(), line)  # short enough to go in one piece
            except BrokenPipeError:  # it is just being killed
                return


class _Guarded:
    def __init__(self, process: "subprocess.Popen[bytes]", start: GuardedStart) -> None:
        self._process = process
        self._start = start

    @property
    def pid(self) -> int:
        return self._process.pid

    def wait(self) -> int:
        status = self._process.wait()
        self._start.ended(self.pid)
        return status


def _end(guard: "subprocess.Popen[bytes]") -> None:
    """Let it end, once there is nothing more to tell it: with the last use of it, or with this process."""
    assert guard.stdin is not None, "it was asked for"
    guard.stdin.close()
    guard.wait()


def _started() -> "subprocess.Popen[bytes]":
    import subprocess  # every command of the CLI loads this file, and few start a process

    return subprocess.Popen(
        [sys.executable, "-I", "-S", os.path.realpath(group_guard.__file__)],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        bufsize=0,
        env={},
        start_new_session=True,  # what a terminal tells this process's group does not reach it
    )
