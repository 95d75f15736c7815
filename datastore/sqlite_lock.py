"""A file lock with a queue: SQLite's own waiting polls, so that one busy writer starves the others."""

import fcntl
import os
from threading import Event, Lock, Thread

from datastore.errors import Unavailable


def file_lock(path: str, *, timeout_ms: int) -> "FileLock":
    """Take the exclusive lock on `path`, for the block. The kernel frees it when the process dies.

    Raises:
      Unavailable: somebody else held it for `timeout_ms`, or the file can't be opened.
    """
    try:
        # Opened for each use: a descriptor kept open would be shared with forked children, and so would the lock.
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise Unavailable(f"{path}: can't open the lock file: {error.strerror}") from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        _wait(descriptor, path, timeout_ms)
    return FileLock(descriptor)


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


def _wait(descriptor: int, path: str, timeout_ms: int) -> None:
    """Wait in the kernel's queue, which is fair, but bounded, which flock is not: hence on a thread."""
    settled = Lock()  # taken once, by whoever comes first: the thread with the lock, or the time-out
    granted = Event()

    def block() -> None:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        if settled.acquire(blocking=False):
            granted.set()
        else:
            os.close(descriptor)  # nobody waits any more; closing gives the lock back

    Thread(target=block, name="datastore-file-lock", daemon=True).start()
    if granted.wait(timeout_ms / 1_000):
        return
    if settled.acquire(blocking=False):
        raise Unavailable(f"{path}: another process has held the write lock for {timeout_ms} ms; is one stopped?")
    granted.wait()
