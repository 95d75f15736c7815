"""Turns every failure into a sentence and a next step, so that no traceback reaches a user."""

import os
import sys
from collections.abc import Sequence
from errno import ENOSPC
from typing import Any

import typer

from broker.cli import completion_command, streams
from broker.cli.exits import Exit
from broker.cli.output import complain, emit

DEBUG = "BROKER_DEBUG"
"""Set to anything: an unexpected error shows its traceback."""
_UsageError = typer.BadParameter.__bases__[0]
"""The root of what the parser raises; typer re-exports only this one of its children."""


class CommandError(Exception):
    """A command can't go on. The text says why, `next_step` what to do about it.

    `request_id`: the request that may have taken effect, to be repeated under it. `more`: what the text goes on with,
    in lines of their own.
    """

    def __init__(
        self,
        message: str,
        next_step: str,
        *,
        exit: Exit = Exit.REFUSED,
        request_id: str | None = None,
        more: Sequence[str] = (),
    ) -> None:
        super().__init__(message)
        self.more = more
        self.next_step = next_step
        self.exit = exit
        self.request_id = request_id

    def shown(self) -> dict[str, Any]:
        """The `--json` shape."""
        known = {} if self.request_id is None else {"request_id": self.request_id}
        return {"error": "\n".join([str(self), *self.more]), "next": self.next_step, **known}

    @classmethod
    def from_text(cls, text: str, *, otherwise: str, exit: Exit = Exit.REFUSED) -> "CommandError":
        """From a message in this project's form, `problem; what to do`. `otherwise` where it says no more."""
        problem, found, advice = text.rpartition("; ")
        return cls(problem, advice, exit=exit) if found else cls(text, otherwise, exit=exit)


def run(app: typer.Typer, arguments: Sequence[str]) -> int:
    """Run one command line and return its exit status. Whatever fails is told, never raised."""
    streams.mend()
    if completion_command.VARIABLE in os.environ:
        completion_command.answer_shell(app)
    try:
        status = _run(app, list(arguments))
        sys.stdout.flush()
        return status
    except (BrokenPipeError, SystemExit):  # typer turns the first into the second, and nothing else here into it
        streams.drop_output()
        return Exit.PIPE_CLOSED
    except OSError as error:
        if error.errno != ENOSPC:
            raise
        streams.drop_output()
        complain(f"can't write: {error.strerror}", "make room; what was asked for may have been done")
        return Exit.REFUSED


def _run(app: typer.Typer, arguments: list[str]) -> int:
    before_command = arguments[: arguments.index("--")] if "--" in arguments else arguments
    try:
        return int(app(arguments, prog_name=completion_command.PROGRAM, standalone_mode=False) or 0)
    except (KeyboardInterrupt, typer.Abort):
        return Exit.INTERRUPTED
    except BrokenPipeError:
        raise
    except Exception as error:
        if isinstance(error, OSError) and error.errno == ENOSPC:
            raise
        known = _described(error)
        if known is None and os.environ.get(DEBUG):
            raise
        known = known or CommandError(
            f"unexpected {type(error).__name__}: {error}", f"report it; {DEBUG}=1 shows the traceback"
        )
        if "--json" in before_command:
            emit(known.shown())
        else:
            complain(str(known), known.next_step, known.more)
        return known.exit


def _described(error: Exception) -> CommandError | None:
    """The error in words; None where nobody expected it. Imports late: a command that succeeds does not pay."""
    if isinstance(error, CommandError):
        return error
    if isinstance(error, _UsageError):
        return _usage(error)
    from broker.client import BrokerTimeout, BrokerUnavailable, ClientError, InvalidRequest
    from broker.settings import SettingsError

    match error:
        case BrokerTimeout(request_id=request_id, reply=reply):
            from broker.cli.answers import next_step

            again = f"see `broker status`; then repeat it with --request-id {request_id}: it may have taken effect"
            again = again if reply is None else next_step(reply, request_id)
            return CommandError(_problem(error), again, exit=Exit.UNKNOWN, request_id=request_id)
        case BrokerUnavailable(answers=True):
            return CommandError.from_text(str(error), otherwise="check the user and its rights")
        case BrokerUnavailable():
            return CommandError(_problem(error), "run `broker up`, or set BROKER_REDIS_URL to a Redis that answers")
        case InvalidRequest():
            return CommandError(str(error), "correct the value", exit=Exit.USAGE)
        case ClientError():
            return CommandError.from_text(str(error), otherwise="see `broker doctor`")
        case SettingsError():
            return CommandError.from_text(str(error), otherwise="correct the variable, or unset it", exit=Exit.USAGE)
        case _:
            return None


def _problem(error: Exception) -> str:
    """What a client's error says before it gives advice to programmers."""
    return str(error).partition("; ")[0]


def _usage(error: Exception) -> CommandError:
    message: str = error.format_message() if hasattr(error, "format_message") else str(error)
    context = getattr(error, "ctx", None)
    command = context.command_path if context is not None else "broker"
    what = message.replace("Value error, ", "") or "a command is missing"  # the help that is shown says which there are
    return CommandError(what, f"see `{command} --help`", exit=Exit.USAGE)
