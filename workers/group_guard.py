"""Kills what is left of a runner's commands once the runner is gone, however it went: by SIGKILL, too.

    group_guard.py

Standard input says which process groups there are: `+N` one that was started, `-N` one whose command has ended. It
ends with the process at its other end, and what is left then is killed. (PR_SET_PDEATHSIG, which `leash` uses, reaches
a command, and nothing that the command has started.)

Standard library only, and little of that, and run as a file: as `leash`.
"""

import os
import signal
import sys
from collections.abc import Iterable


def left(lines: Iterable[bytes]) -> set[int]:
    """The groups that were started and have not ended, once the lines end. The last one may be cut off."""
    groups: set[int] = set()
    for line in lines:
        if line.endswith(b"\n"):
            (groups.add if line.startswith(b"+") else groups.discard)(int(line[1:]))
    return groups


def main() -> None:
    """Until the end of standard input, whatever else of its runner's is told to stop."""
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    for group in left(sys.stdin.buffer):
        try:
            os.killpg(group, signal.SIGKILL)
        except (ProcessLookupError, PermissionError):  # gone; macOS says PermissionError of a group of zombies
            continue


if __name__ == "__main__":
    main()
