"""Names a process so that a reused pid is not taken for it."""

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class ProcessIdentity:
    """A pid and the moment it started, in whatever unit the system gives; equality only."""

    pid: int
    started: str

    @classmethod
    def of(cls, pid: int) -> "ProcessIdentity | None":
        """The process that runs under `pid` now, or None. A zombie runs no more."""
        started = _linux_started(pid) if sys.platform == "linux" else _ps_started(pid)
        return None if started is None else cls(pid, started)

    @classmethod
    def own(cls) -> "ProcessIdentity":
        """The calling process.

        Raises:
          OSError: the system tells nothing of processes (no /proc, no ps).
        """
        identity = cls.of(os.getpid())
        if identity is None:
            raise OSError("can't read when this process started: is /proc mounted?")
        return identity

    def alive(self) -> bool:
        """Whether this very process, not a later one under its pid, still runs."""
        return ProcessIdentity.of(self.pid) == self


def _linux_started(pid: int) -> str | None:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    # proc_pid_stat(5): the name in parentheses may itself hold spaces and parentheses; then come field 3
    # (state) and, 19 fields on, field 22 (start time in clock ticks since boot).
    fields = stat.rpartition(")")[2].split()
    return None if fields[0] in "ZX" else fields[19]


def _ps_started(pid: int) -> str | None:
    # Not tried on macOS.
    asked = subprocess.run(
        ["/bin/ps", "-o", "stat=,lstart=", "-p", str(pid)], capture_output=True, text=True, check=False
    )
    state, _, started = asked.stdout.strip().partition(" ")
    return None if asked.returncode != 0 or not state or state.startswith("Z") else started.strip()
