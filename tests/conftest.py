"""Fixtures that start real servers, shared by every test."""

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import redis

from datastore import Datastore, connect
from tests.commands import Commands, running_commands
from tests.fleet import Fleet
from workers.embedded import EmbeddedServer, start_embedded
from workers.state_dir import StateDir

StartValkey = Callable[..., EmbeddedServer]

pytest_plugins = ["tests.cosmos.fixtures", "tests.live.reporting"]

TESTERS_MAX = 8
"""More test processes than this only start more servers."""


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """What `-n auto` means: two test processes for each core, as most tests wait for processes of their own."""
    return min(2 * (os.cpu_count() or 1), TESTERS_MAX)


@pytest.fixture(scope="session", autouse=True)
def _no_settings_from_outside() -> Iterator[None]:
    """Tests start their own servers: a developer's BROKER_* must not lead them to real ones."""
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith("BROKER_")]:
            patch.delenv(name)
        yield


@pytest.fixture(scope="session", autouse=True)
def _children_hear_signals() -> None:
    """A shell's background job ignores SIGINT, one of nohup a hang-up, and their children would inherit that."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
        signal.signal(signal.SIGHUP, signal.SIG_DFL)


@pytest.fixture(scope="session")
def valkey_server(
    tmp_path_factory: pytest.TempPathFactory, _no_settings_from_outside: None
) -> Iterator[EmbeddedServer]:
    """One real server for the whole session. Use `redis_url` or `redis_client`, which empty it first."""
    server = start_embedded(StateDir.at(tmp_path_factory.mktemp("valkey")))
    yield server
    server.stop()


@pytest.fixture(scope="session")
def commands(tmp_path_factory: pytest.TempPathFactory, _no_settings_from_outside: None) -> Iterator[Commands]:
    """Runs `broker` commands."""
    with running_commands(tmp_path_factory.mktemp("commands")) as commands:
        yield commands


@pytest.fixture
def redis_url(valkey_server: EmbeddedServer) -> str:
    """URL of a real, empty server. Not to be killed: see `start_valkey`."""
    client = redis.Redis.from_url(valkey_server.url)
    client.flushall()
    client.script_flush()
    client.close()
    return valkey_server.url


@pytest.fixture
def redis_client(redis_url: str) -> Iterator[redis.Redis]:
    """A client of a real, empty server; answers are bytes. It waits as long as a crowded machine may take."""
    client = redis.Redis.from_url(redis_url, socket_timeout=60)
    yield client
    client.close()


@pytest.fixture(params=["memory", "sqlite", pytest.param("cosmos", marks=pytest.mark.cosmos)])
def each_store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Datastore]:
    """An empty store of each kind, one after the other."""
    if request.param == "cosmos":
        url = str(request.getfixturevalue("cosmos_url"))
    else:
        url = "memory://" if request.param == "memory" else f"sqlite:///{tmp_path}/jobs.db"
    store = connect(url)
    yield store
    store.close()


@pytest.fixture
def start_valkey(tmp_path: Path) -> Iterator[StartValkey]:
    """A factory of servers of the test's own, to kill or restart: `server = start_valkey()`.

    The same `name` is the same state folder, so a second start after `server.stop()` finds the data again.
    """
    servers: list[EmbeddedServer] = []

    def start(name: str = "valkey") -> EmbeddedServer:
        servers.append(start_embedded(StateDir.at(tmp_path / name)))
        return servers[-1]

    yield start
    for server in servers:
        server.stop()


@pytest.fixture
def fleet(redis_url: str, tmp_path: Path) -> Iterator[Fleet]:
    """A fleet on the shared server with SQLite, no process started yet: `fleet.start_worker()`."""
    fleet = Fleet(redis_url, tmp_path)
    yield fleet
    fleet.close()
