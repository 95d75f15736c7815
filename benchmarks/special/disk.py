"""How long the disk under SQLite takes to make a page durable: the floor of a commit."""

import os
import time
from pathlib import Path

from benchmarks.processes import scratch

WRITES = 100
PAGE = b"\0" * 4096


def measure() -> dict[str, list[float]]:
    """Microseconds of a write of one page and its fsync."""
    took = []
    with scratch() as name:
        descriptor = os.open(Path(name) / "page", os.O_WRONLY | os.O_CREAT, 0o600)
        try:
            for _ in range(WRITES):
                begin = time.perf_counter()
                os.write(descriptor, PAGE)
                os.fsync(descriptor)
                took.append((time.perf_counter() - begin) * 1e6)
        finally:
            os.close(descriptor)
    return {"fsync_us": took}
