"""What a runner waits for, in one queue: the command's end, and every cause to stop it."""

import queue
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType
from typing import TypeAlias

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
HEAR_S = 0.5
"""The longest the main thread waits at a stretch. Python runs a signal's handler between two of its own instructions:
one that comes while a wait is about to begin, other threads being busy, does not end it."""


@dataclass(frozen=True, slots=True)
class Exited:
    """The command has ended. A negative status is the signal that ended it."""

    status: int


@dataclass(frozen=True, slots=True)
class Lost:
    """The lease is lost."""

    reason: str


@dataclass(frozen=True, slots=True)
class CancelAsked:
    """The job is to be cancelled."""


@dataclass(frozen=True, slots=True)
class Told:
    """This process was told to stop."""

    signal: signal.Signals


Cause: TypeAlias = Lost | CancelAsked | Told
Event: TypeAlias = Exited | Cause
Events: TypeAlias = "queue.SimpleQueue[Event]"
"""A SimpleQueue, because signal handlers put into it."""


class StoppedEarly(BaseException):
    """This process was told to stop before there was a job. Not an Exception: nothing may handle it on the way."""

    def __init__(self, number: signal.Signals) -> None:
        super().__init__(number.name)
        self.signal = number


def heard_signals() -> tuple[signal.Signals, ...]:
    """The stop signals that are meant for this process: not those it was started to ignore.

    With nohup it is to outlive a hang-up. Behind a script's `&` a Ctrl-C is for the script, which passes on what it
    likes: heard here too, that was a second signal, and ended the grace.
    """
    return tuple(number for number in STOP_SIGNALS if signal.getsignal(number) is not signal.SIG_IGN)


@contextmanager
def stop_signals(events: Events) -> Iterator[threading.Event]:
    """Turn stop signals into events; while the flag given is set, they break off the claim instead."""
    claiming = threading.Event()
    claiming.set()

    def heard(number: int, _frame: FrameType | None) -> None:
        if claiming.is_set():
            claiming.clear()  # a second signal must not break off the clearing up
            raise StoppedEarly(signal.Signals(number))
        events.put(Told(signal.Signals(number)))

    before = {number: signal.signal(number, heard) for number in heard_signals()}
    try:
        yield claiming
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
