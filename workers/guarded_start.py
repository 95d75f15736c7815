"""Starts commands whose process groups end with this process, however that ends: in a leash, beside a guard."""

import os
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import IO, TYPE_CHECKING
from weakref import finalize

from workers import group_guard
from workers.leashed_start import start_leashed

if TYPE_CHECKING:
    import subprocess

    from broker.exec import Running

ENDS_WITHIN_S = 1
"""A guard that is told nothing more; after that it is killed."""


class GuardedStart:
    """Starts commands. The guard, one for all of them, is a process that is started with the first.

    A guard that was killed is replaced with the next command. Where none can be started, commands run without.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._groups: set[int] = set()
        """Those of the commands that run."""
        self._guard: subprocess.Popen[bytes] | None = None
        self._let_go: Callable[[], object] = lambda: None

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
        with self._lock:
            self._have_guard()  # before it: a command is without for no longer than a line takes
        process = start_leashed(argv, stdin=stdin, stdout=stdout, env=env, process_group=process_group)
        with self._lock:
            self._groups.add(process.pid)
            self._tell(b"+%d\n" % process.pid)
        return _Guarded(process, self)

    def ended(self, pid: int) -> None:
        """The command with this process has: what it has left behind by itself may stay."""
        with self._lock:
            self._groups.discard(pid)
            self._tell(b"-%d\n" % pid)

    def _have_guard(self) -> None:
        if self._guard is not None and self._guard.poll() is None:
            return
        self._let_go()
        self._guard = None
        try:
            self._guard = guard = _started()
        except OSError as error:
            import structlog  # which every command would load

            structlog.get_logger(__name__).warning("commands_without_guard", error=str(error))
            return
        self._let_go = finalize(self, partial(_end, guard))
        for group in self._groups:
            self._tell(b"+%d\n" % group)

    def _tell(self, line: bytes) -> None:
        """In one piece. A guard that was killed hears nothing, and is replaced with the next command; one that was let
        go neither, as this process ends.
        """
        if self._guard is not None:
            assert self._guard.stdin is not None, "it was asked for"
            with suppress(BrokenPipeError, ValueError):
                os.write(self._guard.stdin.fileno(), line)


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


def _started() -> "subprocess.Popen[bytes]":
    import subprocess  # every command of the CLI loads this file, and few start a process

    from broker.exec.environment import without_secrets

    return subprocess.Popen(
        [sys.executable, "-I", "-S", os.path.realpath(group_guard.__file__)],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        bufsize=0,
        env=without_secrets(os.environ),
        start_new_session=True,  # what a terminal tells this process's group does not reach it
    )


def _end(guard: "subprocess.Popen[bytes]") -> None:
    """Let it end, once there is nothing more to tell it: as another takes its place, or with this process."""
    from subprocess import TimeoutExpired

    assert guard.stdin is not None, "it was asked for"
    guard.stdin.close()
    try:
        guard.wait(ENDS_WITHIN_S)
    except TimeoutExpired:  # it is stopped
        guard.kill()
        guard.wait()
