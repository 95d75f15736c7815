"""An asyncio event loop on the simulated clock of one host: client code runs on it as it is."""

import asyncio
from asyncio import Handle, TimerHandle
from collections import deque
from collections.abc import Callable, Coroutine, Generator
from contextvars import Context
from heapq import heappop, heappush
from typing import Any, TypeVar, TypeVarTuple, Unpack

from tests.simulation.timeline import HostClock, Timeline

T = TypeVar("T")
Ts = TypeVarTuple("Ts")
CANCELS_MAX = 200
"""Rounds of cancelling what a dead process leaves behind; each ends at least one of its awaits."""


class SimulatedLoop(asyncio.AbstractEventLoop):
    """As much of a loop as tasks, futures, events and time-outs need. Turns of it are actions of the timeline."""

    def __init__(self, timeline: Timeline, clock: HostClock, failed: Callable[[BaseException], None]) -> None:
        self.clock = clock
        self.alive = True
        self._timeline = timeline
        self._failed = failed
        self._ready: deque[Handle] = deque()
        self._timers: list[tuple[float, int, TimerHandle]] = []
        self._tasks: dict[asyncio.Task[Any], None] = {}
        self._added = 0
        self._turn_due = False
        self._paused_until_ms = 0.0

    def start(self, main: Coroutine[Any, Any, None]) -> None:
        """Run `main` as a task from now on. An exception that ends it is told to `failed`."""

        def ended(task: asyncio.Task[None]) -> None:
            if not task.cancelled() and (error := task.exception()) is not None:
                self._failed(error)

        self.create_task(main).add_done_callback(ended)

    def pause(self, ms: float) -> None:
        """SIGSTOP, and SIGCONT after `ms`."""
        self._paused_until_ms = max(self._paused_until_ms, self._timeline.now_ms + ms)

    def crash(self) -> None:
        """SIGKILL. What was going on is cancelled until it has ended; nothing of it reaches anybody any more."""
        self.alive = False
        for _ in range(CANCELS_MAX):
            unfinished = [task for task in self._tasks if not task.done()]
            if not unfinished:
                break
            for task in unfinished:
                task.cancel()
            self._run_ready()
        self._ready.clear()
        self._timers.clear()

    def time(self) -> float:
        return self.clock.steady_ms() / 1000

    def get_debug(self) -> bool:
        return False

    def is_running(self) -> bool:
        return True

    def is_closed(self) -> bool:
        return False

    def create_future(self) -> asyncio.Future[Any]:
        return asyncio.Future(loop=self)

    def create_task(
        self,
        coro: Coroutine[Any, Any, T] | Generator[Any, None, T],
        *,
        name: str | None = None,
        context: Context | None = None,
        **_: Any,
    ) -> asyncio.Task[T]:
        task: asyncio.Task[T] = asyncio.Task(coro, loop=self, name=name, context=context)
        self._tasks[task] = None
        task.add_done_callback(lambda done: self._tasks.pop(done, None))
        return task

    def call_soon(self, callback: Callable[[Unpack[Ts]], object], *args: *Ts, context: Context | None = None) -> Handle:
        handle = Handle(callback, args, self, context)
        self._ready.append(handle)
        if not self._turn_due:
            self._turn_due = True
            self._timeline.after(0, self._turn)
        return handle

    def call_later(
        self, delay: float, callback: Callable[[Unpack[Ts]], object], *args: *Ts, context: Context | None = None
    ) -> TimerHandle:
        return self.call_at(self.clock.steady_ms() / 1000 + delay, callback, *args, context=context)

    def call_at(
        self, when: float, callback: Callable[[Unpack[Ts]], object], *args: *Ts, context: Context | None = None
    ) -> TimerHandle:
        handle = TimerHandle(when, callback, args, self, context)
        self._added += 1
        heappush(self._timers, (when, self._added, handle))
        # A millisecond more: this clock shows whole ones, and a timer must not come early.
        left_ms = max(0.0, when * 1000 - self.clock.steady_ms()) + 1
        self._timeline.after(self.clock.lasts_ms(left_ms), self._turn)
        return handle

    def _timer_handle_cancelled(self, handle: TimerHandle) -> None:
        """Its turn comes and finds nothing to do."""

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        error = context.get("exception")
        if self.alive:
            self._failed(error if isinstance(error, BaseException) else RuntimeError(str(context.get("message"))))

    def default_exception_handler(self, context: dict[str, Any]) -> None:
        self.call_exception_handler(context)

    def _turn(self) -> None:
        if not self.alive:
            return
        if self._timeline.now_ms < self._paused_until_ms:
            self._timeline.after(self._paused_until_ms - self._timeline.now_ms, self._turn)
            return
        timers = self._timers
        if timers:
            now = self.time()
            while timers and timers[0][0] <= now:
                handle = heappop(timers)[2]
                if not handle._cancelled:
                    self._ready.append(handle)
        if self._ready:
            self._run_ready()
        else:  # it ran with an earlier turn, or its timer was cancelled
            self._turn_due = False

    def _run_ready(self) -> None:
        self._turn_due = False
        asyncio._set_running_loop(self)
        try:
            ready = self._ready
            while ready:
                handle = ready.popleft()
                if not handle._cancelled:
                    handle._run()
        finally:
            asyncio._set_running_loop(None)
