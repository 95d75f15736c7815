"""Reads histories while they grow: when jobs were completed, as their factories heard it."""

from bisect import insort
from pathlib import Path

import msgspec

from broker.history import Record


class Tail:
    """Every file of a folder, each from where it was read last."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._read: dict[Path, int] = {}
        self._decoder = msgspec.json.Decoder(Record)
        self.completed_ms: list[int] = []
        """Ascending; the machine's steady clock."""

    def follow(self) -> list[int]:
        """Read what is new; all completions so far."""
        for path in self._folder.glob("*.jsonl"):
            with path.open("rb") as file:
                file.seek(self._read.get(path, 0))
                new = file.read()
            whole = new[: new.rfind(b"\n") + 1]
            self._read[path] = self._read.get(path, 0) + len(whole)
            for line in whole.splitlines():
                if b'"ok"' in line and b'"complete"' in line:
                    record = self._decoder.decode(line)
                    if record.type == "ok" and record.op == "complete":
                        insort(self.completed_ms, record.at // 1_000_000)
        return self.completed_ms
