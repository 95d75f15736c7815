"""Running a command as the work of one leased job: the mechanism behind `broker exec`."""

from broker.exec.command import FINAL_EXIT, GRACE_MS, Command, CommandNotFound, Ending, ExecResult
from broker.exec.execute import execute

__all__ = ["FINAL_EXIT", "GRACE_MS", "Command", "CommandNotFound", "Ending", "ExecResult", "execute"]
