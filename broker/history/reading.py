"""Reads histories from files, a few hundred kilobytes at a time, each record with the place where it stands."""

from collections.abc import Iterable, Iterator
from pathlib import Path

import msgspec

from broker.history.record import VERSION, Record
from datastore.decoding import UNREADABLE

CHUNK_BYTES = 1 << 18

_DECODER = msgspec.json.Decoder(Record)


class NotAHistory(Exception):
    """A line is no record. The message names file and line, and what to do."""


def read(paths: Iterable[Path]) -> Iterator[list[Record]]:
    """Every record of the files, and of the `.jsonl` files in folders, a list for each piece that was read.

    A last line that was cut off is left out: its writer was killed, and its call has no answer.

    Raises:
      NotAHistory: a line that is no record, and not a file's last.
      OSError: a file can't be read.
    """
    for path in paths:
        for file in sorted(path.glob("*.jsonl")) if path.is_dir() else [path]:
            yield from _records(file)


def _records(path: Path) -> Iterator[list[Record]]:
    name, number, rest = str(path), 0, b""
    with path.open("rb") as file:
        while chunk := file.read(CHUNK_BYTES):
            whole, newline, rest = (rest + chunk).rpartition(b"\n")
            if not newline:
                continue
            try:
                records = _DECODER.decode_lines(whole)
            except UNREADABLE:
                raise _broken(name, number, whole) from None
            for record in records:
                number += 1
                record.file, record.line = name, number
                if record.v not in (None, VERSION):
                    raise NotAHistory(f"{record.place} is of version {record.v}; update claim-broker to check it")
            yield records


def _broken(name: str, number: int, lines: bytes) -> NotAHistory:
    for line in lines.split(b"\n"):
        number += 1
        try:
            _DECODER.decode(line)
        except UNREADABLE as error:
            return NotAHistory(f"{name}:{number} is not a record of a history: {error}; check the file's name")
    return NotAHistory(f"{name} is not a history after line {number}; check the file's name")
