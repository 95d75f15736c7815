"""Named points at which a test can kill this very process. Off, a point is the call of a function that does nothing.

    BROKER_FAULTS=settled@3 BROKER_FAULTS_ALLOWED=1 broker worker    # SIGKILL as the third batch is settled

Armed by this process's own environment alone: no request, no key of Redis and no document can reach it.
"""

import os
import signal
from collections.abc import Callable
from itertools import count
from typing import Final, TypeAlias

At: TypeAlias = Callable[[str], None]
"""Called with the name of a point as the process passes it."""

POINTS: Final = {
    "taking": "before the call that takes a batch",
    "taken": "a batch is in flight, nothing of it is settled",
    "taken_over": "a dead worker's requests are in this one's hands",
    "reading": "before a document is read",
    "read": "after it was read",
    "searched": "after a search of the store",
    "writing": "before a document is created or changed",
    "written": "after it was; in a group of writes, before the group is committed",
    "renewing": "before a lease is extended",
    "renewed": "after it was",
    "run_writing": "before a run record is written",
    "run_written": "after it was",
    "committing": "before a group of writes ends",
    "committed": "after it has",
    "settled": "a batch is in the store, nobody was told",
    "replied_partly": "the first half of the commands that tell of a batch were carried out",
    "finished": "replies, hints and rq's book-keeping are done",
    "sweep_locked": "the sweep holds its lock",
    "sweep_changed": "what time demanded is in the store, hints are not moved",
    "sweep_told": "hints are moved, the rest of the sweep is to come",
}
"""Every point, and where a process stands there."""


class FaultsRefused(Exception):
    """`BROKER_FAULTS` can't be used as it is; the message says what to do. Nothing was armed."""


def nowhere(_point: str) -> None:
    """Pass a point of a process that is not to be killed."""


def armed(faults: str, *, kill: Callable[[], None] | None = None) -> At:
    """What kills this process as it passes a point for the n-th time, given `POINT@N`.

    Raises:
      FaultsRefused: no such point.
    """
    point, _, passing = faults.partition("@")
    if point not in POINTS or not passing.isdecimal() or int(passing) < 1:
        raise FaultsRefused(f"BROKER_FAULTS={faults}: use POINT@N, N from 1, and one of {', '.join(POINTS)}")
    passings = count(1)

    def at(passed: str) -> None:
        if passed == point and next(passings) == int(passing):
            (kill or _kill)()

    return at


def _kill() -> None:
    os.kill(os.getpid(), signal.SIGKILL)
