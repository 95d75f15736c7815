"""One process's connections to a SQLite file, and the transaction its threads take turns in."""

import os
import sqlite3
from collections.abc import Callable, Generator, Sequence
from contextlib import ExitStack
from threading import RLock, get_ident
from typing import Any, Concatenate, ParamSpec, TypeVar

from datastore.errors import DatastoreError, OutcomeUnknown, Unavailable
from datastore.forks import tell_of_forks
from datastore.interface import Document
from datastore.sqlite_disk import way_out
from datastore.sqlite_fields import index, lacks_columns
from datastore.sqlite_file import (
    Files,
    fetch,
    is_damage,
    is_no_json,
    leave_to_parent,
    lock_path,
    look_at,
    open_connection,
    prepare,
    roll_back,
    standing,
    transaction,
    translate,
    translated,
)
from datastore.sqlite_lock import FileQueue, give_back

P = ParamSpec("P")
T = TypeVar("T")


class Batch:
    """One open transaction. An error of SQLite's in it spoils it: it may have rolled back everything before."""

    def __init__(self, connection: sqlite3.Connection, path: str) -> None:
        self.documents: dict[tuple[str, str], Document | None] = {}
        """What was read or written in this transaction, by (partition key, id); None: there is none."""
        self.owner = get_ident()
        self.is_of_one_write = False
        """Nobody's block, but begun and ended by `Session.write`."""
        self.connection = connection
        self._path = path
        self._failure: Exception | None = None

    def write(self, sql: str, parameters: Sequence[Any]) -> None:
        """Run a statement that must change one row.

        Raises:
          NotApplied: it failed, or did not find the row this transaction has read; the batch is spoilt.
        """
        if self._run(sql, parameters).rowcount != 1:
            self._spoil()

    def write_each(self, sql: str, rows: Sequence[Sequence[Any]]) -> None:
        """Run a statement for each of `rows`, which must change one row each time. Raises as `write`."""
        if rows and self._run(sql, rows, many=True).rowcount != len(rows):
            self._spoil()

    def insert(self, sql: str, parameters: Sequence[Any]) -> bool:
        """Run a statement that adds a row unless there is one; whether it was added. Raises as `write`."""
        return self._run(sql, parameters).rowcount == 1

    def select(self, sql: str, parameters: Sequence[Any]) -> list[Any]:
        """All rows, as this transaction sees them. Raises as `translate` has it."""
        self.check()
        try:
            return fetch(self.connection, sql, parameters)
        except (sqlite3.Error, UnicodeEncodeError) as error:
            raise self._failed(error) from error

    def check(self) -> None:
        """Refuse to go on after a failure.

        Raises:
          Unavailable: a statement failed before; nothing of the batch will be written.
          Corrupt: so did one that met damage. Not even a read of it leaves a transaction that could be committed.
        """
        if self._failure is None:
            return
        if is_damage(self._failure):
            raise translate(self._path, self._failure) from self._failure
        told = f"{self._path}: nothing of this batch was written: {self._failure}"
        raise Unavailable(told + way_out(self._path, self._failure)) from self._failure

    def _spoil(self) -> None:
        self._failure = sqlite3.IntegrityError("a row changed under the write lock; is the file on a network disk?")
        self.check()

    def _run(self, sql: str, parameters: Sequence[Any], *, many: bool = False) -> sqlite3.Cursor:
        self.check()
        try:
            return (self.connection.executemany if many else self.connection.execute)(sql, parameters)
        except (sqlite3.Error, UnicodeEncodeError) as error:
            raise self._failed(error) from error

    def _failed(self, error: Exception) -> DatastoreError:
        # The batch may go on where SQLite never saw a text, or has met one in a search that it can't read.
        if not isinstance(error, UnicodeEncodeError) and not is_no_json(error):
            self._failure = error
        return translate(self._path, error)


class Session:
    """A writer and a reader, each for one thread at a time, opened when first used and again after a fork."""

    def __init__(self, path: str, *, name: str, indexes: Sequence[str], timeout_ms: int) -> None:
        """`name`: what the file is known by here, which leads to `path` through links, if there are any."""
        self._path = path
        self._name = name
        self._indexes = indexes
        self._timeout_ms = timeout_ms
        self._queue = FileQueue(lock_path(path))
        self._batch: Batch | None = None
        self._writer: sqlite3.Connection | None = None
        self._reader: sqlite3.Connection | None = None
        self._files: dict[sqlite3.Connection, Files] = {}
        """Which each connection has open."""
        self._locked: list[RLock] = []
        self._closed = False
        self._write_lock = RLock()
        self._read_lock = RLock()
        tell_of_forks(self)

    def prepare(self, *, create: bool) -> None:
        """See `sqlite_file.prepare`. In a turn to write, for which forks wait."""
        look_at(self._path, indexes=self._indexes, create=create)
        turns = self._turns()
        try:
            for _ in turns:
                prepare(
                    self._path, indexes=self._indexes, timeout_ms=self._timeout_ms, create=create, opened=self._files
                )
        finally:
            turns.close()

    def own_batch(self) -> Batch | None:
        """The batch that this thread has open."""
        batch = self._batch
        return batch if batch is not None and batch.owner == get_ident() else None

    def select(self, sql: str, parameters: Sequence[Any]) -> list[Any]:
        """All rows, as the batch of this thread sees them, else as they were committed. Raises as `translate` has it.

        Raises:
          Unavailable: this thread is about to read already, and a handler of a signal has interrupted it.
        """
        batch = self.own_batch()
        if batch is not None:
            return batch.select(sql, parameters)
        turn = self._read_lock
        self._check_free(turn)
        try:
            with turn, translated(self._path):
                self._reader = reader = self._in_place(self._reader)
                return fetch(reader, sql, parameters)
        finally:
            if self._closed:
                self.close()

    def write(self, work: Callable[Concatenate[Batch, P], T], /, *arguments: P.args, **named: P.kwargs) -> T:
        """Do it in the batch of this thread, else in a transaction of its own. Raises as `transaction`."""
        batch = self.own_batch()
        if batch is not None:
            return work(batch, *arguments, **named)
        transaction = self.transaction()
        try:
            for batch in transaction:
                batch.is_of_one_write = True
                result = work(batch, *arguments, **named)
        finally:
            transaction.close()
        return result

    def transaction(self) -> Generator[Batch, None, None]:
        """Hold the write lock of threads, then of processes, then SQLite's; commit, or roll back what is not resumed.

        A loop of one round, which its user must close: to begin a block with Python's `__enter__`, or to end it with an
        `__exit__`, is where a handler of a signal may raise before anything is noted, or given back.

        Raises:
          Unavailable: nothing was written: no turn within the time-out, or a statement failed.
          OutcomeUnknown: the commit failed, and can't be shown to have left nothing.
        """
        turns = self._turns()
        try:
            for _ in turns:
                batch = self._begin()
                try:
                    yield batch
                    if self._batch is batch:  # not in a child that was forked inside the block, which ends it, too
                        batch.check()
                        self._commit(batch.connection)
                finally:
                    if self._batch is batch:
                        self._batch = None
                        self._roll_back(batch.connection)
        finally:
            turns.close()

    def _turns(self) -> Generator[None, None, None]:
        """A loop of one round, in which nobody else writes; to be closed, as `transaction` is."""
        turn = self._write_lock  # of this process; a child that is forked in the block has another
        self._check_free(turn)
        try:
            if not turn.acquire(timeout=self._timeout_ms / 1_000):
                raise Unavailable(f"{self._path}: another thread has been writing for {self._timeout_ms} ms")
            with self._queue.take(timeout_ms=self._timeout_ms) as held:
                try:
                    yield
                finally:
                    if turn is self._write_lock:  # what a child has of it is the parent's, too
                        give_back(held)
        finally:
            try:  # noqa: SIM105 - `suppress` could be interrupted. Whether it came only the lock knows for sure
                turn.release()
            except RuntimeError:
                pass
            if self._closed:
                self.close()

    def _check_free(self, turn: RLock) -> None:
        if _is_mine(turn):
            raise Unavailable(
                f"{self._path}: a handler of a signal can't use the store in the midst of what it interrupted"
            )

    def close(self) -> None:
        """Close both connections, after the operations under way; what a signal's handler interrupts does it then.

        Raises:
          ValueError: this thread has a batch open.
        """
        batch = self.own_batch()
        if batch is not None and not batch.is_of_one_write:
            raise ValueError("close the store after the batch, not in it")
        if _is_mine(self._write_lock) or _is_mine(self._read_lock):
            self._closed = True  # a handler of a signal: what it has interrupted closes them on its way out
            return
        with self._write_lock, self._read_lock:
            self._closed = True
            self._close_connections()

    def _in_place(self, known: sqlite3.Connection | None) -> sqlite3.Connection:
        """This connection, or a new one: never one to files that stand under our names no more. What is written to
        those nobody else sees, and it is gone with them.

        Raises:
          Unavailable: the file is gone, or only a part of what belongs together stands there.
        """
        files = standing(self._name, self._path)
        if known is not None and self._files.get(known) == files:
            return known
        if self._closed:
            raise Unavailable(f"{self._path}: this store was closed")
        self._check_name(files)
        for had in tuple(self._files.values()):
            self._check_whole(had, files)
        if known is not None:  # SQLite leaves what stands there now alone
            known.close()
            self._files.pop(known, None)
        connection = open_connection(self._path, timeout_ms=self._timeout_ms)
        with ExitStack() as failing:
            failing.callback(connection.close)
            connection.execute("PRAGMA journal_mode=WAL").fetchone()  # a file that was put in place may have no log
            if lacks_columns(connection, self._indexes):  # nor these, if an older release made it; opens the log, too
                with transaction(connection):
                    index(connection, self._indexes)
            failing.pop_all()
        _, *log = standing(self._name, self._path)
        self._files[connection] = (files[0], *log)
        return connection

    def _check_name(self, files: Files) -> None:
        if os.path.realpath(self._name) != self._path:  # not followed: others queue, and have the log, where it led
            raise Unavailable(
                f"{self._name} leads to another file by now than to {self._path}; nothing was written; stop everything "
                "that uses the store, then start it"
            )
        if files[0] is None:
            raise Unavailable(f"{self._path} was removed (nothing was written); put it, or a copy, there again")

    def _check_whole(self, had: Files, files: Files) -> None:
        if had == files or {*had}.isdisjoint({*files} - {None}):  # as it was, or another file with its own log
            return
        if files[0] == had[0]:  # the log holds what was committed last; whoever closes the file last takes it over
            raise Unavailable(
                f"{self._path}-wal or -shm was removed while in use; stop everything that uses the store, then start it"
            )
        raise Unavailable(
            f"{self._path} was replaced while in use, and the -wal of the one before still stands beside it; stop "
            "everything that uses the store, remove -wal and -shm, put the file there again, then start"
        )

    def _begin(self) -> Batch:
        writer: sqlite3.Connection | None = None
        try:
            self._writer = writer = self._in_place(self._writer)
            if writer.in_transaction:  # one that was interrupted more than once may have been left open
                roll_back(writer)
            writer.execute("BEGIN IMMEDIATE")
            self._batch = batch = Batch(writer, self._path)
            return batch
        except sqlite3.Error as error:
            raise translate(self._path, error) from error
        except BaseException:
            if writer is not None:
                roll_back(writer)
            raise

    def _roll_back(self, writer: sqlite3.Connection) -> None:
        if writer.in_transaction:  # asked here, too: it seldom is, and each block costs a lone claim half a microsecond
            with translated(self._path):
                roll_back(writer)

    def _commit(self, writer: sqlite3.Connection) -> None:
        try:
            writer.execute("COMMIT")
        except sqlite3.Error as error:
            name = getattr(error, "sqlite_errorname", "")
            # Busy leaves the transaction open for us to roll back; full stops before the commit record, the
            # log's last frame. After any other error that frame may be in the log, and come back in a recovery.
            if name.startswith(("SQLITE_BUSY", "SQLITE_FULL")):
                raise translate(self._path, error) from error
            raise OutcomeUnknown(f"{self._path}: the commit failed ({error}); read before any other write") from error

    def before_fork(self) -> None:
        """See `Forked`."""
        # SQLite counts its file locks for each process, and a child would inherit the count without the locks: it
        # could lose what it wrote. So no connection lives across a fork, and no thread opens one before it is done.
        locks = (self._write_lock, self._read_lock)  # as `close` takes them
        is_in_use = any(map(_is_mine, locks))  # by this thread, which forks in a batch
        self._locked = [lock for lock in locks if lock.acquire(timeout=self._timeout_ms / 1_000)]
        if len(self._locked) == 2 and not is_in_use:
            self._close_connections()
        self._queue.before_fork()

    def after_fork_in_parent(self) -> None:
        """See `Forked`."""
        self._queue.after_fork_in_parent()
        for lock in self._locked:
            lock.release()

    def after_fork_in_child(self) -> None:
        """See `Forked`."""
        leave_to_parent(self._files)  # only a fork inside a batch has left connections here
        self._writer = self._reader = self._batch = None
        self._files = {}
        self._queue.after_fork_in_child()
        self._write_lock = RLock()
        self._read_lock = RLock()

    def _close_connections(self) -> None:
        for connection in (self._writer, self._reader):
            if connection is not None:
                connection.close()
        self._writer = self._reader = None
        self._files = {}


def _is_mine(lock: RLock) -> bool:
    """Whether this very thread holds it: the lock itself knows at any moment, as no attribute beside it could."""
    mine: bool = lock._is_owned()  # type: ignore[attr-defined]  # what `threading.Condition` asks, too
    return mine
