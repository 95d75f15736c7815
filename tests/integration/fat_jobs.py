"""Jobs of which few make much of a listing."""

from typing import Any

from tests.caller import Reply
from tests.in_process import InProcess

JOBS = 40
FAT: dict[str, Any] = {
    "depends_on": [f"{number:03}{'p' * 125}" for number in range(256)],
    "locks": [f"{number:02}{'l' * 254}" for number in range(64)],
}
"""Of a job of 50 kB."""


def ask(broker: InProcess, op: str, **body: Any) -> Reply:
    return broker.ask(broker.caller.make(op, **body))[0]


def stock(broker: InProcess) -> InProcess:
    """Submit them all."""
    for number in range(JOBS):
        broker.submit(f"fat-{number:03}", **FAT)
    return broker
