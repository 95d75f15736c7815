"""Whose turn it is to write a SQLite file: threads, processes and strangers wait for each other, and never for ever."""

import fcntl
import os
import signal
import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from itertools import count
from pathlib import Path
from threading import Thread, main_thread

import pytest

from datastore import Ok, Unavailable
from datastore.sqlite import SqliteDatastore
from tests.processes import end, start_python, wait_for
from tests.unit.test_interrupted_keeping import interrupted
from tests.unit.test_sqlite import put, run_python


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "jobs.db"


@pytest.fixture
def store(path: Path) -> Iterator[SqliteDatastore]:
    opened = SqliteDatastore(path, timeout_ms=10_000)
    put(opened, "before", {"n": 1})
    yield opened
    opened.close()


HOLD = """
import pathlib, sys
from datastore.sqlite import SqliteDatastore
from tests.processes import wait_for
store = SqliteDatastore(sys.argv[1])
with store.batch():
    store.create("held-1", "p", {})
    store.create("held-2", "p", {})
    pathlib.Path(sys.argv[2]).touch()
    wait_for(pathlib.Path(sys.argv[3]).exists, "the release", deadline_ms=60_000)
"""


GIVE_UP = """
import sys
from datastore import Unavailable
from datastore.sqlite_lock import FileQueue
try:
    with FileQueue(sys.argv[1] + ".lock").take(timeout_ms=10):
        print("no other process held it")
except Unavailable as error:
    print(error)
"""


def test_a_write_waits_for_another_process_s_batch(store: SqliteDatastore, path: Path, tmp_path: Path) -> None:
    held, release = tmp_path / "held", tmp_path / "release"
    holder = start_python(HOLD, str(path), str(held), str(release))
    try:
        wait_for(held.exists, "the other process holds a batch")
        written: list[object] = []
        thread = Thread(target=lambda: written.append(put(store)))
        thread.start()
        wait_for(lambda: _waits_for_the_lock(path), "our write waits")
        assert written == []
        release.touch()
        thread.join(20)
        assert len(written) == 1
        assert isinstance(store.read("held-2", "p"), Ok)
    finally:
        end(holder)


def _waits_for_the_lock(path: Path) -> bool:
    # /proc/locks marks who waits with "->"; elsewhere there is no such view, and the write is simply given its time.
    if not os.path.exists("/proc/locks"):
        return True
    inode = os.stat(f"{path}.lock").st_ino
    lines = Path("/proc/locks").read_text().splitlines()
    return any("->" in line and f":{inode} " in line for line in lines)


def test_a_write_that_waited_too_long_is_unavailable_and_reads_go_on(path: Path, tmp_path: Path) -> None:
    store, patient = SqliteDatastore(path, timeout_ms=100), SqliteDatastore(path)
    put(store, "before")
    held, release = tmp_path / "held", tmp_path / "release"
    holder = start_python(HOLD, str(path), str(held), str(release))
    try:
        wait_for(held.exists, "the other process holds a batch")
        with pytest.raises(Unavailable, match="another process"):
            put(store)
        assert isinstance(store.read("before", "p"), Ok)
        assert "another process" in run_python(GIVE_UP, str(path)), "and a process that gave up can end"
        assert holder.poll() is None
        release.touch()
        wait_for(lambda: isinstance(store.read("held-1", "p"), Ok), "the other process commits")
        assert isinstance(patient.create("job", "p", {}), Ok), "the turn we gave up came back"
    finally:
        end(holder)
        store.close()
        patient.close()


def test_a_file_is_not_made_ready_while_somebody_writes_it(store: SqliteDatastore, path: Path) -> None:
    failures: list[Exception] = []

    def open_again() -> None:
        try:
            SqliteDatastore(path, timeout_ms=50).close()
        except Unavailable as error:
            failures.append(error)

    with store.batch():
        thread = Thread(target=open_again)
        thread.start()
        thread.join(20)
    assert [str(error).split(": ")[0] for error in failures] == [f"{path}.lock"]


def test_a_foreign_program_s_lock_is_unavailable_too(path: Path) -> None:
    store = SqliteDatastore(path, timeout_ms=50)
    foreign = sqlite3.connect(path, isolation_level=None)
    foreign.execute("BEGIN IMMEDIATE")
    with pytest.raises(Unavailable, match=f"^{path}: .*locked"):
        put(store)
    writer = store._session._writer
    assert writer is not None
    assert writer.execute("PRAGMA busy_timeout").fetchone() == (50,)
    foreign.execute("ROLLBACK")
    foreign.close()
    put(store)
    store.close()


def test_a_thread_that_waited_too_long_is_unavailable(path: Path) -> None:
    store = SqliteDatastore(path, timeout_ms=50)
    failures: list[Exception] = []

    def write() -> None:
        try:
            put(store)
        except Unavailable as error:
            failures.append(error)

    with store.batch():
        thread = Thread(target=write)
        thread.start()
        thread.join(20)
    assert [str(error) for error in failures if "another thread" in str(error)] != []
    store.close()


def test_a_process_killed_in_mid_batch_leaves_nothing_of_it_and_holds_nobody_up(
    store: SqliteDatastore, path: Path, tmp_path: Path
) -> None:
    held = tmp_path / "held"
    holder = start_python(HOLD, str(path), str(held), str(tmp_path / "never"))
    wait_for(held.exists, "the other process holds a batch")
    end(holder)
    assert isinstance(store.create("after", "p", {}), Ok)
    assert [document.id for document in store.find({}).documents] == ["after", "before"]


def test_however_often_a_write_gives_up_one_thread_waits_for_its_turn(path: Path) -> None:
    store = SqliteDatastore(path, timeout_ms=5)
    before = set(threading.enumerate())
    with closing(os.fdopen(os.open(f"{path}.lock", os.O_RDWR))) as stranger:
        fcntl.flock(stranger, fcntl.LOCK_EX)
        for _ in range(20):
            with pytest.raises(Unavailable, match="another process"):
                put(store)
        assert len(set(threading.enumerate()) - before) == 1
    wait_for(lambda: not set(threading.enumerate()) - before, "a turn that nobody is there for any more is given back")
    put(store)
    store.close()


class _Interrupted(Exception):
    """What a handler of a signal raises."""


def test_a_write_that_is_interrupted_while_it_waits_leaves_the_turn_to_others(path: Path) -> None:
    store = SqliteDatastore(path)

    def interrupt(*_: object) -> None:
        raise _Interrupted

    def interrupted_as_it_waits() -> None:
        wait_for(lambda: _waits_for_the_lock(path), "our write waits")
        signal.pthread_kill(main_thread().ident or 0, signal.SIGUSR1)

    def put_and_wait() -> None:
        Thread(target=interrupted_as_it_waits).start()
        put(store)

    before, handler = set(threading.enumerate()), signal.signal(signal.SIGUSR1, interrupt)
    with closing(os.fdopen(os.open(f"{path}.lock", os.O_RDWR))) as stranger:
        fcntl.flock(stranger, fcntl.LOCK_EX)
        with pytest.raises(_Interrupted):
            put_and_wait()
    signal.signal(signal.SIGUSR1, handler)
    wait_for(lambda: not set(threading.enumerate()) - before, "nobody waits for the turn any more")
    assert "no other process" in run_python(GIVE_UP, str(path))
    store.close()


DROPPED = pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")
"""An interrupt may leave a descriptor to the collector, which gives it back."""


def write(store: SqliteDatastore, id: str) -> None:
    put(store, id)


def read(store: SqliteDatastore, id: str) -> None:
    store.read(id, "p")


@DROPPED
@pytest.mark.parametrize("use", [write, read])
def test_an_interrupt_at_any_step_leaves_the_store_to_whoever_comes_next(
    path: Path, use: Callable[[SqliteDatastore, str], None]
) -> None:
    store, other = SqliteDatastore(path, timeout_ms=5_000), SqliteDatastore(path, timeout_ms=5_000)
    put(store, "before")
    for at in count():
        try:
            with interrupted(at) as was:
                use(store, f"job-{at}")
        except KeyboardInterrupt:  # and holds on to all that was under way
            put(other, f"other-{at}")
            put(store, f"after-{at}")
            assert isinstance(other.read(f"after-{at}", "p"), Ok)
            continue
        if not was():
            break
    assert at > 10, "it was interrupted nowhere"
    store.close()
    other.close()


@DROPPED
def test_an_interrupt_at_any_step_of_a_batch_holds_nobody_up_once_it_was_seen_to(path: Path) -> None:
    store, other = SqliteDatastore(path, timeout_ms=5_000), SqliteDatastore(path, timeout_ms=5_000)
    for at in count():
        try:
            with interrupted(at) as was, store.batch():
                put(store, f"job-{at}")
        except KeyboardInterrupt:
            pass
        put(other, f"other-{at}")
        put(store, f"after-{at}")
        assert isinstance(other.read(f"after-{at}", "p"), Ok)
        if not was():
            break
    assert at > 10, "it was interrupted nowhere"
    store.close()
    other.close()


@pytest.mark.timeout(60)
@pytest.mark.parametrize("use", [write, read])
def test_a_handler_of_a_signal_may_close_the_store_at_any_step_of_what_it_interrupts(
    path: Path, use: Callable[[SqliteDatastore, str], None]
) -> None:
    for at in count():
        store = SqliteDatastore(path)
        put(store, f"before-{at}")
        with interrupted(at, store.close) as was, suppress(Unavailable):
            use(store, f"job-{at}")
        if not was():
            break
        assert (store._session._writer, store._session._reader) == (None, None)
    assert at > 10, "it was interrupted nowhere"
    store.close()
