"""Logs: whole lines, in order, and nothing that ends what writes them."""

from errno import ENOSPC
from io import StringIO

from structlog.testing import CapturingLogger

from workers.logs import LEFT_OUT, Log, _writer


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
    log = Log(_writer(stream))
    log.msg("one")
    assert stream.getvalue() == "one\n"
    stream.close()
    log.msg("two")
