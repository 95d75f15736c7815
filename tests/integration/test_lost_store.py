"""A datastore that is lost under its fleet is named wherever somebody looks for what is wrong."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
import structlog
from structlog.testing import capture_logs

from broker.clock import ManualClock
from broker.index import INDEXED
from broker.queues import QUEUES
from broker.settings import load
from datastore import DatastoreError, Rejected, Unavailable
from datastore.memory import MemoryDatastore
from tests.commands import Commands
from tests.home import Home
from tests.in_process import InProcess
from tests.integration.test_failing_store import Failing
from tests.processes import wait_for
from workers.shift import Shift
from workers.state_dir import StateDir
from workers.store_watch import AGAIN_MS

pytestmark = pytest.mark.redis


@pytest.fixture
def fleet(tmp_path: Path, commands: Commands) -> Iterator[Home]:
    """A fleet of one worker, whose file is removed."""
    home = Home(tmp_path, run=commands.run)
    assert home.run("up", "--detach", "--workers", "1")[0] == 0
    state = StateDir(tmp_path / ".broker")
    endpoint = state.running()
    assert endpoint is not None
    with redis.Redis.from_url(endpoint.redis_url) as connection:
        wait_for(lambda: connection.exists(INDEXED), "its sweep, too, has opened the file, which it would make anew")
    (state.path / "broker.db").unlink()
    yield home
    home.run("down")


def test_the_worker_the_command_line_status_and_the_doctor_name_it(fleet: Home) -> None:
    status, _, err = fleet.run("jobs")
    assert status == 4
    assert "see the workers' logs, or run `broker doctor` where they run" in err
    log = StateDir(fleet.path / ".broker").log_dir / "worker-1.log"
    wait_for(lambda: "store_failed" in log.read_text(), "the worker says so")
    [line] = [line for line in log.read_text().splitlines() if "store_failed" in line]
    assert "broker.db was removed" in line
    assert "see to the datastore" in line
    status, shown = fleet.json("status")
    assert (status, shown["up"], len(shown["workers"])) == (1, False, 1)
    assert "broker.db" in shown["problem"]
    assert "broker down" in shown["next"]
    status, out, _ = fleet.run("doctor")
    assert (status, "stop the fleet that runs on it with `broker down`" in out) == (1, True)


@pytest.fixture
def every_level() -> Iterator[None]:
    """Logs are as they are unless somebody sets them up, as commands do."""
    before = structlog.get_config()
    structlog.reset_defaults()
    yield
    structlog.configure(**before)


ALL = ("read", "begin")
"""Operations of a store that is away."""
UNAVAILABLE, REJECTED = Unavailable("scripted"), Rejected("scripted")
BODIES: dict[str, dict[str, Any]] = {
    "get_job": {"job_id": "job"},
    "list_jobs": {},
    "renew_many": {"leases": [{"job_id": "job", "epoch": 1, "token": "x"}]},
}


class Worker:
    """One whose store fails when told to, and whose clock stands."""

    def __init__(self, connection: redis.Redis) -> None:
        self.store = Failing(MemoryDatastore())
        self.clock = ManualClock(0)
        self._broker = InProcess(self.store, connection)
        self._shift = Shift(self._broker.context, connection, "w1", QUEUES, load(), steady_ms=self.clock.now_ms)
        self._broker.submit("job")

    def settle(
        self,
        op: str = "get_job",
        *,
        bad: tuple[str, ...] = (),
        failure: DatastoreError = UNAVAILABLE,
        passing_ms: int = 0,
    ) -> list[str]:
        """What it logs of its store as it settles one request, and what is `bad` fails."""
        self.clock.advance(passing_ms)
        self.store.bad = bad
        self.store.failure = failure
        self._broker.caller.send(self._broker.caller.make(op, **BODIES[op]))
        with capture_logs() as logs:
            self._shift.serve()
            self._shift.stop()
        return [f"{each['log_level']} {each['event']}" for each in logs if each["event"].startswith("store")]


@pytest.mark.usefixtures("every_level")
def test_a_failing_store_is_logged_once_a_minute_and_as_it_serves_again(redis_client: redis.Redis) -> None:
    worker = Worker(redis_client)
    assert worker.settle() == []
    assert worker.settle(bad=ALL) == ["error store_failed"]
    assert worker.settle(bad=ALL, passing_ms=AGAIN_MS - 1) == []
    assert worker.settle(bad=ALL, passing_ms=1) == ["error store_failed"]
    assert worker.settle() == ["info store_serves_again"]
    assert worker.settle() == []
    assert worker.settle(bad=ALL) == [], "it comes and goes"
    assert worker.settle() == []
    assert worker.settle(bad=ALL, passing_ms=AGAIN_MS) == ["error store_failed"]


@pytest.mark.usefixtures("every_level")
@pytest.mark.parametrize(("bad", "logged"), [(("find",), []), (("find", "read"), ["error store_failed"])])
def test_a_store_that_refuses_what_it_is_sent_is_logged_only_where_it_refuses_all(
    redis_client: redis.Redis, bad: tuple[str, ...], logged: list[str]
) -> None:
    worker = Worker(redis_client)
    assert worker.settle("list_jobs", bad=bad, failure=REJECTED) == logged
    assert worker.settle("list_jobs", bad=bad, failure=REJECTED, passing_ms=AGAIN_MS - 1) == []
    assert worker.settle(bad=ALL) == (["error store_failed"] if not logged else []), "it keeps nothing else quiet"


@pytest.mark.usefixtures("every_level")
def test_a_store_that_fails_renewals_alone_is_logged(redis_client: redis.Redis) -> None:
    assert Worker(redis_client).settle("renew_many", bad=ALL) == ["error store_failed"]
