"""A SQLite store on both sides of a fork: no connection lives across it, and no lock is believed that is not held."""

import fcntl
import os
import sqlite3
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from threading import Event, Thread, current_thread
from typing import Any

import pytest

from datastore import Expected, Ok, Unavailable, sqlite_fields, sqlite_file
from datastore.sqlite import SqliteDatastore
from tests.processes import wait_for
from tests.unit.test_sqlite import DEADLINE_S, put, run_python


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "jobs.db"


@pytest.fixture
def store(path: Path) -> Iterator[SqliteDatastore]:
    opened = SqliteDatastore(path)
    yield opened
    opened.close()


@contextmanager
def a_child_ends_here() -> Iterator[None]:
    """Whatever a child that is forked in the block meets, it ends with the block: with 0 where that is no exception."""
    parent, status = os.getpid(), 1
    try:
        yield
        status = 0
    except BaseException:
        if os.getpid() != parent:
            traceback.print_exc()
            sys.stderr.flush()
        raise
    finally:
        if os.getpid() != parent:
            os._exit(status)


def ended_well(child: int) -> bool:
    """Waits for the child's end."""
    return os.waitpid(child, 0)[1] == 0


FORKS = pytest.mark.filterwarnings("ignore:This process.*is multi-threaded:DeprecationWarning")
"""The other threads are pytest's; the child touches nothing of theirs."""


@FORKS
def test_both_sides_of_a_fork_may_write(store: SqliteDatastore) -> None:
    put(store)
    with a_child_ends_here():
        if (child := os.fork()) == 0:
            assert isinstance(store.update_if_match("job", "p", Expected(rev=1), {"by": "child"}), Ok)
    assert ended_well(child)
    assert isinstance(store.update_if_match("job", "p", Expected(rev=2), {"parent": "again"}), Ok)
    assert [document.body for document in store.find({}).documents] == [{"by": "child", "parent": "again"}]


@FORKS
def test_a_child_of_a_fork_may_outlive_its_parents_connections(store: SqliteDatastore, path: Path) -> None:
    put(store)
    (opened, has_opened), (closed, has_closed) = os.pipe(), os.pipe()
    with a_child_ends_here():
        if (child := os.fork()) == 0:
            put(store, "child-1")
            os.write(has_opened, b"!")
            assert os.read(closed, 1) == b"!"
            put(store, "child-2")
    os.close(has_opened)
    assert os.read(opened, 1) == b"!"
    put(store, "parent")
    store.close()  # the last connection of this process: SQLite would fold up the log if the child held no lock
    os.write(has_closed, b"!")
    assert ended_well(child)
    for pipe in (opened, closed, has_closed):
        os.close(pipe)
    again = SqliteDatastore(path)
    assert [document.id for document in again.find({}).documents] == ["child-1", "child-2", "job", "parent"]
    again.close()


@FORKS
@pytest.mark.parametrize("generations", [1, 2])
def test_a_child_that_was_forked_in_a_batch_is_refused_and_leaves_it_to_its_parent(
    path: Path, generations: int
) -> None:
    # SQLite takes the locks of its parent for its own, and would hold none: another process might remove the log.
    store, unused = (SqliteDatastore(path, timeout_ms=DEADLINE_S * 1_000) for _ in range(2))
    with a_child_ends_here():
        with store.batch():
            put(store)
            child = os.fork()
        if child == 0:
            if generations > 1 and (grandchild := os.fork()) != 0:
                assert ended_well(grandchild)
            uses: tuple[Callable[[], object], ...] = (
                lambda: store.read("nothing", "p"),
                lambda: put(store, "of-a-child"),
                lambda: put(unused, "of-a-child"),
                lambda: SqliteDatastore(path),
            )
            for use in uses:
                with pytest.raises(Unavailable, match="forked in a batch"):
                    use()
            with closing(SqliteDatastore(path.with_name("other.db"))) as other:
                put(other, f"of-a-child-{os.getpid()}")
    assert ended_well(child)
    assert [document.id for document in store.find({}).documents] == ["job"]
    put(store, "other")
    store.close()
    with a_child_ends_here():
        if (child := os.fork()) == 0:
            put(unused, "of-a-child")
    assert ended_well(child)
    unused.close()


@FORKS
def test_a_child_holds_no_lock_that_its_parent_has_given_up_waiting_for(path: Path) -> None:
    store = SqliteDatastore(path, timeout_ms=5)
    (done, is_done), before = os.pipe(), set(threading.enumerate())
    with closing(os.fdopen(os.open(f"{path}.lock", os.O_RDWR))) as stranger, a_child_ends_here():
        fcntl.flock(stranger, fcntl.LOCK_EX)
        with pytest.raises(Unavailable, match="another process"):
            put(store, "given-up")
        if (child := os.fork()) == 0:
            os.close(is_done)  # so that it ends with its parent, too
            assert os.read(done, 1) == b"!"
        fcntl.flock(stranger, fcntl.LOCK_UN)
    wait_for(lambda: not set(threading.enumerate()) - before, "the turn came, and nobody was there for it")
    put(store)
    os.write(is_done, b"!")
    assert ended_well(child)
    store.close()
    os.close(done)
    os.close(is_done)


def test_what_a_child_begins_with_reads_and_writes(store: SqliteDatastore) -> None:
    # What the tests above see of a child, without one: in this process no other thread has the store.
    put(store)
    store._session.before_fork()
    store._session.after_fork_in_child()
    assert isinstance(store.update_if_match("job", "p", Expected(rev=1), {"by": "child"}), Ok)
    assert [document.body for document in store.find({}).documents] == [{"by": "child"}]


def test_a_connection_of_the_parent_is_kept_and_its_file_opened_no_more(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Nor is it closed by the collector, which would take it out of the parent's hands.
    kept: dict[tuple[int, int] | None, list[sqlite3.Connection]] = {}
    monkeypatch.setattr(sqlite_file, "_of_the_parent", kept)
    with closing(SqliteDatastore(path)), closing(sqlite3.connect(path)) as inherited:
        files = sqlite_file.standing(str(path), str(path))
        sqlite_file.leave_to_parent({inherited: files})
        assert [each for connections in kept.values() for each in connections] == [inherited]
        with pytest.raises(Unavailable, match="forked in a batch"):
            SqliteDatastore(path)
        SqliteDatastore(path.with_name("other.db")).close()


def test_a_child_holds_no_lock_that_its_parent_came_back_for_and_died_with(path: Path) -> None:
    code = """
import fcntl, os, sys
from pathlib import Path
from threading import Thread
from datastore import Unavailable
from datastore.forks import tell_of_forks
from datastore.sqlite_lock import FileQueue
from tests.processes import wait_for
queue = FileQueue(sys.argv[1])
tell_of_forks(queue)
stranger = open(sys.argv[1], "w")
fcntl.flock(stranger, fcntl.LOCK_EX)
try:
    queue.take(timeout_ms=5)
except Unavailable:
    given_up = queue._place
if os.fork() == 0:
    stranger.close()
    os.close(1)
    os.close(2)
    wait_for(Path(sys.argv[2]).exists, "the end of the test")
    os._exit(0)
def let_go():
    wait_for(lambda: given_up._wanted, "it came back")
    fcntl.flock(stranger, fcntl.LOCK_UN)
Thread(target=let_go).start()
held = queue.take(timeout_ms=30_000)
assert held is given_up.held
os._exit(0)
"""
    SqliteDatastore(path).close()
    done = path.with_name("done")
    try:
        run_python(code, f"{path}.lock", str(done))
        with closing(SqliteDatastore(path)) as store:
            put(store)
    finally:
        done.touch()


@FORKS
def test_a_child_leaves_alone_what_came_to_be_after_its_parent_had_given_up_waiting(path: Path) -> None:
    # Its place in the queue is given back by then, and the number of that descriptor is another's.
    store, before = SqliteDatastore(path, timeout_ms=5), set(threading.enumerate())
    with closing(os.fdopen(os.open(f"{path}.lock", os.O_RDWR))) as stranger:
        fcntl.flock(stranger, fcntl.LOCK_EX)
        with pytest.raises(Unavailable, match="another process"):
            put(store, "given-up")
    wait_for(lambda: not set(threading.enumerate()) - before, "the turn came, and nobody was there for it")
    others = [os.open(path.parent, os.O_RDONLY) for _ in range(10)]
    with a_child_ends_here():
        if (child := os.fork()) == 0:
            for other in others:
                os.fstat(other)
    assert ended_well(child)
    for other in others:
        os.close(other)
    put(store)
    store.close()


@FORKS
def test_a_child_that_was_forked_while_another_thread_opens_the_file_may_use_it(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    making, go_on = Event(), Event()
    make = sqlite_fields.index

    def slowly(*arguments: Any) -> None:
        if current_thread() is thread:
            making.set()
            go_on.wait(DEADLINE_S)
        make(*arguments)

    monkeypatch.setattr(sqlite_file, "index", slowly)
    os.register_at_fork(before=go_on.set)  # called first: the fork waits for the rest
    thread = Thread(target=lambda: SqliteDatastore(path).close())
    thread.start()
    assert making.wait(DEADLINE_S)
    with a_child_ends_here():
        if (child := os.fork()) == 0:
            with closing(SqliteDatastore(path, timeout_ms=1_000)) as own:
                put(own, "of-a-child")
    assert ended_well(child)
    thread.join()
