"""Following the event stream: where a reader stands in it, and what it asks Redis for next. No connection here."""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import chain
from typing import Any

import msgspec

from broker.client.errors import InvalidRequest
from broker.events import STREAM, Event
from datastore.decoding import UNREADABLE, from_json

NOW = "now"
"""As a cursor: only what happens from now on."""
MISSED = "missed"
"""An event of the reader's own: the stream does not reach back to the cursor any more."""
PAGE_ENTRIES = 256
BLOCK_MS = 4_000
"""How long the server blocks one read; below the time-out of the sockets."""
_CURSOR = re.compile(r"^(?P<ms>\d{1,15})-(?P<seq>\d{1,19})(?:\.(?P<index>\d{1,6}))?$")
_SEQUENCE_MAX = (1 << 64) - 1


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which events a reader wants; None: of any."""

    job_id: str | None = None
    factory_id: str | None = None

    def __contains__(self, event: Event) -> bool:
        """Whether it is one of them. What was missed concerns everybody."""
        if event.event == MISSED:
            return True
        concerned = (event.factory_id, event.by, event.holder)
        return self.job_id in (None, event.job_id) and (self.factory_id is None or self.factory_id in concerned)


class Tail:
    """A place in the stream. An entry holds several events, so a cursor names the entry and the event in it."""

    def __init__(self, since: str | None) -> None:
        """`since`: the cursor of the last event seen; None: from the oldest that is kept.

        Raises:
          InvalidRequest: not a cursor.
        """
        parts = _CURSOR.match(since) if since is not None else None
        if since is not None and parts is None:
            raise InvalidRequest(f"{since!r} is not a cursor; give the `cursor` of an event, or `{NOW}`")
        self._entry = (int(parts["ms"]), int(parts["seq"])) if parts else (0, 0)
        self.resumed = self._entry != (0, 0)
        """Whether something was read before: then it can be missing."""
        index = parts["index"] if parts else None
        self._seen = int(index) + 1 if index is not None else _SEQUENCE_MAX
        """Events of the entry that were seen; a cursor without an index has seen all of them."""
        self._after = self._entry if index is None else _before(self._entry)

    @property
    def streams(self) -> dict[Any, Any]:  # as redis-py types it
        """What to read next, for XREAD."""
        return {STREAM: f"{self._after[0]}-{self._after[1]}"}

    def gap(self, oldest: Any) -> Iterator[Event]:
        """The event that says so where entries after this place may have gone. `oldest`: what XREAD finds first.

        To be asked for with each page: the stream may be trimmed, or lost and begun anew, while somebody follows.
        """
        entries = _entries(oldest)
        first = _id(entries[0][0]) if entries else None
        if self.resumed and (first is None or first > self._entry):
            self.resumed = False  # told; nothing else is missed until something was read
            why = "the stream was trimmed or lost since the cursor; `broker runs JOB_ID` has the record"
            cursor = f"{self._entry[0]}-{self._entry[1]}"
            yield Event(event=MISSED, at_ms=first[0] if first else 0, reason=why, cursor=cursor)

    def feed(self, response: Any) -> Iterator[Event]:
        """The events in an answer to XREAD; afterwards the tail stands behind them."""
        for name, fields in _entries(response):
            entry = _id(name)
            try:
                told = from_json(fields[b"e"], list[Event])
            except (KeyError, *UNREADABLE):
                told = []  # written by something else
            for index, event in enumerate(chain.from_iterable(each.each() for each in told)):
                if entry == self._entry and index < self._seen:
                    continue
                yield msgspec.structs.replace(event, cursor=f"{entry[0]}-{entry[1]}.{index}")
            self._after = self._entry = entry
            self.resumed = True


def _entries(response: Any) -> list[tuple[bytes, dict[bytes, bytes]]]:
    """The entries of the one stream; redis-py answers in the form of the protocol's version."""
    streams: Iterable[Any] = response.values() if isinstance(response, dict) else (each[1] for each in response or ())
    found = [entry for entries in streams for entry in entries]
    return found[0] if found and isinstance(found[0], list) else found


def _id(name: bytes) -> tuple[int, int]:
    ms, _, sequence = name.partition(b"-")
    return int(ms), int(sequence)


def _before(entry: tuple[int, int]) -> tuple[int, int]:
    """The id just below this one: reading after it finds the entry again."""
    ms, sequence = entry
    if sequence:
        return ms, sequence - 1
    return (ms - 1, _SEQUENCE_MAX) if ms else (0, 0)
