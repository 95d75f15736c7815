"""What to run for a job, and what became of it, as values."""

import os
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import IO, Protocol

from broker.client import Reply

GRACE_MS = 10_000
"""Between TERM and KILL. Below the broker's own patience with a cancel, 30 s (design §9)."""
FINAL_EXIT = 65
"""EX_DATAERR of sysexits.h: the job itself is at fault, and is not tried again. After any other failure it is."""


class Ending(StrEnum):
    """What became of the job, as far as this run of it is concerned."""

    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"
    RELEASED = "released"
    """Given back unharmed: this process was told to stop, or the command can't run on this machine."""
    NOT_GRANTED = "not_granted"
    """Nothing was run; `reply` says why."""
    LEASE_LOST = "lease_lost"
    """The command was stopped, or had ended; nothing was completed."""
    UNKNOWN = "unknown"
    """The command ended, and no answer came: `request_id` repeats what was asked."""


@dataclass(frozen=True, slots=True)
class ExecResult:
    """What happened, for whoever has to tell it."""

    ending: Ending
    detail: str
    job_id: str | None = None
    epoch: int | None = None
    command_exit: int | None = None
    """The command's exit status; negative: the signal that ended it. None: it has no part in this."""
    reply: Reply | None = None
    """The broker's last word."""
    request_id: str | None = None
    not_started: OSError | None = None
    """Why the command could not be started. None: it was, or nothing was to be."""


class CommandNotFound(Exception):
    """There is no such command on this machine. Nothing was claimed."""


class Running(Protocol):
    """A command that was started, as `subprocess.Popen` has it."""

    @property
    def pid(self) -> int:
        """Its process, which leads its group."""

    def wait(self) -> int:
        """Its exit status, once it has ended; negative: the signal that ended it."""


class Start(Protocol):
    """Starts a command line, as `subprocess.Popen` does: whatever keeps it from starting is an OSError."""

    def __call__(
        self,
        argv: Sequence[str],
        *,
        stdin: IO[bytes],
        stdout: IO[bytes] | int | None,
        env: Mapping[str, str],
        process_group: int,
    ) -> Running:
        """The process. Raises OSError where there is none."""


def start_plainly(
    argv: Sequence[str],
    *,
    stdin: IO[bytes],
    stdout: IO[bytes] | int | None,
    env: Mapping[str, str],
    process_group: int,
) -> "subprocess.Popen[bytes]":
    """Start a command that may outlive this process."""
    return subprocess.Popen(argv, stdin=stdin, stdout=stdout, env=env, process_group=process_group)


@dataclass(frozen=True, slots=True)
class Command:
    """What to run, and how."""

    argv: Sequence[str]
    grace_ms: int = GRACE_MS
    environ: Mapping[str, str] = field(default_factory=lambda: dict(os.environ), repr=False)
    stdout: IO[bytes] | int | None = None
    """Where its output goes; None: where this process's goes."""
    start: Start = start_plainly
    """The place for a leash, which ends the command with this process."""
