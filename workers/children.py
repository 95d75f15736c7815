"""Publishes what a supervisor runs, for `broker status` and for whoever has to see that it is gone."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from workers.process_identity import ProcessIdentity
from workers.state_dir import StateDir

STATUS_FILE = "fleet.json"


@dataclass(frozen=True, slots=True)
class ChildStatus:
    """One child of the supervisor. `pid`, `started` and `up_since_ms` are None while it waits for its next start."""

    name: str
    pid: int | None
    started: str | None
    """Start of that process (see `ProcessIdentity`)."""
    restarts: int
    last_exit: int | None
    """Exit status of the run before; negative: the signal that ended it."""
    up_since_ms: int | None
    """This host's clock, Unix milliseconds."""

    def alive(self) -> bool:
        """Whether that very process still runs."""
        return self.pid is not None and ProcessIdentity(self.pid, self.started or "").alive()


def write_statuses(state: StateDir, statuses: Sequence[ChildStatus]) -> None:
    """Replace what is published."""
    state.write(STATUS_FILE, json.dumps([asdict(status) for status in statuses]).encode())


def read_statuses(state: StateDir) -> list[ChildStatus]:
    """The children as last published. A supervisor that was killed leaves its last ones: ask `alive`."""
    return state.read(STATUS_FILE, list[ChildStatus]) or []
