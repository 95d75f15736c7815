"""Tells whether a broker serves, and what it has to do."""

from typing import TYPE_CHECKING, Any

import typer

from broker.cli import options

if TYPE_CHECKING:
    from broker.cli.errors import CommandError
    from broker.settings import Settings
    from workers.children import ChildStatus
    from workers.fleet_status import Serving


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(rich_help_panel="Operation")(status)


def status(
    redis: options.RedisUrl = None,
    state_dir: options.StateFolder = None,
    json: options.Json = False,
) -> int:
    """Show the fleet's processes, workers and queues. Exit 0 if it serves."""
    from broker.cli.output import emit
    from broker.settings import load
    from workers.cli.failures import told

    with told():
        found = _found(load(redis_url=redis, state_dir=state_dir))
    if json:
        emit(found)
    else:
        _tell(found)
    return 0 if found["up"] else 1


def _found(settings: "Settings") -> dict[str, Any]:
    """The `--json` shape."""
    from redis.exceptions import RedisError

    from broker.cli.errors import CommandError
    from broker.queues import QUEUES
    from broker.redis_urls import without_password
    from workers.children import read_statuses
    from workers.cli.failures import of_redis, start, start_again, told
    from workers.fleet_status import look, same_redis
    from workers.no_writes import no_writes
    from workers.runtime import connect_redis
    from workers.state_dir import StateDir

    with told():
        state = StateDir.found(settings.state_dir)
    here = endpoint = state.running()
    if here is not None and settings.redis_url is not None and not same_redis(settings.redis_url, here.redis_url):
        endpoint = None  # another fleet is asked about than the one in this folder
    children = read_statuses(state) if endpoint is not None else []
    url = settings.redis_url or (endpoint.redis_url if endpoint is not None else None)
    problem, serving = None, None
    if url is None:
        problem = CommandError(f"no broker runs in {settings.state_dir}", start(settings.state_dir))
    else:
        try:
            redis = connect_redis(settings.model_copy(update={"redis_url": url}))
            with redis:
                serving = look(redis)
                if (refused := no_writes(redis)) is not None:
                    problem = CommandError.from_text(refused, otherwise="see `broker doctor`")
        except RedisError as error:
            problem = of_redis(error)
    alive = serving.alive(within_ms=settings.takeover_ms) if serving is not None else []
    if problem is None and serving is not None and (unserved := serving.unserved(within_ms=settings.takeover_ms)):
        what = "" if len(unserved) == len(QUEUES) else f" the queue{'s' * (len(unserved) > 1)} {', '.join(unserved)}"
        step = (start if endpoint is None else start_again)(settings.state_dir)
        problem = CommandError(f"no worker serves{what}", step)
    if problem is None and endpoint is not None:
        problem = _lost_store(endpoint.datastore_url)
    return {
        "up": problem is None,
        "problem": None if problem is None else str(problem),
        "next": None if problem is None else problem.next_step,
        "state_dir": str(state.path) if here is endpoint else None,
        "redis_url": url and without_password(url, instead="…"),
        "datastore_url": without_password(endpoint.datastore_url, instead="…") if endpoint is not None else None,
        "supervisor_pid": endpoint.supervisor_pid if endpoint is not None else None,
        "processes": [_process(child) for child in children],
        "workers": _workers(serving, alive),
        "stock_workers": [{"name": name, "queues": list(queues)} for name, queues in serving.stock.items()]
        if serving is not None
        else [],
        "queues": serving.queues if serving is not None else {},
        "in_flight": serving.in_flight if serving is not None else None,
        "parked": serving.parked if serving is not None else None,
        "dead_letters": serving.dead_letters if serving is not None else None,
        "unreadable": list(serving.unreadable) if serving is not None else [],
    }


def _lost_store(url: str) -> "CommandError | None":
    """That the file of this store is gone, where it is one on this machine: its workers live, and serve nothing."""
    from pathlib import Path

    from broker.cli.errors import CommandError
    from datastore.connect import file_of
    from workers.runtime import LOST_STEP

    path = file_of(url)
    if path is None or Path(path).exists():
        return None
    return CommandError(f"the datastore is gone: there is no file {path}", LOST_STEP)


def _process(child: "ChildStatus") -> dict[str, Any]:
    return {
        "name": child.name,
        "pid": child.pid,
        "alive": child.alive(),
        "restarts": child.restarts,
        "last_exit": child.last_exit,
        "up_since_ms": child.up_since_ms,
    }


def _workers(serving: "Serving | None", alive: list[str]) -> list[dict[str, Any]]:
    return [{"name": name, "heard_ms_ago": serving.workers[name]} for name in alive] if serving is not None else []


def _tell(found: dict[str, Any]) -> None:
    from broker.cli.output import complain, moment, say, table

    if found["redis_url"] is not None:
        say(f"redis      {found['redis_url']}")
    if found["datastore_url"] is not None:
        say(f"datastore  {found['datastore_url']}")
    if found["queues"]:
        waiting = {queue: sum(depths.values()) for queue, depths in found["queues"].items()}
        stock = found["stock_workers"]
        theirs = ", ".join(sorted({queue for each in stock for queue in each["queues"]}))
        more = f", {len(stock)} stock rq worker{'s' * (len(stock) > 1)} ({theirs})" if stock else ""
        say(f"serving    {len(found['workers'])} workers{more}")
        say(f"waiting    {', '.join(f'{count} {queue}' for queue, count in waiting.items())}")
        refused = found["dead_letters"]
        say(f"in flight  {found['in_flight']}, parked claims {found['parked']}, refused requests {refused}")
    if found["unreadable"]:
        say(f"unreadable {', '.join(found['unreadable'])} (of a wrong type, counted as empty; delete what stays)")
    if found["processes"]:
        rows = [
            (each["name"], each["pid"], "yes" if each["alive"] else "no", each["restarts"], moment(each["up_since_ms"]))
            for each in found["processes"]
        ]
        table(("PROCESS", "PID", "ALIVE", "RESTARTS", "UP SINCE"), rows)
    if found["problem"] is not None:
        complain(found["problem"], found["next"])
