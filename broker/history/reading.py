"""Reads histories from files, a few hundred kilobytes at a time, each record with the place where it stands."""

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import msgspec

from broker.history.record import VERSION, Record
from datastore.decoding import UNREADABLE

CHUNK_BYTES = 1 << 18
RECORD_BYTES_MAX = 1 << 20
"""No record is longer: the largest tells of some hundred leases."""

_DECODER = msgspec.json.Decoder(Record)
_BEGINNING = re.compile(rb'(?=\{"type":)')
"""Where the recorder begins a record. Within one, this would have backslashes."""


class NotAHistory(Exception):
    """A line is no record. The message names file and line, and what to do."""


def read(paths: Iterable[Path], *, cut_off: Callable[[str], None] = lambda _: None) -> Iterator[list[Record]]:
    """Every record of the files, and of the `.jsonl` files in folders, a list for each piece that was read.

    A last line that was cut off is left out: its writer was killed, and its call has no answer. So is the beginning of
    one that another client has written on in: `cut_off` is told the place of each of those.

    Raises:
      NotAHistory: a line that is no record, and was not cut off so.
      OSError: a file can't be read.
    """
    for path in paths:
        for file in sorted(path.glob("*.jsonl")) if path.is_dir() else [path]:
            yield from _records(file, cut_off)


def _records(path: Path, cut_off: Callable[[str], None]) -> Iterator[list[Record]]:
    name, number, rest = str(path), 0, b""
    with path.open("rb") as file:
        while chunk := file.read(CHUNK_BYTES):
            whole, newline, rest = (rest + chunk).rpartition(b"\n")
            if not newline:
                if len(rest) > RECORD_BYTES_MAX:
                    raise NotAHistory(f"{name}:{number + 1} is longer than any record; check the file's name")
                continue
            lines: Sequence[int] = range(number + 1, number + 2 + whole.count(b"\n"))
            try:
                records = _DECODER.decode_lines(whole)
            except UNREADABLE:
                records = []
            if len(records) != len(lines):
                records, lines = _line_by_line(name, number, whole, cut_off)
            number += whole.count(b"\n") + 1
            for record, line in zip(records, lines, strict=True):
                record.file, record.line = name, line
                if record.v not in (None, VERSION):
                    raise NotAHistory(f"{record.place} is of version {record.v}; update claim-broker to check it")
            yield records


def _line_by_line(
    name: str, number: int, whole: bytes, cut_off: Callable[[str], None]
) -> tuple[list[Record], list[int]]:
    """The records of the lines after line `number`, and the line of each. Some of these have none, or more than one."""
    records: list[Record] = []
    lines: list[int] = []
    for line, text in enumerate(whole.split(b"\n"), number + 1):
        found = [_record(part) for part in _BEGINNING.split(text) if part.strip()]
        if found and (found[-1] is None or not text.startswith(b"{")):
            raise NotAHistory(f"{name}:{line} is not a record of a history: {_error(text)}; check the file's name")
        if None in found:
            cut_off(f"{name}:{line}")
        whole_ones = [record for record in found if record is not None]
        records += whole_ones
        lines += [line] * len(whole_ones)
    return records, lines


def _record(text: bytes) -> Record | None:
    """None: that is no record, or a part of one."""
    return None if _error(text) else _DECODER.decode(text)


def _error(text: bytes) -> Exception | None:
    try:
        _DECODER.decode(text)
    except UNREADABLE as error:
        return error
    return None
