"""A worker of Cosmos reads its first batch with many threads: none of them sees a struct that is half known."""

import signal
import subprocess
import sys

TRIES = 5


def first_of_a_kind(reader: str) -> subprocess.CompletedProcess[str]:
    argv = [sys.executable, "-m", "tests.concurrency.first_of_a_kind", reader]
    return subprocess.run(argv, capture_output=True, text=True, check=False, timeout=120)


def test_threads_that_read_the_first_document_of_a_kind_together_all_read_it() -> None:
    done = first_of_a_kind("decoded")
    assert done.returncode == 0, done.stderr


def test_threads_that_ask_msgspec_itself_end_their_process() -> None:
    ends = {first_of_a_kind("msgspec").returncode for _ in range(TRIES)}
    assert -signal.SIGSEGV in ends, ends
