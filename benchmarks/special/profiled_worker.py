"""A broker worker whose stack is looked at from SIGUSR1 on; what was seen is in a file as it ends.

The file has a line for each stack, outermost call first, and how often it was seen: what tools for flame graphs read.
"""

import os
import signal
import sys
from collections import Counter
from pathlib import Path
from types import FrameType

from benchmarks.stacks import Stack, write
from broker.settings import load
from workers.runtime import run_worker

FILE = "BENCH_STACKS"
EVERY_S = 0.001
"""Of CPU time: a worker that waits is not looked at. Most kernels look four milliseconds apart at the soonest."""


def main() -> int:
    """Serve until SIGTERM, as `broker worker` does."""
    seen: Counter[Stack] = Counter()
    signal.signal(signal.SIGPROF, lambda _, frame: seen.update((_stack(frame),)))
    signal.signal(signal.SIGUSR1, lambda *_: signal.setitimer(signal.ITIMER_PROF, EVERY_S, EVERY_S))
    try:
        return run_worker(load())
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        write(Path(os.environ[FILE]), seen)


def _stack(frame: FrameType | None) -> Stack:
    calls = []
    while frame is not None:
        calls.append(f"{frame.f_globals.get('__name__', '?')}:{frame.f_code.co_qualname}")
        frame = frame.f_back
    return tuple(reversed(calls))


if __name__ == "__main__":
    sys.exit(main())
