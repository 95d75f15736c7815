"""Gaps in which racing writers wait for each other, so that a race is lost every time and not now and then."""

import os
import threading
from collections import defaultdict
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import TypeAlias

from broker.clock import sleep_ms

Version: TypeAlias = tuple[str, str, int]
"""(partition key, id, rev) that a writer has read and is about to overwrite; rev 0: it is about to create it."""
Gap: TypeAlias = Callable[[Version], None]

ALONE_MS = 2_000
"""How long a writer that nobody races with is held up."""
_POLL_MS = 2


class ThreadMeeting:
    """Holds the first writer of a version until `parties` are there; once they met, nobody waits again."""

    def __init__(self, *, parties: int = 2, alone_ms: int = ALONE_MS) -> None:
        self._parties = parties
        self._alone_ms = alone_ms
        self._lock = threading.Lock()
        self._arrived: defaultdict[Version, int] = defaultdict(int)
        self._met: defaultdict[Version, threading.Event] = defaultdict(threading.Event)

    def __call__(self, version: Version) -> None:
        with self._lock:
            met = self._met[version]
            self._arrived[version] += 1
            if self._arrived[version] >= self._parties:
                met.set()
        met.wait(self._alone_ms / 1_000)


class FileMeeting:
    """The same between processes (and threads): each writer leaves a file in the version's folder."""

    def __init__(self, folder: str, *, parties: int = 2, alone_ms: int = ALONE_MS) -> None:
        self._folder = Path(folder)
        self._parties = parties
        self._alone_ms = alone_ms

    def __call__(self, version: Version) -> None:
        place = self._folder / sha256(repr(version).encode()).hexdigest()
        place.mkdir(parents=True, exist_ok=True)
        (place / f"{os.getpid()}-{threading.get_ident()}").touch()
        for _ in range(self._alone_ms // _POLL_MS):
            if sum(1 for _ in place.iterdir()) >= self._parties:
                return
            sleep_ms(_POLL_MS)
