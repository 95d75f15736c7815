"""Starts and stops a fleet of this machine's own."""

from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Annotated, Any

import typer

from broker.cli import options

if TYPE_CHECKING:
    from workers.local_fleet import FleetPlan
    from workers.state_dir import Endpoint


def register(app: typer.Typer) -> None:
    """Add the commands."""
    for command in (up, down):
        app.command(rich_help_panel="Operation")(command)


def up(
    workers: Annotated[
        int | None, typer.Option("--workers", metavar="N", min=1, max=64, help="Worker processes; default 2.")
    ] = None,
    redis: options.RedisUrl = None,
    datastore: options.DatastoreUrl = None,
    state_dir: options.StateFolder = None,
    detach: Annotated[bool, typer.Option("--detach", help="Return once it serves; `broker down` stops it.")] = False,
    json: options.Json = False,
) -> int:
    """Run a broker here: a real Valkey unless a Redis is given, workers, and the sweep."""
    from broker.cli.output import note
    from broker.cli.session import tell_misspelt
    from broker.settings import load
    from workers import daemon
    from workers.cli.failures import told
    from workers.local_fleet import plan_fleet, refuse_early, up_command
    from workers.logs import configure_logging
    from workers.state_dir import StateDir

    with told():
        settings = load(redis_url=redis, datastore_url=datastore, state_dir=state_dir)
        configure_logging(settings.log_level)
        tell_misspelt()
        plan = plan_fleet(settings, StateDir.at(settings.state_dir), workers=workers)
        if workers is not None and workers > plan.workers:
            note(f"note: memory:// is one process's own, so {plan.workers} worker serves, and sweeps, alone")
        refuse_early(plan)
        if detach:
            endpoint = daemon.detach(up_command(plan), plan.state, env=plan.supervisor_environment())
            _show(plan, endpoint, json=json, detached=True)
        else:
            _serve(plan, json=json)
    return 0


def down(state_dir: options.StateFolder = None, json: options.Json = False) -> int:
    """Stop the fleet of a state folder: workers finish what they have in hand. Its data stay."""
    from broker.cli.output import emit, say
    from broker.settings import load
    from workers import daemon
    from workers.cli.failures import told
    from workers.state_dir import StateDir

    folder = load(state_dir=state_dir).state_dir
    with told():
        state = StateDir.found(folder)
        stopped = daemon.down(state)
    if json:
        emit({"up": False, "stopped": stopped, "state_dir": str(state.path)})
    else:
        say(f"stopped the fleet of {folder}" if stopped else f"no fleet runs in {folder}")
    return 0


def _serve(plan: "FleetPlan", *, json: bool) -> None:
    """Be the fleet, until a signal ends it."""
    from random import Random

    from broker.cli.output import note
    from workers import daemon
    from workers.local_fleet import child_specs

    if not json:
        note(f"starting {plan.workers} workers; logs are in {plan.state.log_dir}")
    daemon.serve(
        plan.state,
        child_specs(plan),
        redis_url=plan.redis_url,
        datastore_url=plan.datastore_url,
        random=Random(),  # noqa: S311  # spreads restarts; nobody gains by guessing it
        on_ready=lambda endpoint: _show(plan, endpoint, json=json, detached=False),
    )
    if not json:
        note("stopped")


def _show(plan: "FleetPlan", endpoint: "Endpoint", *, json: bool, detached: bool) -> None:
    from broker.cli.output import emit, say
    from broker.redis_urls import without_password

    shown: dict[str, Any] = {
        "up": True,
        "state_dir": str(plan.state.path),
        "redis_url": without_password(endpoint.redis_url, instead="…"),
        "datastore_url": without_password(endpoint.datastore_url, instead="…"),
        "workers": plan.workers,
        "supervisor_pid": endpoint.supervisor_pid,
    }
    if json:
        emit(shown)
        return
    say(f"the broker serves from {shown['state_dir']}")
    say(f"redis      {shown['redis_url']}")
    say(f"datastore  {shown['datastore_url']}")
    say(f"workers    {shown['workers']}")
    named = "" if plan.state.path == _unnamed() else f" --state-dir {quote(str(plan.state.path))}"
    say(
        f"`broker submit FILE{named}` brings work; "
        + (f"`broker down{named}` stops it" if detached else "Ctrl-C stops it")
    )


def _unnamed() -> Path:
    """The state folder of a command here that names none."""
    from broker.settings import load

    return load().state_dir.expanduser().absolute()
