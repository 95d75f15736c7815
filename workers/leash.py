"""Ends a process with its parent, also when the parent is killed with SIGKILL: nothing of the fleet is left behind.

    leash.py --parent PID --signal N [--lock FILE] [--report FD] [--watch] -- COMMAND…

On Linux the kernel does it: PR_SET_PDEATHSIG, then the command takes this process's place. The kernel's "parent"
is the *thread* that started the child, so children are to be started from the main thread; the setting is not
inherited by the command's own children, and is lost where the command is set-user-id. Elsewhere (macOS; not tried
there, tried on Linux with `--watch`) this process stays, passes signals on and polls for its parent.

`--lock` holds an exclusive flock for as long as the command lives, so that "is it running?" needs no pid file,
which goes stale and survives the reuse of a pid. The file's content is the pid of the parent.

`--report` names an inherited descriptor, on which whoever waits at its other end reads what no command could say for
itself: `BEGUN` just before the command is started, then the error's number where it can't be. A command that runs
closes it unseen.

Standard library only, and little of that, and run as a file: the start then costs some 15 ms, whatever is installed.
"""

import ctypes
import fcntl
import os
import signal
import sys
from collections.abc import Sequence
from types import FrameType

LOCK_HELD_EXIT = 75
"""Exit status where another process holds the lock (EX_TEMPFAIL of sysexits.h)."""
NOT_STARTED_EXIT = 127
"""Exit status where the command could not be run, as from a shell. A command may give it too: see `--report`."""
PARENT_GONE_EXIT = 70
"""Exit status where the parent died before the command was started. Nobody is left to read it."""

BEGUN = b"+"
"""What is reported first. Without it the command was never tried."""

WATCHES = sys.platform != "linux"
"""Whether the leash stays beside the command: where no kernel does its work."""
IGNORED_BY_PYTHON = (signal.SIGPIPE, signal.SIGXFSZ)
"""Ignored by every interpreter, this one too; a command would inherit that, and write into closed pipes for ever."""
_PR_SET_PDEATHSIG = 1  # linux/prctl.h
_POLL_S = 0.2


def leashed(
    argv: Sequence[str],
    *,
    death_signal: signal.Signals = signal.SIGKILL,
    lock: os.PathLike[str] | None = None,
    report: int | None = None,
    watch: bool = WATCHES,
) -> list[str]:
    """The command line that runs `argv` as a child that ends, by `death_signal`, with the calling process.

    To be started by the process that calls this, from its main thread. With `lock` the command runs only if
    nobody holds that file, and exits with `LOCK_HELD_EXIT` otherwise. `report`: a descriptor that the started process
    is to inherit; `leashed_start` has its other end.
    """
    options = ["--parent", str(os.getpid()), "--signal", str(int(death_signal))]
    if lock is not None:
        options += ["--lock", os.fspath(lock)]
    if report is not None:
        options += ["--report", str(report)]
    if watch:
        options += ["--watch"]
    # -I -S: neither the caller's PYTHONPATH nor site-packages; they are for the command, not for this file.
    return [sys.executable, "-I", "-S", os.path.realpath(__file__), *options, "--", *argv]


def main(arguments: Sequence[str]) -> int:
    """Run the command; returns only where it could not be started, or where this process stays as its watcher."""
    at = arguments.index("--")
    options, command = list(arguments[:at]), list(arguments[at + 1 :])
    parent = int(_value(options, "--parent") or os.getppid())
    death_signal = signal.Signals(int(_value(options, "--signal") or signal.SIGKILL))
    lock = _value(options, "--lock")
    report = _Report(_value(options, "--report"))
    if lock is not None and not _take_lock(lock, parent):
        return LOCK_HELD_EXIT
    try:
        if "--watch" in options:
            return _watch(command, parent, death_signal, report)
        tie_to_parent(death_signal)
        if os.getppid() != parent:  # it died before the prctl above, so no signal will come
            return PARENT_GONE_EXIT
        for number in IGNORED_BY_PYTHON:
            signal.signal(number, signal.SIG_DFL)
        report.begun()
        os.execvp(command[0], command)  # noqa: S606 - an argument list; no shell is wanted
    except OSError as error:
        report.failed(command[0], error)
        return NOT_STARTED_EXIT


class _Report:
    """Tells the parent, where it listens, what became of the start; else standard error has the failure."""

    def __init__(self, descriptor: str | None) -> None:
        self._descriptor = None if descriptor is None else int(descriptor)
        if self._descriptor is not None:
            os.set_inheritable(self._descriptor, False)  # so that it is closed by the very start of the command

    def begun(self) -> None:
        if self._descriptor is not None:
            os.write(self._descriptor, BEGUN)

    def failed(self, name: str, error: OSError) -> None:
        if self._descriptor is not None:
            os.write(self._descriptor, str(error.errno).encode())
        else:
            sys.stderr.write(f"leash: can't run {name}: {error.strerror}\n")

    def started(self) -> None:
        """To be called where this process stays beside the command."""
        if self._descriptor is not None:
            os.close(self._descriptor)


def _value(options: list[str], name: str) -> str | None:
    return options[options.index(name) + 1] if name in options else None


def _take_lock(path: str, parent: int) -> bool:
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return False
    os.ftruncate(descriptor, 0)
    os.write(descriptor, f"{parent}\n".encode())
    os.set_inheritable(descriptor, True)  # stays open, and locked, in the command
    return True


def tie_to_parent(death_signal: signal.Signals) -> None:
    """End this process with the one that started it. Linux only."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_PDEATHSIG, int(death_signal), 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def _watch(command: list[str], parent: int, death_signal: signal.Signals, report: _Report) -> int:
    import subprocess  # half of what this file loads, and only a watcher needs it

    report.begun()
    child = subprocess.Popen(command, close_fds=False)
    report.started()

    def pass_on(number: int, _: FrameType | None) -> None:
        child.send_signal(number)

    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, pass_on)
    while True:
        try:
            status = child.wait(_POLL_S)
            return status if status >= 0 else 128 - status
        except subprocess.TimeoutExpired:
            if os.getppid() != parent:
                child.send_signal(death_signal)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
