"""How long the disk under SQLite takes to make a page durable: the floor of a commit."""

import os
import time
from pathlib import Path

from benchmarks.processes import scratch

WRITES = 100
BESIDE = 20
"""Writes beside a window of a row: a look of some milliseconds."""
PAGE = b"\0" * 4096


def measure() -> dict[str, list[float]]:
    """Microseconds of a write of one page and its fsync."""
    with scratch() as name:
        return {"fsync_us": fsyncs_us(Path(name), WRITES)}


def fsyncs_us(folder: Path, writes: int) -> list[float]:
    """The same, on the disk of this folder."""
    took = []
    descriptor = os.open(folder / "page", os.O_WRONLY | os.O_CREAT, 0o600)
    try:
        for _ in range(writes):
            begin = time.perf_counter()
            os.write(descriptor, PAGE)
            os.fsync(descriptor)
            took.append((time.perf_counter() - begin) * 1e6)
    finally:
        os.close(descriptor)
    return took
