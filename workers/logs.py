"""Logs of the broker's processes: one event a line, constant names with fields, never a token."""

import logging
import os
import sys
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from io import UnsupportedOperation
from threading import RLock
from typing import TextIO

import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

LEFT_OUT = "lines_left_out"
"""The field of a line before which others found no room: how many."""


class Log:
    """Writes lines, and never fails: a log that can't be written must not end what serves.

    `write` is `os.write` with a file: what Python buffers it would keep after a failure, and fail of at its end.
    """

    def __init__(self, write: Callable[[bytes], int]) -> None:
        self._write = write
        self._lock = RLock()  # not a Lock: a handler of signals logs too, in the middle of whatever it interrupts
        self._left_out = 0
        self._rest = b""
        """Of a line that was begun when the room ended: it comes before the next one."""

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

    def tell_of_gap(self, _logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
        """A processor: the event, and how many before it were left out."""
        return {**event, LEFT_OUT: self._left_out} if self._left_out else event


def _writer(stream: TextIO) -> Callable[[bytes], int]:
    """Writes to the file of a stream, or to the stream where somebody has put one without a file in its place."""

    def to_stream(line: bytes) -> int:
        stream.write(line.decode())
        return len(line)

    try:
        return partial(os.write, stream.fileno())
    except UnsupportedOperation:
        return to_stream


def configure_logging(level: str) -> None:
    """Send events of `level` and above to standard error: readable on a terminal, JSON otherwise."""
    log = Log(_writer(sys.stderr))
    render: Processor = structlog.dev.ConsoleRenderer() if sys.stderr.isatty() else structlog.processors.JSONRenderer()
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            log.tell_of_gap,
            render,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelNamesMapping()[level.upper()]),
        logger_factory=lambda *_: log,
        cache_logger_on_first_use=True,
    )
