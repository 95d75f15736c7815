"""The two processes of a broker, each in the foreground: what a supervisor or a container runs."""

from typing import Annotated

import typer

from broker.cli import options
from broker.cli.root import new_app
from workers.loading import loading


def build_app() -> typer.Typer:
    """These commands alone."""
    app = new_app()
    register(app)
    return app


def register(app: typer.Typer) -> None:
    """Add the commands."""
    for command in (worker, sweep):
        app.command(rich_help_panel="Operation")(command)


def worker(
    burst: Annotated[bool, typer.Option("--burst", help="End once the queues are empty.")] = False,
    redis: options.RedisUrl = None,
    datastore: options.DatastoreUrl = None,
    state_dir: options.StateFolder = None,
) -> int:
    """Settle requests until SIGTERM or SIGINT, which let it finish what it has in hand."""
    with loading():
        from broker.settings import load
        from workers import claim_worker  # noqa: F401  # loaded here, where nothing interrupts it
        from workers.cli.failures import told
        from workers.runtime import run_worker

    with told():
        return run_worker(load(redis_url=redis, datastore_url=datastore, state_dir=state_dir), burst=burst)


def sweep(
    once: Annotated[bool, typer.Option("--once", help="One pass, then end.")] = False,
    redis: options.RedisUrl = None,
    datastore: options.DatastoreUrl = None,
    state_dir: options.StateFolder = None,
) -> int:
    """Reap dead leases, start what is due, repair hints; one sweep at a time across the fleet."""
    with loading():
        from broker.settings import load
        from workers.cli.failures import told
        from workers.runtime import run_sweep

    with told():
        return run_sweep(load(redis_url=redis, datastore_url=datastore, state_dir=state_dir), once=once)
