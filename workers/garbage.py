"""When a worker looks for cyclic garbage: between two batches, and among what is young.

Python's own collector would look at all that a memory store holds, again and again, while those who renew wait: for a
third of a second at 120,000 jobs, and longer with more. Requests leave no cycles; failures do, and are found here.
"""

import gc
from typing import Self

YOUNG_MAX = 50_000
"""Containers made since the last look, less those that are gone: more than many batches leave behind, where the store
is not in this memory. Some 30 ms to look at."""


class Garbage:
    """Stands in for the automatic collections of this process, within a `with` block."""

    def __enter__(self) -> Self:
        """What is loaded by now stays, and is not looked at. No collection goes before: it finds next to nothing, and
        took a tenth of the time from the start to the first claim.
        """
        gc.disable()
        gc.freeze()
        return self

    def __exit__(self, *_: object) -> None:
        gc.unfreeze()
        gc.enable()

    def after_batch(self) -> None:
        """Look at what is young, if that is enough. What is still in use then will be for long, and is left alone."""
        if gc.get_count()[0] > YOUNG_MAX:
            gc.collect(0)
            gc.freeze()
