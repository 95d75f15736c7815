"""Looks at what a broker needs on this machine, one thing at a time."""

import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from stat import S_IROTH, S_IXOTH

from redis.exceptions import NoPermissionError, RedisError

from broker.clock import RedisClock, host_now_ms
from broker.settings import Settings
from broker.variables import KNOWN, misspelt
from datastore.connect import file_of
from workers import fleet_status
from workers.embedded import EmbeddedError, find_server
from workers.no_writes import no_writes
from workers.runtime import StartError, check_redis, connect_redis, datastore_url, open_store
from workers.state_dir import StateDir, StateDirError

PYTHON_MIN = (3, 11)
CLOCK_OFFSET_MS_MAX = 5_000
"""More than that, and a person who compares logs or writes `not_before: +10m` is misled. No lease depends on it."""
_VERSION_TIMEOUT_S = 10


class Problem(Exception):
    """Something a broker needs is not there; the text ends in what to do."""


@dataclass(frozen=True, slots=True)
class Symptom:
    """One thing looked at. `problem` is None where all is well."""

    name: str
    found: str
    problem: str | None


def examine(settings: Settings) -> Iterator[Symptom]:
    """Look at everything, the cheap things first. Makes neither a state folder nor a store where there is none."""
    looks: tuple[tuple[str, Callable[[Settings], str]], ...] = (
        ("python", _python),
        ("variables", _variables),
        ("state folder", _state_folder),
        ("server", _server),
        ("redis", _redis),
        ("datastore", _datastore),
        ("clock", _clock),
        ("workers", _workers),
    )
    for name, look in looks:
        try:
            yield Symptom(name, look(settings), None)
        except StateDirError as error:
            yield Symptom(name, "", str(error))
            return  # the rest is looked at once there is a folder to work in
        except (Problem, StartError, EmbeddedError) as error:
            yield Symptom(name, "", str(error))
        except NoPermissionError as error:
            yield Symptom(name, "", f"Redis refused: {error}; ask as a worker's user: `broker acl --role worker`")
        except RedisError as error:
            yield Symptom(name, "", f"Redis does not answer: {error}; start it, or correct BROKER_REDIS_URL")


def _python(_: Settings) -> str:
    if sys.version_info < PYTHON_MIN:
        raise Problem(f"Python {platform.python_version()} is too old; use 3.11 or newer")
    return f"{platform.python_version()} on {platform.system()} {platform.machine()}"


def _variables(_: Settings) -> str:
    if wrong := dict(misspelt(os.environ)):
        are, it = ("is", "it") if len(wrong) == 1 else ("are", "them")
        raise Problem(
            f"{' and '.join(wrong)} {are} read by nobody; write {' and '.join(wrong.values())}, or unset {it}"
        )
    return ", ".join(sorted(name for name in KNOWN if os.environ.get(name))) or "none is set: the defaults hold"


def _state_folder(settings: Settings) -> str:
    state = StateDir.found(settings.state_dir)
    if not state.path.exists():
        return _none_there(state)
    try:
        with tempfile.TemporaryFile(dir=state.path):
            return f"{state.path} is writable and private"
    except OSError as error:
        raise Problem(f"{state.path} can't be written: {error.strerror}; give another with --state-dir") from error


def _none_there(state: StateDir) -> str:
    """That the folder can be made, where it can."""
    above = next(folder for folder in state.path.parents if folder.exists())
    if above.is_dir() and os.access(above, os.W_OK | os.X_OK):
        return f"{state.path} is not there yet: `broker up` makes it"
    raise Problem(f"{state.path} can't be made in {above}; give another with --state-dir")


def _server(settings: Settings) -> str:
    if settings.redis_url is not None:
        return "not needed: a Redis was given"
    server = find_server()
    try:
        asked = subprocess.run([server, "--version"], capture_output=True, text=True, timeout=_VERSION_TIMEOUT_S)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise Problem(f"{server} does not run: {error}; reinstall it, or set BROKER_REDIS_URL") from error
    if asked.returncode != 0:
        raise Problem(f"{server} ends with status {asked.returncode}; reinstall it, or set BROKER_REDIS_URL")
    return asked.stdout.strip()


def _redis(settings: Settings) -> str:
    if _none_yet(settings):
        return "none runs yet: `broker up` starts one"
    with connect_redis(settings) as redis:
        check_redis(redis)
        version = redis.info("server")["redis_version"]
        if (problem := no_writes(redis)) is not None:
            raise Problem(problem)
    return f"{version}, and it evicts nothing"


def _datastore(settings: Settings) -> str:
    url = datastore_url(settings)
    if settings.datastore_url is None and _none_yet(settings) and not StateDir.found(settings.state_dir).has_store():
        return "none is there yet: `broker up` makes it"
    open_store(settings, url, create=False).close()
    if (path := file_of(url)) is not None and _anybody_reads(Path(path).resolve()):
        raise Problem(f"anybody here may read {path}, and in it the tokens of leases; `chmod o= {path}*`")
    return f"{url.partition('://')[0]} refuses a write on a bogus etag, as it must"


def _anybody_reads(path: Path) -> bool:
    """Whether others than its user and group may, as of a copy that was made by an ordinary umask."""
    return bool(path.stat().st_mode & S_IROTH) and all(folder.stat().st_mode & S_IXOTH for folder in path.parents)


def _clock(settings: Settings) -> str:
    if _none_yet(settings):
        return "nothing to compare with yet"
    with connect_redis(settings) as redis:
        before_ms = host_now_ms()
        broker_ms = RedisClock(redis).now_ms()
        offset_ms = broker_ms - (before_ms + host_now_ms()) // 2
    if abs(offset_ms) > CLOCK_OFFSET_MS_MAX:
        raise Problem(f"this host is {-offset_ms} ms ahead of broker time; set it by NTP")
    return f"{offset_ms:+d} ms from this host to broker time"


def _workers(settings: Settings) -> str:
    """No worker is no fault of this machine: it is looked at before one is started."""
    if _none_yet(settings):
        return "none serves yet: `broker up` starts some"
    with connect_redis(settings) as redis:
        serving = fleet_status.look(redis)
    alive = serving.alive(within_ms=settings.takeover_ms)
    if not alive and not serving.stock:
        return "none serves, so every request waits: `broker up` or `broker worker` starts one"
    stock = f", and {len(serving.stock)} stock rq worker{'s' * (len(serving.stock) > 1)}" if serving.stock else ""
    unserved = serving.unserved(within_ms=settings.takeover_ms)
    waits = f"; none serves {', '.join(unserved)}, where requests wait" if unserved else ""
    return f"{'1 serves' if len(alive) == 1 else f'{len(alive)} serve'}{stock}{waits}"


def _none_yet(settings: Settings) -> bool:
    return settings.redis_url is None and StateDir.found(settings.state_dir).running() is None
