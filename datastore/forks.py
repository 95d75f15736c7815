"""What has to know of a fork: called around each, and not kept alive by it."""

import os
from itertools import count
from threading import RLock
from typing import Final, Protocol
from weakref import WeakValueDictionary


class Forked(Protocol):
    """Holds still from `before_fork` on, so that a child finds nothing half done by a thread that it does not have."""

    def before_fork(self) -> None:
        """Wait for what is under way; begin nothing."""

    def after_fork_in_parent(self) -> None:
        """Go on."""

    def after_fork_in_child(self) -> None:
        """Begin anew, whatever a thread of the parent holds."""


class _Forks:
    def __init__(self) -> None:
        self._known: Final[WeakValueDictionary[int, Forked]] = WeakValueDictionary()
        self._numbers: Final = count()
        self._gate = RLock()
        """Held across a fork: what comes to be meanwhile would not hold still."""
        self._still: list[Forked] = []
        os.register_at_fork(before=self._before, after_in_parent=self._in_parent, after_in_child=self._in_child)

    def add(self, forked: Forked) -> None:
        with self._gate:
            self._known[next(self._numbers)] = forked

    def _before(self) -> None:
        self._gate.acquire()
        for reference in self._known.valuerefs():
            forked = reference()
            if forked is not None:
                self._still.append(forked)
                forked.before_fork()

    def _in_parent(self) -> None:
        for forked in self._still:
            forked.after_fork_in_parent()
        self._still = []
        self._gate.release()

    def _in_child(self) -> None:
        for forked in self._still:
            forked.after_fork_in_child()
        self._still = []
        self._gate = RLock()


_FORKS: Final = _Forks()


def tell_of_forks(forked: Forked) -> None:
    """Call it around each fork, as long as it lives."""
    _FORKS.add(forked)
