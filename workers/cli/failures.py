"""Puts the failures of this layer into the form in which the command line tells them."""

from collections.abc import Iterator
from contextlib import contextmanager

from broker.cli import CommandError
from broker.cli.exits import Exit


@contextmanager
def told() -> Iterator[None]:
    """A failure to start, to stop or to use the state folder becomes a sentence and a next step.

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
            return CommandError(str(error), "see `broker doctor`, and the logs in the state folder")
        case RedisError():
            return CommandError(f"Redis: {error}", "start it, or set BROKER_REDIS_URL to one that answers")
        case _:
            return None
