"""Ctrl-C at a moment of the test's choice."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from tests.processes import wait_for


@contextmanager
def interrupted(once: Callable[[], bool]) -> Iterator[None]:
    """Raise KeyboardInterrupt in the block, in the main thread, as soon as `once` says so."""
    main = threading.main_thread().ident
    assert main is not None

    def interrupt() -> None:
        wait_for(once, "the moment to interrupt has come")
        signal.pthread_kill(main, signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    thread.start()
    try:
        yield
    finally:
        thread.join()
