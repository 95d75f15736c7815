"""A file lock with a queue: SQLite's own waiting polls, so that one busy writer starves the others."""

import fcntl
import os
from threading import Event, Lock, Thread

from datastore.errors import Unavailable


class FileLock:
    """A lock that is held; the end of the block gives it back."""

    __slots__ = ("_descriptor",)

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def __enter__(self) -> None:
        pass

    def __exit__(self, *_: object) -> None:
        # Unlocked before it is closed: a child forked in between may still have the descriptor.
        fcntl.flock(self._descriptor, fcntl.LOCK_UN)
        os.close(self._descriptor)


class FileQueue:
    """The queue for the exclusive lock on a file. For one thread at a time, which has one place in it, however often it
    has given up waiting and comes back.
    """

    def __init__(self, path: str) -> None:
        self._path = path
        self._place: _Place | None = None
        """Where it gave up, and waits on."""
        self._held_still: _Place | None = None

    def take(self, *, timeout_ms: int) -> FileLock:
        """Take the lock, for a block. The kernel frees it when the process dies.

        Raises:
          Unavailable: somebody else held it for `timeout_ms`, or the file can't be opened or locked.
        """
        place = self._place
        if place is None or not place.is_wanted():
            self._place = None
            try:
                # Opened for each use: one kept open would be shared with forked children, and so would the lock.
                descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            except OSError as error:
                raise Unavailable(f"{self._path}: can't open the lock file: {error.strerror}") from error
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return FileLock(descriptor)
            except BlockingIOError:
                place = _Place(descriptor)
            except OSError as error:
                os.close(descriptor)
                raise Unavailable(f"{self._path}: can't be locked: {error.strerror}; is it on a local disk?") from error
        self._place = place  # also while it waits: an interrupt may end that, and a fork is not to take it along
        if place.wait(timeout_ms):
            self._place = None
            return FileLock(place.descriptor)
        raise Unavailable(f"{self._path}: another process has held the write lock for {timeout_ms} ms; is one stopped?")

    def before_fork(self) -> None:
        """Let no place be given back until `after_fork_in_parent`, or for ever in a child."""
        self._held_still = self._place
        if self._held_still is not None:
            self._held_still.turn.acquire()

    def after_fork_in_parent(self) -> None:
        """Let it be given back again."""
        if self._held_still is not None:
            self._held_still.turn.release()
            self._held_still = None

    def after_fork_in_child(self) -> None:
        """Leave the place to the parent, whose thread waits there."""
        if self._held_still is not None and not self._held_still.is_over:
            os.close(self._held_still.descriptor)
        self._place = self._held_still = None


class _Place:
    """Waits in the kernel's queue, which is fair, but bounded, which flock is not: hence on a thread."""

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor
        self.turn = Lock()
        """Held while the rest changes."""
        self.is_over = False
        """The lock came when nobody was there, and was given back: the descriptor is closed, its number another's."""
        self._wanted = True
        self._granted = Event()
        Thread(target=self._block, name="datastore-file-lock", daemon=True).start()

    def is_wanted(self) -> bool:
        """Wait on for somebody who comes back. False: it had its turn, and nobody was there."""
        with self.turn:
            self._wanted = not self.is_over
            return self._wanted

    def wait(self, timeout_ms: int) -> bool:
        """Whether the lock came within the time. Otherwise it is given back as soon as it comes, if nobody is there."""
        try:
            self._granted.wait(timeout_ms / 1_000)
        finally:  # also where a handler of a signal ended the wait
            with self.turn:
                self._wanted = self._granted.is_set()
        return self._wanted

    def _block(self) -> None:
        fcntl.flock(self.descriptor, fcntl.LOCK_EX)
        with self.turn:
            if self._wanted:
                self._granted.set()
                return
            self.is_over = True
            with FileLock(self.descriptor):
                pass
