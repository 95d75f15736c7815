"""Keeps what a local fleet leaves on disk in one private folder."""

import fcntl
import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, TypeVar
from urllib.parse import quote

from broker.private_folder import NotPrivate, is_private
from datastore.decoding import UNREADABLE, from_json
from workers.process_identity import ProcessIdentity

Kind = TypeVar("Kind")

DATASTORE = "broker.db"
LOG_BYTES_MAX = 16 * 1024 * 1024
"""Of a log that a process goes on with when it starts."""


class StateDirError(Exception):
    """The state folder can't be used. Nothing was started."""


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where a running fleet is reached, as `up.json` says it. Written once the fleet serves."""

    redis_url: str
    datastore_url: str
    supervisor_pid: int
    supervisor_started: str
    """Start of that process, so that a reused pid is not taken for the supervisor."""
    started_ms: int

    def supervisor(self) -> ProcessIdentity:
        """The process that runs the fleet."""
        return ProcessIdentity(self.supervisor_pid, self.supervisor_started)


@dataclass(frozen=True, slots=True)
class StateDir:
    """The layout of one state folder, `.broker/` by default. `StateDir.at` makes it, `StateDir.found` only looks."""

    path: Path

    @classmethod
    def at(cls, path: Path | str = ".broker") -> "StateDir":
        """The folder, made if it is missing, readable by its owner only.

        Raises:
          StateDirError: it can't be made, belongs to somebody else, or is in use and open to others.
        """
        folder = Path(path).expanduser().absolute()
        with _told(folder):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            if not is_private(folder):
                folder.chmod(0o700)
        return cls(folder)

    @classmethod
    def found(cls, path: Path | str = ".broker") -> "StateDir":
        """The folder as it is, perhaps missing: for who looks, and makes nothing.

        Raises:
          StateDirError: it belongs to somebody else, or is in use and open to others.
        """
        folder = Path(path).expanduser().absolute()
        with _told(folder), suppress(FileNotFoundError):
            is_private(folder)
        return cls(folder)

    @property
    def datastore_url(self) -> str:
        """The embedded SQLite datastore."""
        return f"sqlite:///{quote(str(self.path / DATASTORE))}"  # `connect` unquotes

    def has_store(self) -> bool:
        """Whether that was made already."""
        return (self.path / DATASTORE).exists()

    @property
    def log_dir(self) -> Path:
        """One log per child of the supervisor. Made on demand."""
        folder = self.path / "logs"
        folder.mkdir(mode=0o700, exist_ok=True)
        return folder

    def open_log(self, name: str) -> IO[bytes]:
        """A log to append to. What is in it is put aside as `NAME.log.1` where it has grown long."""
        path = self.log_dir / f"{name}.log"
        with suppress(FileNotFoundError):
            if path.stat().st_size > LOG_BYTES_MAX:
                path.replace(path.with_name(f"{path.name}.1"))
        return open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), "wb")

    def write_endpoint(self, endpoint: Endpoint) -> None:
        """Publish where the fleet is reached; a reader sees the old file or the new one, never half."""
        self.write("up.json", json.dumps(asdict(endpoint)).encode())

    def endpoint(self) -> Endpoint | None:
        """What `up.json` says, whether or not that fleet still runs; None where it says nothing readable."""
        return self.read("up.json", Endpoint)

    def running(self) -> Endpoint | None:
        """The endpoint of a fleet whose supervisor is alive, else None."""
        endpoint = self.endpoint()
        return endpoint if endpoint is not None and endpoint.supervisor().alive() else None

    def remove_endpoint(self) -> None:
        """Forget the endpoint, as a fleet does when it ends. One that stays is seen to be of a fleet that is gone."""
        with suppress(OSError):  # the folder may be read-only by now
            (self.path / "up.json").unlink()

    @contextmanager
    def supervised(self) -> Iterator[Callable[[], bool]]:
        """Be the only supervisor of this folder while the block runs. The lock ends with the process, however it ends.

        The block gets a question: whether the folder is still this one's. It is not once it was removed, whoever may
        have made another one in its place.

        Raises:
          StateDirError: another supervisor holds it.
        """
        descriptor = os.open(self.path / "up.lock", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise StateDirError(
                    f"a fleet already runs in {self.path}; stop it with `broker down`, or give another --state-dir"
                ) from None
            own = ProcessIdentity.own()
            os.ftruncate(descriptor, 0)
            os.write(descriptor, f"{own.pid} {own.started}".encode())
            try:
                yield lambda: self._is_locked_by(descriptor)
            finally:
                os.ftruncate(descriptor, 0)
        finally:
            os.close(descriptor)

    def _is_locked_by(self, descriptor: int) -> bool:
        try:
            return os.path.samestat(os.stat(self.path / "up.lock"), os.fstat(descriptor))
        except (FileNotFoundError, NotADirectoryError):
            return False
        except OSError:  # it can't be looked at now, which says nothing
            return True

    def supervisor(self) -> ProcessIdentity | None:
        """The living supervisor of this folder, whether or not it serves yet, else None."""
        try:
            pid, _, started = (self.path / "up.lock").read_text().partition(" ")
            identity = ProcessIdentity(int(pid), started)
        except (OSError, ValueError):
            return None
        return identity if identity.alive() else None

    def write(self, name: str, content: bytes) -> Path:
        """Replace the file `name` in one step, readable by its owner only."""
        target, draft = self.path / name, self.path / f".{name}.{os.getpid()}"
        with open(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
            file.write(content)
        draft.replace(target)
        return target

    def read(self, name: str, kind: type[Kind]) -> Kind | None:
        """The value of `kind` that the file `name` holds as JSON; None where there is nothing readable."""
        try:
            return from_json((self.path / name).read_bytes(), kind)
        except (OSError, *UNREADABLE):
            return None


@contextmanager
def _told(folder: Path) -> Iterator[None]:
    try:
        yield
    except NotPrivate as error:
        raise StateDirError(str(error)) from error
    except OSError as error:
        raise StateDirError(f"{folder}: {error.strerror}; give another folder with --state-dir") from error
