"""Looks at the stack of this process, by its CPU time and by the clock, from one signal to the next.

`python -m benchmarks.looks FILE MODULE [ARGUMENT…]` runs a module so. At the first SIGUSR1 its window begins; at the
second it ends, and what was seen is in `FILE.cpu` and `FILE.clock`: a line for each stack, outermost call first, and
how often it was seen, or for how many microseconds: what tools for flame graphs read.
"""

import runpy
import signal
import sys
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from typing import Literal

from benchmarks.stacks import Stack, write

Kind = Literal["cpu", "clock"]
TURN = signal.SIGUSR1
CPU_EVERY_S = 0.001
"""Of CPU time: a process that waits is not looked at. Most kernels look four milliseconds apart at the soonest."""
CLOCK_EVERY_S = 0.002
"""A call into C that takes longer is seen once, as it returns, and counts for all that time: so waits are seen, too."""


class Looks:
    """What was seen of the main thread."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._cpu: Counter[Stack] = Counter()
        self._clock: Counter[Stack] = Counter()
        self._last_ns = 0
        """When it was looked at by the clock last; 0: its window has not begun."""

    def turn(self, _number: int, frame: FrameType | None) -> None:
        """Begin, or end and write what was seen."""
        if self._last_ns == 0:
            self._cpu.clear()
            self._clock.clear()
            self._last_ns = time.perf_counter_ns()
            self._every(CPU_EVERY_S, CLOCK_EVERY_S)
            return
        self.by_clock(signal.SIGALRM, frame)
        self._every(0, 0)
        self._last_ns = 0
        for kind, seen in (("cpu", self._cpu), ("clock", self._clock)):
            unfinished = self._path.with_suffix(".part")
            write(unfinished, seen)
            unfinished.replace(kept(self._path, kind))

    def by_cpu(self, _number: int, frame: FrameType | None) -> None:
        """Look once."""
        self._cpu[_stack(frame)] += 1

    def by_clock(self, _number: int, frame: FrameType | None) -> None:
        """Look once: so it has been since the last look."""
        now_ns = time.perf_counter_ns()
        self._clock[_stack(frame)] += (now_ns - self._last_ns) // 1_000
        self._last_ns = now_ns

    def _every(self, cpu_s: float, clock_s: float) -> None:
        signal.setitimer(signal.ITIMER_PROF, cpu_s, cpu_s)
        signal.setitimer(signal.ITIMER_REAL, clock_s, clock_s)


def looks_argv(path: Path, module: Sequence[str]) -> tuple[str, ...]:
    """The command that runs a module, with its arguments, while it can be looked at."""
    return (sys.executable, "-m", __name__, str(path), *module)


def kept(path: Path, kind: str) -> Path:
    """Where what was seen is."""
    return path.with_name(f"{path.name}.{kind}")


def main() -> None:
    """Run the module that the arguments name."""
    from benchmarks.looks import Looks  # under the name that its own calls are left out by

    looks = Looks(Path(sys.argv[1]))
    signal.signal(signal.SIGPROF, looks.by_cpu)
    signal.signal(signal.SIGALRM, looks.by_clock)
    signal.signal(TURN, looks.turn)
    sys.argv = sys.argv[2:]
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)


def _stack(frame: FrameType | None) -> Stack:
    calls = []
    while frame is not None:
        module = frame.f_globals.get("__name__", "?")
        if module == "runpy":  # the rest is how the module was started
            break
        if module != __name__:  # else one look was interrupted by another
            calls.append(f"{module}:{frame.f_code.co_qualname}")
        frame = frame.f_back
    return tuple(reversed(calls))


if __name__ == "__main__":
    main()
