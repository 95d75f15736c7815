"""Loading modules is most of a process's start: what may interrupt it there, and what it must not do."""

import gc
import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

INTERRUPTED_EXIT = 130
"""As of `broker.cli.exits`, which is not loaded yet when it is needed."""


@contextmanager
def loading() -> Iterator[None]:
    """Imports in the block are not interrupted by collections, nor is what they made looked at afterwards: it stays.

    The collector took a tenth of a start, and finds nothing there.
    """
    collecting = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        if collecting:
            gc.enable()


@contextmanager
def without(package: str) -> Iterator[None]:
    """Imports in the block don't find `package`, unless it is loaded: for a library that can do without."""
    if package in sys.modules:
        yield
        return
    sys.modules[package] = None  # type: ignore[assignment]  # what tells the import system that there is none
    try:
        yield
    finally:
        del sys.modules[package]


@contextmanager
def quiet_interrupts() -> Iterator[None]:
    """Ctrl-C in the midst of an import ends this process; elsewhere it is a KeyboardInterrupt, as ever.

    A module that is half loaded has done nothing that is to be undone. An exception there shows a traceback through
    the libraries, or is lost: pydantic-core prints it and goes on, so that an agent went on too.
    """
    before = signal.getsignal(signal.SIGINT)
    if before is not signal.default_int_handler or threading.current_thread() is not threading.main_thread():
        yield  # somebody else has a use for it, or nobody (a shell's background job ignores it)
        return
    signal.signal(signal.SIGINT, _interrupted)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _interrupted(_: int, frame: FrameType | None) -> None:
    while frame is not None:
        if frame.f_globals.get("__name__") == "importlib._bootstrap":
            os._exit(INTERRUPTED_EXIT)
        frame = frame.f_back
    raise KeyboardInterrupt
