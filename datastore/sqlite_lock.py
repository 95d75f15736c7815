"""A file lock with a queue: SQLite's own waiting polls, so that one busy writer starves the others."""

import fcntl
import os
from io import FileIO
from threading import Event, Lock, Thread

from datastore.errors import Unavailable
from datastore.sqlite_disk import way_out


def give_back(held: FileIO) -> None:
    """Let others have the lock."""
    # Unlocked before it is closed: a child forked in between may still have the descriptor.
    fcntl.flock(held, fcntl.LOCK_UN)
    held.close()


class FileQueue:
    """The queue for the exclusive lock on a file. For one thread at a time, which has one place in it, however often it
    has given up waiting and comes back.
    """

    def __init__(self, path: str) -> None:
        self._path = path
        self._place: _Place | None = None
        """Where it gave up, and waits on."""
        self._held_still: _Place | None = None

    def take(self, *, timeout_ms: int) -> FileIO:
        """Take the lock, which is held until the file is closed, or nobody has it any more: what interrupts a thread
        may leave it nowhere else. The kernel frees it when the process dies.

        Raises:
          Unavailable: somebody else held it for `timeout_ms`, or the file can't be opened or locked.
        """
        place = self._place
        if place is None or not place.is_wanted():
            self._place = None
            held = self._open()
            try:
                fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return held
            except BlockingIOError:
                place = _Place(held)
            except OSError as error:
                held.close()
                raise Unavailable(f"{self._path}: can't be locked: {error.strerror}; is it on a local disk?") from error
            except BaseException:  # a handler of a signal ends it
                held.close()
                raise
        self._place = place  # also while it waits: a fork is not to take it along
        came = False
        try:
            came = place.granted.wait(timeout_ms / 1_000)
        finally:  # also where a handler of a signal ended the wait
            if not came:
                place.leave()
        if came:
            self._place = None
            return place.held
        raise Unavailable(f"{self._path}: another process has held the write lock for {timeout_ms} ms; is one stopped?")

    def _open(self) -> FileIO:
        # Opened for each use: one kept open would be shared with forked children, and so would the lock.
        try:
            try:
                return FileIO(self._path, "r+")
            except FileNotFoundError:  # which is made for this user alone, as `FileIO` would not
                os.close(os.open(self._path, os.O_CREAT, 0o600))
                return FileIO(self._path, "r+")
        except OSError as error:
            raise Unavailable(
                f"{self._path}: can't open the lock file: {error.strerror}{way_out(self._path, error)}"
            ) from error

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
        if self._held_still is not None:
            self._held_still.held.close()
        self._place = self._held_still = None


class _Place:
    """Waits in the kernel's queue, which is fair, but bounded, which flock is not: hence on a thread."""

    def __init__(self, held: FileIO) -> None:
        self.held = held
        """Closed once the lock came when nobody was there, and was given back."""
        self.granted = Event()
        self.turn = Lock()
        """Held while the rest changes."""
        self._wanted = True
        Thread(target=self._block, name="datastore-file-lock", daemon=True).start()

    def is_wanted(self) -> bool:
        """Wait on for somebody who comes back. False: it had its turn, and nobody was there."""
        with self.turn:
            self._wanted = not self.held.closed
            return self._wanted

    def leave(self) -> None:
        """Nobody waits any more: the lock is given back as soon as it comes, or now if it just came."""
        with self.turn:
            self._wanted = False
            if self.granted.is_set():
                give_back(self.held)

    def _block(self) -> None:
        fcntl.flock(self.held, fcntl.LOCK_EX)
        with self.turn:
            if self._wanted:
                self.granted.set()
            else:
                give_back(self.held)
