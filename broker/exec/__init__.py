"""Running a command as the work of one leased job: the mechanism behind `broker exec`."""

from broker.exec.command import (
    FINAL_EXIT,
    GRACE_MS,
    Command,
    CommandNotFound,
    Ending,
    ExecResult,
    Running,
    Start,
    start_plainly,
)
from broker.exec.events import CancelAsked, Events, Lost, StoppedEarly, Told
from broker.exec.execute import execute, require_command, work

__all__ = [
    "FINAL_EXIT",
    "GRACE_MS",
    "CancelAsked",
    "Command",
    "CommandNotFound",
    "Ending",
    "Events",
    "ExecResult",
    "Lost",
    "Running",
    "Start",
    "StoppedEarly",
    "Told",
    "execute",
    "require_command",
    "start_plainly",
    "work",
]
