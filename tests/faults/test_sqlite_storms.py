"""SQLite under storms: sixteen processes on one row, and kills while the log is copied into the file."""

import multiprocessing
import sqlite3
from collections import Counter
from pathlib import Path
from random import Random

import pytest

from broker.clock import sleep_ms
from datastore import Ok
from datastore.sqlite import SqliteDatastore
from tests.faults import sqlite_writers
from tests.faults.sqlite_writers import PAGES_EACH, PATIENCE_MS, START_S

STARTS = multiprocessing.get_context("forkserver")
PROCESSES, ADDITIONS = 16, 12
KILLS = 12
IMPATIENT = "tests.faults.sqlite_writers:open_impatient"
TWIN = "tests.twins.read_check_write:open_twin"


@pytest.fixture(autouse=True)
def _prepared() -> None:
    STARTS.set_forkserver_preload(["tests.faults.victims", "tests.faults.sqlite_writers"])


def storm(path: Path, opener: str, *, processes: int, additions: int) -> tuple[int, int, int]:
    """The counter afterwards, the additions that were acknowledged, and the tries that had no turn.

    However fast the disk is, somebody has none: in the midst of it one holds the file for longer than they wait.
    """
    with_counter(path)
    start = STARTS.Barrier(processes + 1)
    receive, send = STARTS.Pipe(duplex=False)
    writers = [
        STARTS.Process(target=sqlite_writers.storm, args=(opener, str(path), start, additions, send), daemon=True)
        for _ in range(processes)
    ]
    for writer in writers:
        writer.start()
    holder = SqliteDatastore(path)
    start.wait(START_S)
    with holder.batch():
        sleep_ms(5 * PATIENCE_MS)
    holder.close()
    for writer in writers:
        writer.join(100)
    assert [writer.exitcode for writer in writers] == [0] * processes
    told = [receive.recv() for _ in writers]
    store = SqliteDatastore(path)
    found = store.read("counter", "counter")
    store.close()
    assert isinstance(found, Ok)
    counted = found.document.body["n"]
    assert isinstance(counted, int)
    return counted, sum(done for done, _ in told), sum(busy for _, busy in told)


def with_counter(path: Path) -> None:
    store = SqliteDatastore(path)
    assert isinstance(store.create("counter", "counter", {"n": 0}), Ok)
    store.close()


def test_of_sixteen_processes_each_addition_counts_once(tmp_path: Path) -> None:
    counted, acknowledged, busy = storm(tmp_path / "jobs.db", IMPATIENT, processes=PROCESSES, additions=ADDITIONS)
    assert counted == acknowledged == PROCESSES * ADDITIONS
    assert busy > 0, "nobody was turned away: there was no storm"


def test_a_store_that_checks_and_then_writes_loses_additions(tmp_path: Path) -> None:
    counted, acknowledged, _ = storm(tmp_path / "jobs.db", TWIN, processes=2, additions=1)
    assert counted < acknowledged


def test_a_kill_while_the_log_is_copied_loses_no_batch_and_leaves_none_in_part(tmp_path: Path) -> None:
    path = tmp_path / "jobs.db"
    SqliteDatastore(path).close()
    random = Random(1)
    acknowledged: set[str] = set()
    for _ in range(KILLS):
        receive, send = STARTS.Pipe(duplex=False)
        writer = STARTS.Process(target=sqlite_writers.checkpoint, args=(str(path), send), daemon=True)
        writer.start()
        for _ in range(random.randint(1, 3)):
            while (batch := receive.recv()) is not None:
                acknowledged.add(batch)
        sleep_ms(random.uniform(0, 3))  # the copying takes some milliseconds; this is where in it the kill falls
        writer.kill()
        writer.join()
        while receive.poll():
            acknowledged |= {receive.recv()} - {None}
    store = SqliteDatastore(path)
    found = Counter(document.body["batch"] for document in store.find({}, limit=10_000).documents)
    store.close()
    assert set(found.values()) == {PAGES_EACH}, "a batch is there in part"
    assert acknowledged <= set(found), "a batch that was acknowledged is gone"
    assert len(found) <= len(acknowledged) + KILLS, "at most the last one of each was not acknowledged"
    connection = sqlite3.connect(path)
    assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    connection.close()
