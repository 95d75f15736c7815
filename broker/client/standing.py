"""A task that a client has for as long as it is open, also where somebody cancels every task of the event loop."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

RECANCEL_S = 0.1


class StandingTask:
    """Runs while it is wanted. To cancel every task is a usual way to shut down: those who end then still need it."""

    def __init__(self, work: Callable[[], Coroutine[Any, Any, None]], *, name: str, wanted: Callable[[], bool]) -> None:
        self._work, self._name, self._wanted = work, name, wanted
        self._task: asyncio.Task[None] | None = None
        self._over = False

    def begin(self) -> None:
        """Run, unless it does."""
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._work(), name=self._name)
            self._task.add_done_callback(self._go_on)

    async def end(self) -> None:
        """Run no more. Returns as it has ended."""
        self._over = True
        while self._task is not None and not self._task.done():
            self._task.cancel()  # more than once: in Python 3.11 `asyncio.wait_for`, within redis-py, can swallow it
            await asyncio.wait([self._task], timeout=RECANCEL_S)

    def _go_on(self, task: asyncio.Task[None]) -> None:
        if task.cancelled() and not self._over and self._wanted():
            self.begin()


class Ending:
    """Ends something once, in a task of its own: whoever waits for it may be cancelled, and it is done all the same."""

    def __init__(self, end: Callable[[], Coroutine[Any, Any, None]]) -> None:
        self._end = end
        self._task: asyncio.Task[None] | None = None

    async def __call__(self) -> None:
        """Returns as it is done, also where another has begun it."""
        if self._task is None:
            self._task = asyncio.create_task(self._end(), name="broker-close")
        if not self._task.done():
            await asyncio.shield(self._task)
