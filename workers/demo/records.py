"""What a factory of the demo writes down as it happens: evidence that outlives it and that no worker touches."""

import json
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path


class Event(StrEnum):
    """What happened to a factory."""

    STARTED = "started"
    CLAIMED = "claimed"
    LOST = "lost"
    """Its lease guard told it so. The demo's factories send their answer all the same."""
    COMPLETED = "completed"
    REFUSED = "refused"


@dataclass(frozen=True, slots=True)
class Record:
    """One line of one factory. Times are its own monotonic clock, milliseconds from an arbitrary start."""

    event: Event
    factory: str
    incarnation: str
    pid: int
    job: str | None = None
    epoch: int | None = None
    sent_ms: int | None = None
    received_ms: int | None = None
    waited: bool = False
    """The claim may have stayed parked, so its time says nothing of the broker's speed."""
    late: bool = False
    """Sent by a factory that knew its lease was lost."""
    answer: str | None = None
    reason: str | None = None


def append(path: Path, record: Record) -> None:
    """Add one line. It is in the file when this returns, so a SIGKILL after it takes nothing away."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    try:
        os.write(descriptor, json.dumps(asdict(record)).encode() + b"\n")
    finally:
        os.close(descriptor)


def read_records(folder: Path) -> list[Record]:
    """Every complete line of every factory's file in `folder`, each file in its own order."""
    return [record for path in sorted(folder.glob("*.jsonl")) for record in _lines(path)]


def _lines(path: Path) -> Iterator[Record]:
    for line in path.read_bytes().split(b"\n")[:-1]:  # behind the last newline: a line that was cut off, or nothing
        fields = json.loads(line)
        yield Record(**{**fields, "event": Event(fields["event"])})
