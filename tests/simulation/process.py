"""Processes that block, as greenlets: each step of their input and output is a place where others come in between."""

from collections.abc import Callable
from functools import partial
from typing import Any

from greenlet import greenlet

from tests.simulation.timeline import HostClock, Timeline


class Crashed(BaseException):
    """SIGKILL. Whatever unwinds after it can't reach anything any more."""


class Process:
    """Production code that runs until it waits; then the timeline goes on, and maybe this process never does."""

    def __init__(self, name: str, timeline: Timeline, clock: HostClock, died: Callable[[str, BaseException], None]):
        self.name = name
        self.clock = clock
        self.alive = True
        self._timeline = timeline
        self._died = died
        self._paused_until_ms = 0.0
        self._waits = 0
        self._greenlet: greenlet | None = None
        self._hub: greenlet | None = None
        """Where the timeline runs."""

    def start(self, main: Callable[[], Any]) -> None:
        """Run `main` from now on. An exception that ends it is told to `died`."""

        def run() -> None:
            try:
                main()
            except Crashed:
                pass
            except Exception as error:
                self._died(self.name, error)
            self.alive = False

        self._greenlet = greenlet(run)
        self._hub = self._greenlet.parent
        self._resume_after(0)

    def wait(self, ms: float) -> None:
        """Let `ms` milliseconds pass, or less where `wake` is called. Called by the code that runs in this process."""
        if not self.alive:
            raise Crashed  # it only unwinds
        self._waits = waits = self._waits + 1
        if not self._timeline.slept(ms, self._resume, waits):
            assert self._hub is not None, "only a started process waits"
            self._hub.switch()

    def wake(self) -> None:
        """Go on now with what waits."""
        self._resume_after(0)

    def pause(self, ms: float) -> None:
        """SIGSTOP, and SIGCONT after `ms`."""
        self._paused_until_ms = max(self._paused_until_ms, self._timeline.now_ms + ms)

    @property
    def paused(self) -> bool:
        """Whether it stands still now."""
        return self._timeline.now_ms < self._paused_until_ms

    def crash(self) -> None:
        """SIGKILL, at whatever step it is."""
        self.alive = False
        if self._greenlet is not None and not self._greenlet.dead:
            self._greenlet.throw(Crashed)

    def _resume_after(self, ms: float) -> None:
        self._timeline.after(ms, partial(self._resume, self._waits))

    def _resume(self, waits: int) -> None:
        if waits != self._waits or not self.alive:
            return
        paused_ms = self._paused_until_ms - self._timeline.now_ms
        if paused_ms > 0:
            self._resume_after(paused_ms)
            return
        assert self._greenlet is not None, "a process is resumed once it is started"
        self._waits += 1
        self._greenlet.switch()
