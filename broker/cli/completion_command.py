"""Prints the completion script of a shell."""

from enum import StrEnum
from typing import Annotated

import typer

PROGRAM = "broker"
VARIABLE = "_BROKER_COMPLETE"
"""Set by the script when the shell asks what may come next."""


class Shell(StrEnum):
    """Shells that have completion."""

    BASH = "bash"
    ZSH = "zsh"
    FISH = "fish"


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(rich_help_panel="Operation")(completion)


def completion(
    shell: Annotated[Shell, typer.Argument(help="The shell the script is for.")] = Shell.BASH,
) -> int:
    """Print a completion script, such as for `source <(broker completion bash)`."""
    from typer.completion import get_completion_script  # type: ignore[attr-defined]  # typer does not mark it

    from broker.cli.output import say

    say(*get_completion_script(prog_name=PROGRAM, complete_var=VARIABLE, shell=shell.value).split("\n"))
    return 0


def answer_shell(app: typer.Typer) -> None:
    """Print what may come next, and exit: the parser does it, told by `VARIABLE`."""
    from typer.completion import completion_init  # type: ignore[attr-defined]  # typer does not mark it

    completion_init()
    app(prog_name=PROGRAM)
