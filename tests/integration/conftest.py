"""Brokers: in the test's own process, for tests that need every step in their hand, and running ones."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from broker.client import Client
from datastore import Datastore, connect
from tests.commands import Commands
from tests.fleet import Fleet
from tests.guarded import Guarded
from tests.home import Home
from tests.in_process import InProcess
from tests.prey import Prey
from tests.processes import alive
from workers.embedded import EmbeddedServer, start_embedded
from workers.state_dir import StateDir


@pytest.fixture
def client(fleet: Fleet) -> Iterator[Client]:
    """Of a fleet with one worker, where the job `j` is ready; where a module does not say otherwise."""
    fleet.start_worker()
    with Client.connect(fleet.redis_url, factory_id="f") as client:
        client.submit(job_id="j")
        yield client


@pytest.fixture
def broker(on_sqlite: InProcess) -> InProcess:
    """Where a module does not say on which stores."""
    return on_sqlite


@pytest.fixture
def on_sqlite(redis_client: redis.Redis, tmp_path: Path) -> Iterator[InProcess]:
    """On an empty Redis and an empty SQLite store."""
    store = connect(f"sqlite:///{tmp_path}/jobs.db")
    yield InProcess(store, redis_client)
    store.close()


@pytest.fixture
def anywhere(each_store: Datastore, redis_client: redis.Redis) -> InProcess:
    """On an empty Redis and an empty store of each kind."""
    return InProcess(each_store, redis_client)


@pytest.fixture(scope="module")
def home(commands: Commands, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Home]:
    """A folder in which a broker runs."""
    home = Home(tmp_path_factory.mktemp("a home"), run=commands.run)
    status, shown = home.json("up", "--detach")
    assert (status, shown["up"], shown["workers"]) == (0, True, 2)
    yield home
    pids = [shown["supervisor_pid"], *(each["pid"] for each in home.json("status")[1]["processes"])]
    status, shown = home.json("down")
    assert (status, shown["stopped"]) == (0, True)
    assert [pid for pid in pids if alive(pid)] == []


@pytest.fixture(scope="module")
def _prey(valkey_server: EmbeddedServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prey]:
    with redis.Redis.from_url(valkey_server.url) as client:
        client.flushall()
    fleet = Fleet(valkey_server.url, tmp_path_factory.mktemp("hostile"))
    yield Prey(fleet)
    fleet.close()


@pytest.fixture
def prey(_prey: Prey) -> Iterator[Prey]:
    """Checked after every test."""
    yield _prey
    _prey.check()
    _prey.holder.forget()


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guarded]:
    """A server with users of each role, and a worker and a sweep that serve as theirs."""
    folder = tmp_path_factory.mktemp("acl")
    server = start_embedded(StateDir.at(folder / "valkey"))
    made = Guarded(server, folder)
    yield made
    made.fleet.close()
    made.admin.close()
    server.stop()
