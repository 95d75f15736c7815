"""Puts the failures of this layer into the form in which the command line tells them."""

from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit, urlunsplit

from broker.cli import CommandError
from broker.cli.exits import Exit


@contextmanager
def told() -> Iterator[None]:
    """A failure to start, to stop or to use the state folder becomes a sentence and a next step.

    Raises:
      CommandError: instead of them.
    """
    from redis.exceptions import RedisError

    from workers.daemon import DaemonError
    from workers.embedded import EmbeddedError
    from workers.runtime import StartError, WrongSetting
    from workers.state_dir import StateDirError

    try:
        yield
    except WrongSetting as error:
        raise CommandError.from_text(str(error), otherwise="correct it", exit=Exit.USAGE) from error
    except (StartError, StateDirError, EmbeddedError) as error:
        raise CommandError.from_text(str(error), otherwise="see `broker doctor`") from error
    except DaemonError as error:
        raise CommandError(str(error), "see `broker doctor`, and the logs in the state folder") from error
    except RedisError as error:
        raise CommandError(f"Redis: {error}", "start it, or set BROKER_REDIS_URL to one that answers") from error


def without_password(url: str) -> str:
    """A URL as it may be shown."""
    parts = urlsplit(url)
    secret, at, place = parts.netloc.rpartition("@")
    if not at or ":" not in secret:
        return url
    return urlunsplit(parts._replace(netloc=f"{secret.partition(':')[0]}:…@{place}"))
