"""Opening a SQLite file as a store: modes, pragmas, schema, and what each of SQLite's errors means."""

import os
import sqlite3
import stat
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Final, TypeAlias

from datastore.errors import Corrupt, DatastoreError, Missing, Rejected, Unavailable
from datastore.sqlite_disk import way_out
from datastore.sqlite_fields import index, searched

SCHEMA_VERSION: Final = 1
"""Kept in `PRAGMA user_version`. A file with a higher one was written by a newer release and is refused."""

_CREATE_TABLE: Final = """
CREATE TABLE IF NOT EXISTS documents (
    partition_key TEXT NOT NULL,
    id TEXT NOT NULL,
    rev INTEGER NOT NULL,
    etag TEXT NOT NULL,
    body TEXT NOT NULL,
    PRIMARY KEY (partition_key, id)
)
"""


def lock_path(path: str) -> str:
    """The file that writers lock before they begin."""
    return f"{path}.lock"


def prepare(
    path: str, *, indexes: Sequence[str], timeout_ms: int, create: bool, opened: dict[sqlite3.Connection, "Files"]
) -> None:
    """Make table, columns and indexes where they are missing; older releases go on. With `create` the file too (0600).

    To be called in the queue's lock, after `look_at`. The connection is among `opened` meanwhile: a child that is
    forked must know of it.

    Raises:
      Unavailable: the file can't be created or written, others hold it for `timeout_ms`, or only its log is there.
      Corrupt: the file is no SQLite database.
      Rejected: a newer release wrote it.
    """
    with translated(path):
        _keep_log(path)
        if create:
            _make(path)
        connection = open_connection(path, timeout_ms=timeout_ms)
        try:
            opened[connection] = standing(path, path)
            _check_version(connection, path)
            (mode,) = connection.execute("PRAGMA journal_mode=WAL").fetchone()
            if mode != "wal":
                raise Rejected(f"{path}: no write-ahead log here ({mode}); put the file on a local disk")
            with transaction(connection):
                connection.execute(_CREATE_TABLE)
                index(connection, indexes)
                connection.execute(f"PRAGMA user_version={SCHEMA_VERSION}")
        finally:
            connection.close()
            opened.pop(connection, None)


def look_at(path: str, *, indexes: Sequence[str], create: bool) -> None:
    """Refuse what can't be opened, without opening it, and what can't be an index, before anything is made.

    A folder is never made: where it is missing, the path is more likely mistyped than meant.

    Raises:
      ValueError: an index is no dotted path.
      Missing: there is no such file, or no folder for it.
      Unavailable: this user may not write it.
    """
    for field in indexes:
        searched(field)
    # To close any descriptor of a file gives up all locks that this process has on it, SQLite's of other stores here
    # too: another process would take their log for nobody's. So it is not opened.
    try:
        mode = os.stat(path).st_mode
    except FileNotFoundError as error:
        folder = os.path.dirname(path)
        if not os.path.isdir(folder):
            raise Missing(f"there is no folder {folder}") from error
        if not create:
            raise Missing(f"there is no file {path}") from error
    except OSError as error:
        raise Unavailable(f"{path}: {error.strerror}; {_MAY_WRITE}") from error
    else:
        by_effective_user = os.access in os.supports_effective_ids
        if not (stat.S_ISREG(mode) and os.access(path, os.R_OK | os.W_OK, effective_ids=by_effective_user)):
            raise Unavailable(f"{path}: {_MAY_WRITE}")


_MAY_WRITE: Final = "it must be a file this user may write"


def _keep_log(path: str) -> None:
    """Refuse a log without its file, which was moved away, say: beside an empty one SQLite would delete it, and with it
    what was committed last, for whoever puts the file there again. (No file of ours is empty once it has a log.)
    """
    log = f"{path}-wal"
    if _size(log) and not _size(path):
        raise Unavailable(
            f"{path} is missing or empty, and {log} holds what was committed last (nothing was written): put the file "
            "there again, or a copy without that log; to begin anew move the log away"
        )


def _size(path: str) -> int:
    try:
        return os.stat(path).st_size
    except FileNotFoundError:
        return 0


def _make(path: str) -> None:
    """The file, if it is missing. In the queue's lock, so that no other store has it open before it is closed here."""
    try:
        # SQLite would create it by the umask; its -wal and -shm take their mode from this file.
        os.close(os.open(path, os.O_CREAT | os.O_EXCL, 0o600))
    except FileExistsError:  # which opens nothing
        pass
    except OSError as error:
        raise Unavailable(f"{path}: {error.strerror}{way_out(path, error) or f'; {_MAY_WRITE}'}") from error


Files: TypeAlias = tuple[tuple[int, int] | None, ...]
"""Which files stand under a store's names: the database, its log and the index of that; None: there is none."""


def standing(name: str, path: str) -> Files:
    """What stands there now: under the name that a store was given, and beside the file that it leads to, where SQLite
    keeps the log. Files of another identity are others, and what is written to those before is lost.
    """
    return tuple(map(_identity, (name, f"{path}-wal", f"{path}-shm")))


def _identity(path: str) -> tuple[int, int] | None:
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_dev, found.st_ino


def open_connection(path: str, *, timeout_ms: int) -> sqlite3.Connection:
    """A connection to a file that is there, in autocommit mode; transactions are begun and ended by hand.

    `synchronous=FULL`, since with NORMAL a power loss could roll back the last commits, and an epoch be given twice.

    Raises:
      Unavailable: it never will be in this process, which was forked while one was in use.
    """
    if _identity(path) in _of_the_parent:
        raise Unavailable(
            f"{path}: this process was forked in a batch, and SQLite takes the locks of its parent for its own; "
            "nothing was written; fork outside of batches, or start another program"
        )
    # Not made by SQLite: it would be empty, and readable by others.
    there = f"{Path(path).as_uri()}?mode=rw"
    with ExitStack() as failing:
        connection = sqlite3.connect(
            there, uri=True, timeout=timeout_ms / 1_000, isolation_level=None, check_same_thread=False
        )
        failing.callback(connection.close)  # the collector would close it, some time, if ever
        connection.execute("PRAGMA synchronous=FULL")  # the first to look into the file
        failing.pop_all()
    return connection


_of_the_parent: Final[dict[tuple[int, int] | None, list[sqlite3.Connection]]] = {}
"""Connections that came along with a fork, by the file they are to. Kept, for even closing them would be use."""


def leave_to_parent(connections: Mapping[sqlite3.Connection, Files]) -> None:
    """After a fork, in the child: don't use these any more, nor open their files. SQLite counts a process's locks on a
    file, and has inherited the count without the locks.
    """
    for connection, (database, *_) in connections.items():
        _of_the_parent.setdefault(database, []).append(connection)


def fetch(connection: sqlite3.Connection, sql: str, parameters: Sequence[Any]) -> list[Any]:
    """All rows, each of a document. Where text in one is not UTF-8, its body has surrogates, and does not parse."""
    try:
        return connection.execute(sql, parameters).fetchall()
    except sqlite3.OperationalError as error:
        if hasattr(error, "sqlite_errorname"):
            raise
    # Raised by the binding, which shows all of a text that it can't decode: damage, and of that one document only.
    connection.text_factory = _decoded
    try:
        return [_unparsable(row) for row in connection.execute(sql, parameters).fetchall()]
    finally:
        connection.text_factory = str


def _decoded(text: bytes) -> str:
    return text.decode(errors="surrogateescape")


def _unparsable(row: tuple[Any, ...]) -> tuple[Any, ...]:
    """The row, unless a name in it is damaged: with that for a body."""
    *others, body = row
    return (*others, next((text for text in others if not is_unicode(text)), body))


def is_unicode(value: object) -> bool:
    """Whether a text is none that `fetch` could not decode."""
    try:
        str(value).encode()
    except UnicodeEncodeError:
        return False
    return True


@contextmanager
def transaction(connection: sqlite3.Connection) -> Iterator[None]:
    """Hold SQLite's write lock for the block; whatever the block raises rolls it back."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:
        roll_back(connection)
        raise


def roll_back(connection: sqlite3.Connection) -> None:
    """End the transaction, if SQLite has not done so by itself."""
    if connection.in_transaction:
        connection.execute("ROLLBACK")


@contextmanager
def translated(path: str) -> Iterator[None]:
    """Raise SQLite's errors as a store's. Only for what certainly has not been written: not for COMMIT."""
    try:
        yield
    except (sqlite3.Error, UnicodeEncodeError) as error:
        raise translate(path, error) from error


def translate(path: str, error: Exception) -> DatastoreError:
    """The store's error for one that SQLite, or the binding of its parameters, raised before any commit."""
    if is_damage(error):
        return Corrupt(f"{path} is damaged or no database ({error}): keep a copy, then restore it from a backup")
    if getattr(error, "sqlite_errorname", "") == "SQLITE_TOOBIG":
        return Rejected(f"{path}: the document is larger than SQLite takes ({error})")
    if isinstance(error, UnicodeEncodeError):
        return Rejected(f"an id or partition key is not valid Unicode: {error}")
    if is_no_json(error):
        return Corrupt(f"{path} holds a document that is no JSON; `PRAGMA integrity_check` and a backup may help")
    return Unavailable(f"{path}: {error} (nothing was written){way_out(path, error)}")


def is_damage(error: BaseException) -> bool:
    """Whether SQLite met something in the file that it can't make sense of."""
    return getattr(error, "sqlite_errorname", "").startswith(("SQLITE_CORRUPT", "SQLITE_NOTADB"))


def is_no_json(error: BaseException | None) -> bool:
    """Whether SQLite's JSON functions met a text that is none."""
    return isinstance(error, sqlite3.Error) and "malformed JSON" in str(error)


def _check_version(connection: sqlite3.Connection, path: str) -> None:
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    if version > SCHEMA_VERSION:
        raise Rejected(f"{path} has schema {version}, this release knows {SCHEMA_VERSION}: upgrade the broker")
