"""The command line without a command."""

import typer

from broker.cli.completion_command import PROGRAM


def new_app() -> typer.Typer:
    """What every command is added to."""
    app = typer.Typer(
        name=PROGRAM,
        add_completion=False,  # `broker completion` prints the script; nothing edits a user's start-up files
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )

    @app.callback(invoke_without_command=True)
    def broker(context: typer.Context) -> int:
        """Work claimed exactly once: leases with fencing epochs, settled by one conditional write."""
        if context.invoked_subcommand is None:
            typer.echo(context.get_help())
        return 0

    return app
