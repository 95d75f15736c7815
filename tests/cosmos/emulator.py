"""Starts the npm Cosmos emulator, which keeps its data in memory and checks If-Match atomically."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Timer
from typing import Final, NoReturn

import pytest

from workers.leash import leashed

SERVER: Final = Path(__file__).parent.parent / "emulator/node_modules/@vercel/cosmosdb-server/lib/cli.js"
START_DEADLINE_S: Final = 90
EMULATOR_VARIABLE: Final = "COSMOS_EMULATOR_PORT"
"""Names the port of an emulator that runs already, in the environment of tests that need none of their own."""


@contextmanager
def running_emulator() -> Iterator[int]:
    """The port of an emulator on 127.0.0.1 that ends with this block, and with this process."""
    node = shutil.which("node")
    if node is None or not SERVER.exists():
        absent("the Cosmos emulator is not installed: install Node, then run `make emulator`")
    process = subprocess.Popen(
        leashed([node, str(SERVER), "-p", "0", "--host", "127.0.0.1", "--no-ssl"]),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,  # it prints a stack for each missing item
        text=True,
    )
    assert process.stdout is not None
    deadline = Timer(START_DEADLINE_S, process.kill)  # ends the wait below, whatever the emulator does
    deadline.start()
    try:
        line = process.stdout.readline()
        deadline.cancel()
        assert "Ready to accept" in line, f"the Cosmos emulator did not start within {START_DEADLINE_S} s: {line!r}"
        yield int(line.rsplit(":", 1)[1])
    finally:
        deadline.cancel()
        process.kill()
        process.wait()
        process.stdout.close()


def absent(reason: str) -> NoReturn:
    """Skip at home, fail in CI: there a test that never runs would look like one that passes."""
    if os.environ.get("CI"):
        pytest.fail(reason, pytrace=False)
    pytest.skip(reason)
