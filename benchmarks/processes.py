"""The processes of one row: started under a mark, measured by role, and gone before the next row begins."""

import os
import secrets
import shlex
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Container, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import IO

from benchmarks.looks import TURN, Kind, kept, looks_argv
from benchmarks.stacks import Stack, read
from workers.leash import leashed
from workers.process_identity import ProcessIdentity

MARK = "CLAIM_BENCH_ROW"
ROOT = Path(__file__).parents[1]
_TICKS = os.sysconf("SC_CLK_TCK")
_DEADLINE_S = 30
_POLL_S = 0.02


class BenchError(Exception):
    """A row can't be measured; the message says why."""


class Violation(BenchError):
    """A record has no single winner. Not a row that is left out: the run fails."""


@dataclass(frozen=True, slots=True)
class _Started:
    """A process of a row."""

    process: "subprocess.Popen[str]"
    role: str
    command: str
    """How it was started, as it would be typed."""
    looks: Path | None
    """Where it keeps what is seen of its stacks, if it is looked at."""


class Processes:
    """Each process leads a group of its own, so that the children it forks are counted and ended with it."""

    def __init__(self, folder: Path) -> None:
        self.mark = f"{os.getpid()}-{secrets.token_hex(8)}"
        self.looked_at: Container[str] = ()
        """Roles whose processes, if of this Python, are started so that `benchmarks.looks` sees their stacks."""
        self.on_turn: list[Callable[[], None]] = []
        """Called as a window begins, and as it has ended."""
        self._folder = folder
        self._started: list[_Started] = []
        self._numbers = count(1)

    def start(
        self,
        role: str,
        argv: Sequence[str],
        *,
        env: Mapping[str, str] | None = None,
        talks: bool = False,
    ) -> "subprocess.Popen[str]":
        """Run `argv` from the root of the repository. With `talks`, its input and output are pipes."""
        looks = None
        if role in self.looked_at and tuple(argv[:2]) == (sys.executable, "-m"):
            looks = self._folder / f"{role}-{next(self._numbers)}"
            argv = looks_argv(looks, argv[2:])
        log = self._log(role)
        process = subprocess.Popen(
            leashed(argv),
            stdin=subprocess.PIPE if talks else subprocess.DEVNULL,
            stdout=subprocess.PIPE if talks else log,
            stderr=log,
            text=True,
            cwd=ROOT,
            # Bytecode is kept, as a user's Python does: without it each worker would compile the product as it starts.
            env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "", MARK: self.mark, **(env or {})},
            process_group=0,
        )
        log.close()
        self._started.append(_Started(process, role, _command_line(argv, env or {}), looks))
        return process

    def turn_looks(self) -> None:
        """Tell those that are looked at that the window begins, or that it has ended."""
        for call in self.on_turn:
            call()
        for each in self._started:
            if each.looks is not None:
                with suppress(ProcessLookupError):
                    os.kill(each.process.pid, TURN)

    def seen(self, role: str, kind: Kind) -> Counter[Stack]:
        """What was seen of the processes of a role in the window that has ended."""
        seen: Counter[Stack] = Counter()
        for each in self._started:
            if each.looks is not None and each.role == role:
                wait_for(kept(each.looks, kind).exists, f"what was seen of the {role} is written")
                seen += read(kept(each.looks, kind))
        return seen

    def cpu_s(self) -> dict[str, float]:
        """CPU seconds that each role has used so far, forked children included; a finer name for each of several."""
        used: dict[str, float] = {}
        names = _numbered({each.process.pid: each.role for each in self._started})
        for group, ticks in _ticks_by_group().items():
            if group in names:
                used[names[group]] = ticks / _TICKS
        return used

    def said(self, role: str) -> str:
        """The end of what processes of a role have written."""
        path = self._folder / f"{role}.log"
        return path.read_text(encoding="utf-8", errors="replace")[-2000:] if path.exists() else ""

    def end(self, process: "subprocess.Popen[str]") -> None:
        """End one process, and count it no more."""
        end_group(process)
        self._started = [each for each in self._started if each.process is not process]

    def of_role(self, role: str) -> "list[subprocess.Popen[str]]":
        """The processes that were started in a role and not ended since."""
        return [each.process for each in self._started if each.role == role]

    def commands(self) -> dict[str, list[str]]:
        """How those that run now were started, by role: variables and command lines, from the root of this project."""
        found: dict[str, list[str]] = {}
        for each in self._started:
            found.setdefault(each.role, []).append(each.command)
        return found

    def close(self) -> None:
        """Kill everything and see that nothing with this mark is left.

        Raises:
          BenchError: something survives, and would spoil the rows to come.
        """
        for each in reversed(self._started):
            end_group(each.process)
        self._started.clear()
        wait_for(lambda: not marked(self.mark), f"no process of row {self.mark} is left")

    def _log(self, role: str) -> IO[str]:
        return (self._folder / f"{role}.log").open("a", encoding="utf-8")


def _command_line(argv: Sequence[str], env: Mapping[str, str]) -> str:
    """As it is typed at the root of the repository."""
    here = f"{ROOT}/"  # left out before words are quoted, which its own spaces are no reason for
    variables = (f"{name}={shlex.quote(value.replace(here, ''))}" for name, value in env.items())
    return " ".join((*variables, shlex.join(word.replace(here, "") for word in argv)))


def end_group(process: "subprocess.Popen[str]") -> None:
    """Kill a process and the children of its group, and reap it."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            with suppress(BrokenPipeError):
                pipe.close()


def marked(mark: str | None = None) -> list[int]:
    """Processes that a row has started: of the given mark; or of any row of this run, or of a run that has ended.

    Those of another run that goes on are its own; it spoils the figures all the same, and `other_runs` tells of it.
    """
    return [pid for pid, found in _marks().items() if (found == mark if mark else _ended_or_own(found))]


def other_runs() -> set[int]:
    """Benchmarks that run beside this one."""
    return {_run(mark) for mark in _marks().values() if not _ended_or_own(mark)}


def _run(mark: str) -> int:
    run = mark.partition("-")[0]
    return int(run) if run.isdigit() else 0


def _ended_or_own(mark: str) -> bool:
    run = _run(mark)
    return run == os.getpid() or ProcessIdentity.of(run) is None


def _marks() -> dict[int, str]:
    """The mark of each process that has one."""
    found: dict[int, str] = {}
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        try:
            variables = (entry / "environ").read_bytes().split(b"\0")
        except OSError:
            continue  # it ended just now, is a zombie, or is another user's
        for variable in variables:
            if variable.startswith(f"{MARK}=".encode()):
                found[int(entry.name)] = variable.partition(b"=")[2].decode()
    return found


def wait_for(
    condition: Callable[[], bool],
    description: str,
    *,
    alive: "subprocess.Popen[str] | None" = None,
    deadline_s: float = _DEADLINE_S,
) -> None:
    """Wait until `condition` holds.

    Raises:
      BenchError: it does not in time, or the process it depends on has ended.
    """
    until = time.monotonic() + deadline_s
    while not condition():
        if alive is not None and alive.poll() is not None:
            raise BenchError(f"{description}: the process ended with status {alive.returncode}")
        if time.monotonic() > until:
            raise BenchError(f"after {deadline_s} s still not: {description}")
        time.sleep(_POLL_S)


def free_port() -> int:
    """A TCP port on loopback that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def scratch() -> "tempfile.TemporaryDirectory[str]":
    """A folder for the files of one row."""
    return tempfile.TemporaryDirectory(prefix="claim-bench-", ignore_cleanup_errors=True)


def _numbered(roles: Mapping[int, str]) -> dict[int, str]:
    seen: dict[str, int] = {}
    names: dict[int, str] = {}
    several = {role for role in roles.values() if list(roles.values()).count(role) > 1}
    for pid, role in roles.items():
        seen[role] = seen.get(role, 0) + 1
        names[pid] = f"{role} {seen[role]}" if role in several else role
    return names


def _ticks_by_group() -> dict[int, int]:
    """User and system time of each process group, in clock ticks: fields 14 and 15 of /proc/<pid>/stat."""
    found: dict[int, int] = {}
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            fields = (entry / "stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
        except OSError:
            continue
        group = int(fields[2])
        found[group] = found.get(group, 0) + int(fields[11]) + int(fields[12])
    return found


def machine_idle_s() -> float:
    """Seconds of a core, all of them together, that nobody has used since the machine started."""
    fields = Path("/proc/stat").read_text(encoding="utf-8").partition("\n")[0].split()
    return sum(map(int, fields[4:6])) / _TICKS
