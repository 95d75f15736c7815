"""Real processes for tests: started, waited for with a deadline, and never left behind."""

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import TypeVar

from broker.clock import monotonic_ms, sleep_ms
from workers.leash import leashed
from workers.process_identity import ProcessIdentity

_T = TypeVar("_T")
_POLL_MS = 10
DEADLINE_MS = 30_000
"""What a busy machine may need for a process to start. It says when to give up, not how fast anything should be."""


def wait_for(condition: Callable[[], _T | None], description: str, *, deadline_ms: int = DEADLINE_MS) -> _T:
    """The first true value of `condition`; fails with `description` if there is none within `deadline_ms`."""
    until_ms = monotonic_ms() + deadline_ms
    while not (value := condition()):
        assert monotonic_ms() < until_ms, f"after {deadline_ms} ms still not: {description}"
        sleep_ms(_POLL_MS)
    return value


def start_python(code: str, *arguments: str, env: dict[str, str] | None = None) -> "subprocess.Popen[str]":
    """Run `code` in a child that ends with this process; its output is a pipe."""
    return start([sys.executable, "-c", code, *arguments], env=env)


def start(argv: Sequence[str], *, env: dict[str, str] | None = None) -> "subprocess.Popen[str]":
    """Run `argv` in a child that ends with this process; its output is a pipe, errors included."""
    return subprocess.Popen(
        leashed(argv),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, **(env or {})},
    )


def end(process: "subprocess.Popen[str]") -> None:
    """Kill the child if it lives, reap it and close its pipe."""
    with suppress(ProcessLookupError):
        process.send_signal(signal.SIGCONT)  # a stopped child dies too, but its own children may wait for it
    process.kill()
    process.wait()
    if process.stdout is not None:
        process.stdout.close()


def alive(pid: int) -> bool:
    """Whether a process runs under `pid`; a zombie does not."""
    return ProcessIdentity.of(pid) is not None


def free_port() -> int:
    """A TCP port on loopback that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
