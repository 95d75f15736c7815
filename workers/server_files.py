"""Where a server lives in a state folder, and whether one is alive there."""

import fcntl
import os
import tempfile
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from workers.process_identity import ProcessIdentity
from workers.state_dir import StateDir

SOCKET_PATH_BYTES_MAX = 100
"""sockaddr_un holds 108 bytes on Linux and 104 on macOS (unix(7), unix(4)), with the closing zero."""
_LOG_LINES_SHOWN = 15
_SOCKET = "valkey.sock"
_SOCKET_DIR = "valkey.socket-dir"
"""In the state folder: where the socket is, if that folder's own path is too long for one."""


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
        """The socket in the folder, or in a private folder with a shorter name, which is recorded, and used again."""
        socket = state.path / _SOCKET
        if len(os.fsencode(socket)) <= SOCKET_PATH_BYTES_MAX:
            return cls(state, socket)
        folder = socket_dir(state)
        if folder is not None:
            with suppress(OSError):  # it is there, or whoever made it there meanwhile is found out
                folder.mkdir(mode=0o700)
        if folder is None or not _is_private(folder):
            folder = Path(tempfile.mkdtemp(prefix="broker-"))  # mode 0700
            state.write(_SOCKET_DIR, os.fsencode(folder))
        return cls(state, folder / _SOCKET)

    def log_end(self) -> str:
        """The last lines of the log, for an error message."""
        try:
            lines = self.log.read_text(errors="replace").splitlines()[-_LOG_LINES_SHOWN:]
        except OSError as error:
            return f"its log {self.log} can't be read: {error.strerror}"
        return "\n".join([f"the end of {self.log}:", *lines])

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

    def owner_pid(self) -> int | None:
        """The process the server ends with. Means something only while `locked`."""
        try:
            return int(self.lock.read_text())
        except (OSError, ValueError):
            return None

    def owner_lives(self) -> bool:
        """Whether the process the server ends with still runs; else a server that still answers is about to go."""
        owner = self.owner_pid()
        return owner is not None and ProcessIdentity.of(owner) is not None


def socket_dir(state: StateDir) -> Path | None:
    """The folder outside of the state folder that its server's socket is in; None where it needs none."""
    try:
        return Path(os.fsdecode((state.path / _SOCKET_DIR).read_bytes()))
    except OSError:
        return None


def remove_socket_dir(folder: Path | None) -> None:
    """Remove that folder, whose server has gone. Where anything else is in it, or it is no more ours, it stays."""
    if folder is not None and _is_private(folder):
        with suppress(OSError):
            (folder / _SOCKET).unlink(missing_ok=True)  # a server that was killed has left it
            folder.rmdir()


def _is_private(folder: Path) -> bool:
    try:
        status = folder.stat(follow_symlinks=False)
    except OSError:
        return False
    return folder.is_dir() and status.st_uid == os.geteuid() and status.st_mode & 0o777 == 0o700
