"""Lines of a log whose writing neither fails nor waits: what finds no room is left out, and the next line says so."""

import os
import select
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from io import UnsupportedOperation
from threading import RLock
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    from structlog.typing import EventDict, WrappedLogger

LEFT_OUT = "lines_left_out"
"""The field of a line before which others found no room: how many."""
PATIENCE_MS = 200
"""For a reader who is behind. One who has stopped holds up a process once for so long, which is short beside a ttl."""


class Log:
    """Writes lines, and never fails: a log that can't be written must not end what serves.

    `write` is unbuffered: what Python buffers it would keep after a failure, and fail of at its end.
    """

    def __init__(self, write: Callable[[bytes], int]) -> None:
        self._write = write
        self._lock = RLock()  # not a Lock: a handler of signals logs too, in the middle of whatever it interrupts
        self._left_out = 0
        self._rest = b""
        """Of a line that was begun when the room ended: it comes before the next one."""

    @classmethod
    def of(cls, stream: TextIO) -> "Log":
        """Into the file of a stream, or to the stream where somebody has put one without a file in its place."""
        try:
            return cls(Outlet(stream.fileno()).write)
        except UnsupportedOperation:
            return cls(partial(_to_stream, stream))

    def msg(self, text: str) -> None:
        """Write a line. One that finds no room is left out."""
        line = f"{text}\n".encode(errors="backslashreplace")
        with self._lock:
            left = self._rest + line
            with suppress(OSError, ValueError):  # the latter says that a stream is closed
                while left:
                    left = left[self._write(left) :]
            begun = len(left) < len(line)
            self._rest, self._left_out = (left, 0) if begun else (left[: -len(line)], self._left_out + 1)

    debug = info = warning = error = critical = msg

    def tell_of_gap(self, _logger: "WrappedLogger", _method: str, event: "EventDict") -> "EventDict":
        """A processor: the event, and how many before it were left out."""
        return {**event, LEFT_OUT: self._left_out} if self._left_out else event


class Outlet:
    """A file that may be a pipe or a terminal whose reader has stopped: who writes there would stop, too."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._patience_ms = PATIENCE_MS

    def write(self, data: bytes) -> int:
        """How much was written, at the most as much as there is room for where any is left.

        Raises:
          OSError: nothing was, and nothing is within `PATIENCE_MS`; until something is, it is not waited for again.
        """
        room = select.poll()  # a new one each time: a handler of signals may come in the midst of a wait
        room.register(self._descriptor, select.POLLOUT)
        if not room.poll(self._patience_ms):
            self._patience_ms = 0
            raise BlockingIOError
        self._patience_ms = PATIENCE_MS
        return os.write(self._descriptor, data[: select.PIPE_BUF])


def _to_stream(stream: TextIO, line: bytes) -> int:
    stream.write(line.decode())
    return len(line)
