"""Ids of the operating system's randomness, drawn many at a time: a system call for each took longer than its use."""

import os
import weakref
from typing import Final

ID_BYTES: Final = 8
_DRAWN: Final = 128
"""Ids from one call."""


class Ids:
    """Sixteen hex digits each. Safe under threads; no id is given out twice, on neither side of a fork."""

    def __init__(self) -> None:
        self._ids: list[str] = []
        kept = weakref.ref(self)  # what is registered for forks is registered for ever
        os.register_at_fork(after_in_child=lambda: _forget(kept()))

    def __call__(self) -> str:
        while True:
            try:
                return self._ids.pop()
            except IndexError:  # none is left; two threads that both draw more draw different ones
                digits = os.urandom(ID_BYTES * _DRAWN).hex()
                self._ids += [digits[at : at + 2 * ID_BYTES] for at in range(0, len(digits), 2 * ID_BYTES)]


def _forget(ids: Ids | None) -> None:
    if ids is not None:
        ids._ids.clear()
