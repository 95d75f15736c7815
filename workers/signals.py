"""Turns signals into wake-ups of the main thread's own loop, so that nothing runs inside a signal handler."""

import selectors
import signal
import socket
from types import FrameType, TracebackType
from typing import Any


class Signals:
    """While entered, counts SIGTERM and SIGINT, and `wait` ends at once when one of them or SIGCHLD arrives.

    For the main thread only (signal.set_wakeup_fd). The handlers that stood before are put back at the end.
    """

    def __init__(self) -> None:
        self.stops_asked = 0
        self._before: dict[signal.Signals, Any] = {}
        self._receiver, self._sender = socket.socketpair()
        self._selector = selectors.DefaultSelector()

    def __enter__(self) -> "Signals":
        self._receiver.setblocking(False)
        self._sender.setblocking(False)
        self._selector.register(self._receiver, selectors.EVENT_READ)
        # A full pipe means that a wake-up is on its way already.
        self._wakeup_before = signal.set_wakeup_fd(self._sender.fileno(), warn_on_full_buffer=False)
        for number in (signal.SIGTERM, signal.SIGINT):
            self._before[number] = signal.signal(number, self._count_stop)
        self._before[signal.SIGCHLD] = signal.signal(signal.SIGCHLD, self._nothing)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(self._wakeup_before)
        self._selector.close()
        self._receiver.close()
        self._sender.close()

    def wait(self, timeout_ms: float | None) -> None:
        """Pause until a signal arrives, or for `timeout_ms` at most (None: until a signal)."""
        if self._selector.select(None if timeout_ms is None else timeout_ms / 1000):
            self._receiver.recv(4096)

    def _count_stop(self, _: int, __: FrameType | None) -> None:
        self.stops_asked += 1

    def _nothing(self, _: int, __: FrameType | None) -> None:
        """A signal that is ignored wakes nobody: SIGCHLD needs a handler."""
