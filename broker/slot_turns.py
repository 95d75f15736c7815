"""Claims of one batch that need one slot take it one after the other: at once they would fight for its document."""

from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from threading import RLock


class SlotTurns:
    """Locks by key, for the threads of one batch. Other workers are not kept out: conditional writes decide there."""

    def __init__(self) -> None:
        self._locks: dict[str, RLock] = {}
        """A claim that is undone gives its slots back while it has their turns."""

    @contextmanager
    def of(self, keys: Iterable[str]) -> Iterator[None]:
        """Have all these keys within the block. Taken in one order by everybody, so that nobody waits in a circle."""
        with ExitStack() as held:
            for key in sorted(set(keys)):
                held.enter_context(self._locks.setdefault(key, RLock()))
            yield
