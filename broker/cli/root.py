"""The command line without a command."""

from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from broker.cli.completion_command import PROGRAM

DISTRIBUTION = "claim-broker"


class Commands(TyperGroup):
    """Commands whose help says nothing where there is nothing to say: of a flag, that it is a `<bool>`."""

    def get_params(self, ctx: Any) -> Any:
        """See click."""
        return _without_types_of_flags(super().get_params(ctx))

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """See click. What comes of it is about to run, or to be told of."""
        command = super().get_command(ctx, cmd_name)
        if command is not None:
            for each in (command, *getattr(command, "commands", {}).values()):
                _without_types_of_flags(each.get_params(ctx))
        return command


def _without_types_of_flags(parameters: Any) -> Any:
    for parameter in parameters:
        if getattr(parameter, "is_flag", False) and parameter.metavar is None:
            parameter.metavar = ""
    return parameters


def new_app() -> typer.Typer:
    """What every command is added to."""
    app = typer.Typer(
        name=PROGRAM,
        cls=Commands,
        add_completion=False,  # `broker completion` prints the script; nothing edits a user's start-up files
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )

    @app.callback(invoke_without_command=True)
    def broker(
        context: typer.Context,
        version: Annotated[  # noqa: ARG001 - its callback has ended the command before
            bool, typer.Option("--version", callback=_tell_version, is_eager=True, help="Show the version, and end.")
        ] = False,
    ) -> int:
        """Work claimed exactly once: leases with fencing epochs, settled by one conditional write."""
        if context.invoked_subcommand is None:
            typer.echo(context.get_help())
        return 0

    return app


def _tell_version(asked: bool) -> None:
    if asked:
        from importlib.metadata import version

        typer.echo(f"{PROGRAM} {version(DISTRIBUTION)}")
        raise typer.Exit
