"""The lists of what a worker has in hand, by name.

A batch has a list of its own on each wire, a slot, so that its end is one DEL; a request that was moved by a blocked
wait stands in the list without a slot until the call behind that wait puts it into one.

They are named after the worker's session, which lasts until a connection fails: Redis may not have heard of that, and
goes on with what was sent before. What a wait brings then stands in lists that this worker fills no more, and ends no
more; all who look after dead workers see in the session one of them.
"""

from typing import TypeAlias

from broker.queues import QUEUES, Wire

Slots: TypeAlias = tuple[int, int]
"""Two slots that are filled in turn."""

PREFIX = "broker:inflight:"
WIRES: tuple[Wire, ...] = ("rq", "intake")
WAITS = 2 * len(QUEUES)
"""Blocked waits of a worker, one for each list."""
TAKEN_OVER = 0
"""The slot of what was left behind, and of what is turned away: settled before anything else is put into it."""
ASKED: Slots = (1, 2)
"""The slots of batches that a worker asks for: one is filled while the other is settled."""
WOKEN: tuple[Slots, ...] = tuple((3 + 2 * wait, 4 + 2 * wait) for wait in range(WAITS))
"""The slots of the batches that follow a blocked wait, in turn: one is filled before the other's end is known."""
SLOTS = 3 + 2 * WAITS
_SESSION = "~"
"""In no name of a worker's."""


def session_name(worker: str, number: int) -> str:
    """The name under which a worker keeps its lists, and is heard of, from its `number`-th coming to Redis on."""
    return f"{worker}{_SESSION}{number}"


def worker_of(session: str) -> str:
    """Whose session that is."""
    return session.partition(_SESSION)[0]


def arrivals_key(session: str, wire: Wire) -> str:
    """Requests moved by a blocked wait, and not yet in a batch."""
    return f"{PREFIX}{session}:{wire}"


def slot_key(session: str, wire: Wire, slot: int) -> str:
    """The requests of one batch."""
    return f"{PREFIX}{session}:{wire}{slot}"


def lists(session: str) -> list[str]:
    """Every list of a session, rq's and the intake's in turn."""
    found = [arrivals_key(session, wire) for wire in WIRES]
    return found + [slot_key(session, wire, slot) for slot in range(SLOTS) for wire in WIRES]
