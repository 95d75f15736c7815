"""Puts the failures of this layer into the form in which the command line tells them."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from broker.cli import CommandError
from broker.cli.exits import Exit
from broker.cli.session import up_command

if TYPE_CHECKING:
    from redis.exceptions import RedisError

    from datastore import DatastoreError

START = 'run "broker up" or set BROKER_REDIS_URL; `broker doctor` looks closer'
"""What to do where no broker runs."""


def start(state_dir: Path) -> str:
    """The same where a fleet was looked for in this folder."""
    return START.replace("broker up", up_command(state_dir))


def start_again(state_dir: Path) -> str:
    """What to do where a fleet runs in this folder, and does not serve."""
    up = up_command(state_dir)
    return f'see the logs in {state_dir}/logs; then "{up.replace("up", "down", 1)}" and "{up}"'


@contextmanager
def told() -> Iterator[None]:
    """A failure to start, to stop, or to use the state folder or the store becomes a sentence and a next step.

    Raises:
      CommandError: instead of them.
    """
    try:
        yield
    except Exception as error:
        known = _described(error)
        if known is None:
            raise
        raise known from error


def _described(error: Exception) -> CommandError | None:
    """The failure in words; None where it is none of this layer's. Imports late: what does not fail does not pay."""
    from redis.exceptions import RedisError

    from datastore import DatastoreError
    from workers.daemon import DaemonError
    from workers.embedded import EmbeddedError
    from workers.runtime import StartError, WrongSetting
    from workers.state_dir import StateDirError

    match error:
        case WrongSetting():
            return CommandError.from_text(str(error), otherwise="correct it", exit=Exit.USAGE)
        case StartError() | StateDirError() | EmbeddedError():
            return CommandError.from_text(str(error), otherwise="see `broker doctor`")
        case DaemonError():
            what, *log = str(error).split("\n")
            return CommandError(what, "see `broker doctor`, and the logs in the state folder", more=log)
        case RedisError():
            return of_redis(error)
        case DatastoreError():
            return _of_store(error)
        case _:
            return None


def _of_store(error: "DatastoreError") -> CommandError:
    """What the store refused a command that reads or writes it by itself, once it was opened."""
    from datastore import NotApplied, OutcomeUnknown

    step = "run it again" if isinstance(error, NotApplied | OutcomeUnknown) else "see `broker doctor`"
    exit = Exit.UNKNOWN if isinstance(error, OutcomeUnknown) else Exit.REFUSED
    return CommandError.from_text(f"datastore: {error}", otherwise=step, exit=exit)


def of_redis(error: "RedisError") -> CommandError:
    """What Redis refused, or that there is none."""
    from redis.exceptions import AuthenticationError, ResponseError

    from workers.no_writes import refusal
    from workers.wrong_types import met

    if (refused := refusal(error)) is not None:
        return CommandError.from_text(refused, otherwise="see `broker doctor`")
    match error:
        case AuthenticationError():
            step = "give the one of the URL's user, or of `default`: BROKER_REDIS_PASSWORD_FILE"
            return CommandError(f"Redis refused the password: {error}", step)
        case ResponseError() if met(error):
            step = "delete that key: somebody else has written it, and the broker writes its own again"
            return CommandError(f"a key in Redis is not of the broker's type: {error}", step)
        case ResponseError():
            step = "ask as a user that may, or give this one the right: `broker acl` prints those of each role"
            return CommandError(f"Redis refused: {error}", step)
        case _:
            return CommandError(f"Redis is not reachable: {error}", START)
