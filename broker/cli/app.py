"""The commands of this layer, put together."""

from inspect import cleandoc
from typing import TYPE_CHECKING

import typer

from broker.cli import (
    acl_command,
    agent_command,
    bench_command,
    completion_command,
    dead_commands,
    events_command,
    exec_command,
    explain_command,
    factory_commands,
    history_command,
    lease_commands,
    limit_commands,
    listing_commands,
    operator_commands,
    schedule_commands,
    store_command,
    submit_command,
)
from broker.cli.root import new_app

if TYPE_CHECKING:
    from broker.exec import Start


def build_app(*, start: "Start | None" = None) -> typer.Typer:
    """Every command that needs no process of the broker's own. The outer layer adds those that do.

    `start`: how `exec` and `agent` start a command, where not as any process is: the place for a leash.
    """
    app = new_app()
    lease_commands.register(app)
    exec_command.register(app, start)
    agent_command.register(app, start)
    for group in (
        submit_command,
        listing_commands,
        operator_commands,
        limit_commands,
        dead_commands,
        schedule_commands,
        factory_commands,
        store_command,
        bench_command,
        acl_command,
        history_command,
        events_command,
        explain_command,
        completion_command,
    ):
        group.register(app)
    _flow(app)
    return app


def _flow(app: typer.Typer) -> None:
    """Have the paragraphs of every command's help wrapped by the terminal's width, not by the source's."""
    for command in app.registered_commands:
        paragraphs = (cleandoc(command.callback.__doc__ or "") if command.callback else "").split("\n\n")
        command.help = command.help or "\n\n".join(" ".join(each.split()) for each in paragraphs)
    for group in app.registered_groups:
        if group.typer_instance is not None:
            _flow(group.typer_instance)
