"""Starts the demonstration."""

from typing import Annotated

import typer

from broker.cli import options


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(rich_help_panel="Operation")(demo)


def demo(
    state_dir: options.StateFolder = None,
    quiet: Annotated[bool, typer.Option("--quiet", help="The last line only.")] = False,
    json: options.Json = False,
) -> int:
    """Run a fleet through a kill and a stop, on a real Redis and a durable store, and check what came of it."""
    from workers.cli.failures import told
    from workers.demo import run_demo

    with told():
        return run_demo(state_dir=state_dir, json=json, quiet=quiet)
