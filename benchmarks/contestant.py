"""What a row is: a contestant that serves claims on a server of its own, and a driver that asks for them."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from benchmarks.processes import Processes
from benchmarks.server import Server


@dataclass(frozen=True, slots=True)
class Stage:
    """What one visit of a row plays on."""

    folder: Path
    server: Server
    processes: Processes
    records: int | None = None
    """How many the windows to come will use, by what the row has shown so far; None where it has not been measured."""


@dataclass(frozen=True, slots=True)
class Command:
    """How to start a process."""

    argv: tuple[str, ...]
    env: dict[str, str] = field(default_factory=dict)


class Contestant(Protocol):
    """One row. A peer is one small file that makes one of these."""

    @property
    def name(self) -> str:
        """Short, and the same in every run: what results are kept under."""
        ...

    @property
    def pooled(self) -> bool:
        """Whether its driver makes the records before a window, and so must know how many."""
        ...

    def serve(self, stage: Stage) -> None:
        """Start what settles claims; returns once it serves."""
        ...

    def driver(self, stage: Stage, outstanding: int) -> Command:
        """What asks. It speaks the lines of `benchmarks.load.driver`."""
        ...

    def watch(self, stage: Stage) -> Callable[[], Mapping[str, Any]]:
        """Look as a window begins; what is returned is called when it is over, and tells further figures of it."""
        ...

    def winners(self, stage: Stage) -> int | None:
        """Read the store: how many records have a winner; None where there is nothing to win.

        Raises:
          Violation: a record has two.
        """
        ...
