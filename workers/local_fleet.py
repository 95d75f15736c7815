"""What `broker up` runs: the embedded server unless there is a Redis, the workers, and one sweep."""

import sys
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import cast
from urllib.parse import quote

from redis import Redis
from redis.exceptions import RedisError

from broker.cli.errors import DEBUG
from broker.entropy import SystemEntropy
from broker.settings import Settings
from workers.embedded import valkey_child
from workers.fleet import ChildSpec
from workers.inflight import worker_of
from workers.runtime import check_redis, connect_redis, open_door, open_store, own_memory, refuse_other_store
from workers.server_files import ServerFiles
from workers.state_dir import StateDir
from workers.taking import WORKERS

WORKERS_DEFAULT = 2
MODULE = "workers.cli"


@dataclass(frozen=True, slots=True)
class FleetPlan:
    """A fleet before it is started. `settings` hold the URLs that it will use."""

    state: StateDir
    settings: Settings
    workers: int
    embedded: bool

    @property
    def redis_url(self) -> str:
        """Where it takes requests from."""
        assert self.settings.redis_url is not None, "a plan is made with it"
        return self.settings.redis_url

    @property
    def datastore_url(self) -> str:
        """Where its jobs are."""
        assert self.settings.datastore_url is not None, "a plan is made with it"
        return self.settings.datastore_url

    @property
    def in_memory(self) -> bool:
        """Whether one process must serve alone, sweep included: nobody else can reach its jobs."""
        return self.datastore_url.startswith("memory:")

    def environment(self) -> dict[str, str]:
        """What its processes need to find one another. Not in their arguments, which every user can read."""
        tell_all = {DEBUG: "1"}  # their standard error is a log
        return {"BROKER_REDIS_URL": self.redis_url, **self._places(), **tell_all}

    def supervisor_environment(self) -> dict[str, str]:
        """What `up` needs to make this plan again."""
        return self._places() if self.embedded else {"BROKER_REDIS_URL": self.redis_url, **self._places()}

    def _places(self) -> dict[str, str]:
        return {"BROKER_DATASTORE_URL": self.datastore_url, "BROKER_STATE_DIR": str(self.state.path)}


def plan_fleet(settings: Settings, state: StateDir, *, workers: int | None) -> FleetPlan:
    """The fleet that these settings ask for; one worker where the store is its memory, whatever was asked."""
    embedded = settings.redis_url is None
    redis_url = ServerFiles.of(state).url if embedded else settings.redis_url
    datastore_url = state.datastore_url if settings.datastore_url is None else _anchored(settings.datastore_url)
    settings = settings.model_copy(
        update={"redis_url": redis_url, "datastore_url": datastore_url, "state_dir": state.path}
    )
    plan = FleetPlan(state, settings, workers or WORKERS_DEFAULT, embedded)
    return FleetPlan(state, settings, 1, embedded) if plan.in_memory else plan


def refuse_early(plan: FleetPlan) -> None:
    """Refuse what every worker would refuse, before a supervisor restarts them for ever.

    Raises:
      StartError: Redis or the store can't be used; the message says what to do.
    """
    with closing(connect_redis(plan.settings)) as redis:
        if not plan.embedded:
            check_redis(redis)
        if plan.in_memory:
            if not plan.embedded:
                own_memory(redis).release()  # its worker takes it anew
        else:
            with closing(open_store(plan.settings, plan.datastore_url)) as store:
                open_door(plan.settings, store)
                if not plan.embedded:
                    refuse_other_store(redis, store, SystemEntropy())


def child_specs(plan: FleetPlan) -> list[ChildSpec]:
    """The processes of the fleet, in the order of their start.

    Raises:
      EmbeddedError: there is no server to embed.
    """
    specs = [valkey_child(ServerFiles.of(plan.state))] if plan.embedded else []
    environment = plan.environment()
    serving = _Serving(plan.settings)
    for number in range(1, plan.workers + 1):
        ready = serving.at_least(number)
        specs.append(ChildSpec(f"worker-{number}", _command("worker"), environment, ready=ready))
    if not plan.in_memory:
        specs.append(ChildSpec("sweep", _command("sweep"), environment))
    return specs


def up_command(plan: FleetPlan) -> Sequence[str]:
    """The command that runs this fleet in the foreground, given its environment."""
    return _command("up", "--workers", str(plan.workers))


def _anchored(url: str) -> str:
    """The same store from any working directory: the endpoint file names it to processes elsewhere."""
    relative = url.removeprefix("sqlite:///")
    if relative in (url, "") or relative.startswith("/"):
        return url
    return f"sqlite:///{quote(str(Path.cwd()))}/{relative}"


def _command(*arguments: str) -> tuple[str, ...]:
    return (sys.executable, "-P", "-m", MODULE, *arguments)  # nothing of the working folder


class _Serving:
    """Counts the workers that began to serve since the first look, which comes before any can have."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._before: frozenset[str] | None = None

    def at_least(self, count: int) -> Callable[[], bool]:
        """A question for the supervisor."""
        return lambda: self._begun() >= count

    def _begun(self) -> int:
        redis: Redis = connect_redis(self._settings)
        try:
            sessions = cast(list[bytes], redis.zrange(WORKERS, 0, -1))
        except RedisError:
            return 0
        finally:
            redis.close()
        names = frozenset(worker_of(each.decode("utf-8", "replace")) for each in sessions)
        if self._before is None:
            self._before = names
        return len(names - self._before)
