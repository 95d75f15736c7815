"""Sweeps the memory store of a worker, which no other process can reach, beside its serving."""

import sys
from typing import Self

from workers.beside import Beside
from workers.runtime import Runtime
from workers.sweep import Sweep

SWITCH_S = 0.001
"""How long a request waits for its turn while a sweep is at work; Python's 5 ms are longer than settling takes."""


class OwnSweep(Beside):
    """A thread of its own: a sweep of many jobs takes long, and must not hold up renewals."""

    def __init__(self, runtime: Runtime) -> None:
        super().__init__("sweep")
        self._clock = runtime.clock
        self._sweep = Sweep(runtime.context, runtime.connection, runtime.settings, at=runtime.at)

    def __enter__(self) -> Self:
        sys.setswitchinterval(SWITCH_S)
        return super().__enter__()

    def _run(self) -> None:
        self._sweep.go_on(lambda: self._sweep.pass_over(self._clock.now_ms()), stop=self._stop)
