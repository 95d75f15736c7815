"""Loading modules is most of a process's start, and a tenth of that was the collector, which finds nothing there."""

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def loading() -> Iterator[None]:
    """Imports in the block are not interrupted by collections, nor is what they made looked at afterwards: it stays."""
    collecting = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        if collecting:
            gc.enable()
