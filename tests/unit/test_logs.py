"""Logs: whole lines, in order, and nothing that ends what writes them."""

import os
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from errno import ENOSPC
from io import StringIO
from types import FrameType
from typing import BinaryIO

import pytest
from structlog.testing import CapturingLogger

from broker import log_lines
from broker.log_lines import LEFT_OUT, Log, Outlet

SOON_S = 20
"""When a write that waits for ever is interrupted."""


class Disk:
    """A file that can be written to as far as there is room."""

    def __init__(self, room: int = 1_000) -> None:
        self.room = room
        self.content = b""

    def write(self, data: bytes) -> int:
        if self.room <= 0:
            raise OSError(ENOSPC, "No space left on device")
        written = data[: self.room]
        self.content += written
        self.room -= len(written)
        return len(written)


def gap(log: Log) -> object:
    """What the next line says of those before it."""
    return log.tell_of_gap(CapturingLogger(), "info", {"event": "e"}).get(LEFT_OUT)


def test_a_line_for_which_there_is_no_room_is_left_out_and_the_next_says_so() -> None:
    disk = Disk(room=0)
    log = Log(disk.write)
    log.msg("one")
    log.msg("two")
    disk.room = 1_000
    assert gap(log) == 2
    log.msg("three")
    assert gap(log) is None
    log.msg("four")
    assert disk.content == b"three\nfour\n"


def test_a_line_that_was_begun_as_the_room_ended_is_finished_before_the_next() -> None:
    disk = Disk(room=5)
    log = Log(disk.write)
    log.msg("one")
    log.msg("two")
    assert gap(log) is None, "it is not left out"
    log.msg("three")
    disk.room = 1
    log.msg("four")
    assert gap(log) == 2
    disk.room = 1_000
    log.msg("five")
    assert disk.content == b"one\ntwo\nfive\n"


def test_what_has_no_character_set_is_escaped() -> None:
    disk = Disk()
    Log(disk.write).msg("name \udcff")
    assert disk.content == b"name \\udcff\n"


def test_where_standard_error_is_no_file_lines_go_to_what_stands_in_for_it() -> None:
    stream = StringIO()
    log = Log.of(stream)
    log.msg("one")
    assert stream.getvalue() == "one\n"
    stream.close()
    log.msg("two")


class Pipe:
    """A pipe whose reader has stopped, until it reads."""

    def __init__(self, reading: BinaryIO, writing: BinaryIO) -> None:
        self.writing = writing
        self._reading = reading

    def fill(self) -> None:
        """Until nothing goes in any more."""
        descriptor = self.writing.fileno()
        os.set_blocking(descriptor, False)
        with suppress(BlockingIOError):
            while True:
                os.write(descriptor, b"x")
        os.set_blocking(descriptor, True)

    def read(self) -> bytes:
        """What has come through, and what filled it."""
        os.set_blocking(self._reading.fileno(), False)
        found = b""
        while part := self._reading.read():
            found += part
        return found

    def read_lines(self, count: int) -> list[str]:
        """So many, as they come."""
        with open(os.dup(self._reading.fileno()), encoding="utf-8") as lines:
            return [line.rstrip() for _, line in zip(range(count), lines, strict=False)]


class HeldUp(Exception):
    """A write that waits for the reader, who does not come."""


def held_up(_signal: int, _frame: FrameType | None) -> None:
    raise HeldUp


@pytest.fixture
def pipe() -> Iterator[Pipe]:
    before = signal.signal(signal.SIGALRM, held_up)
    signal.setitimer(signal.ITIMER_REAL, SOON_S)
    reading, writing = os.pipe()
    with open(reading, "rb", buffering=0) as source, open(writing, "wb", buffering=0) as sink:
        yield Pipe(source, sink)
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, before)


def test_a_reader_that_has_stopped_holds_up_nobody_and_is_told_what_it_has_missed(pipe: Pipe) -> None:
    log = Log(Outlet(pipe.writing.fileno()).write)
    log.msg("one")
    pipe.fill()
    for _ in range(1_000):
        log.msg("missed")
    assert gap(log) == 1_000
    assert pipe.read().startswith(b"one\n")
    log.msg("two")
    assert gap(log) is None
    assert pipe.read() == b"two\n"


def test_a_log_that_did_not_look_whether_there_is_room_would_wait_for_ever(pipe: Pipe) -> None:
    # The twin of the test above.
    pipe.fill()
    signal.setitimer(signal.ITIMER_REAL, 0.2)
    with pytest.raises(HeldUp):
        Log(lambda line: os.write(pipe.writing.fileno(), line)).msg("one")


def test_a_reader_that_is_only_behind_misses_nothing(pipe: Pipe, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log_lines, "PATIENCE_MS", SOON_S * 1_000)
    log = Log(Outlet(pipe.writing.fileno()).write)
    lines = [f"{number} {'.' * 10_000}" for number in range(200)]
    with ThreadPoolExecutor(1) as pool:
        read = pool.submit(pipe.read_lines, len(lines))
        for line in lines:
            log.msg(line)
        assert read.result() == lines
