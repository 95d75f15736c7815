"""Where a command reaches the broker, and as whom."""

import json
import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Any

from broker.cli.errors import CommandError
from broker.cli.exits import Exit
from broker.cli.output import note
from broker.private_folder import NotPrivate, is_private

if TYPE_CHECKING:  # loaded by the commands that connect, when they do
    from structlog.typing import EventDict

    from broker.client import AsyncClient, Client

INCARNATION = "cli"
"""The same for every call: a resend from another call, under its request id, must be a replay."""
ANONYMOUS = "cli"
"""The factory of commands that hold no lease."""
TIMEOUT_MS = 10_000
STATE_DIR = Path(".broker")
"""Where a fleet is looked for that nobody names (`broker.settings`)."""
SOON_MS = 300
"""A wait that need not be told."""


@dataclass(frozen=True, slots=True)
class Target:
    """What the shared options said; None: not given."""

    redis: str | None = None
    state_dir: Path | None = None
    timeout_ms: int | None = None
    factory: str | None = None
    incarnation: str | None = INCARNATION
    """None: a start of its own."""
    needs_factory: bool = False
    only_reads: bool = False
    """Whether a request without an answer can have done nothing."""


@contextmanager
def connected(target: Target) -> Iterator["Client"]:
    """A client for the length of the block.

    Raises:
      CommandError: no Redis is known, or no factory was named.
    """
    from broker.client import BrokerTimeout, Client

    url, arguments = _arguments(target)
    with _usage_told():
        client = Client.connect(url, **arguments)
    with client:
        try:
            yield client
        except BrokerTimeout as error:
            if not target.only_reads:
                raise
            problem = str(error).partition("; ")[0]
            raise CommandError(problem, "does a worker serve? see `broker status`", exit=Exit.UNKNOWN) from error
        finally:
            _settle(client)


def _settle(client: "Client") -> None:
    """Wait for what was given up, and say so if that takes long. Whoever then interrupts it does not want it at all."""
    if client.settle(within_ms=SOON_MS):
        return
    try:
        note("waits for the answer to a claim that was given up, to give the job back; Ctrl-C ends at once")
        client.settle()
    except BaseException:
        client.close(settle=False)
        raise


def async_client(target: Target) -> "AsyncClient":
    """A client for asyncio that is not connected yet.

    Raises:
      CommandError: no Redis is known, or no factory was named.
    """
    from broker.client import AsyncClient

    url, arguments = _arguments(target)
    with _usage_told():
        return AsyncClient.connect(url, **arguments)


def _arguments(target: Target) -> tuple[str, dict[str, Any]]:
    """What a client of either kind is made with."""
    from broker.settings import load

    _quiet_logs()
    tell_misspelt()
    settings = load(redis_url=target.redis, state_dir=target.state_dir, factory=target.factory)
    key = None if settings.key is None else settings.key.get_secret_value()
    factory = settings.factory or _owner(key)
    if target.needs_factory and factory is None:
        raise CommandError("a lease needs a factory", "add --factory NAME, or set BROKER_FACTORY", exit=Exit.USAGE)
    url = settings.redis_url or fleet_redis(settings.state_dir)
    return url, {
        "factory_id": factory or ANONYMOUS,
        "incarnation": target.incarnation,
        "wire": settings.wire,
        "timeout_ms": TIMEOUT_MS if target.timeout_ms is None else target.timeout_ms,
        "password": settings.password(),
        "key": key,
    }


def tell_misspelt() -> None:
    """Note each variable of the environment that is misspelt: what it was to switch on is off, such as signing."""
    from broker.variables import misspelt

    for name, meant in misspelt(os.environ):
        note(f"{name} is read by nobody; write {meant}, or unset it")


@contextmanager
def _usage_told() -> Iterator[None]:
    from broker.client import InvalidUrl

    try:
        yield
    except InvalidUrl as error:
        raise CommandError.from_text(str(error), otherwise="correct it", exit=Exit.USAGE) from error


def _owner(key: str | None) -> str | None:
    """Whose key this is: what is signed with it is asked in that name."""
    return None if key is None else key.partition(":")[0]


def fleet_redis(state_dir: Path) -> str:
    """What `broker up` wrote there. Read here because this layer knows nothing of the processes.

    Raises:
      CommandError: no fleet runs there, or the folder is not this user's alone.
    """
    folder = state_dir.expanduser().absolute()
    try:
        is_private(folder)
        url = json.loads((folder / "up.json").read_bytes())["redis_url"]
    except NotPrivate as error:
        raise CommandError.from_text(str(error), otherwise="set BROKER_REDIS_URL") from error
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        step = f'run "{up_command(state_dir)}" or set BROKER_REDIS_URL; --state-dir names a fleet'
        raise CommandError(f"no broker runs in {state_dir}", step) from error
    return str(url)


def up_command(state_dir: Path) -> str:
    """What starts a fleet in that folder."""
    return "broker up" if state_dir == STATE_DIR else f"broker up --state-dir {quote(str(state_dir))}"


def _quiet_logs() -> None:
    """Warnings only, and on standard error: standard output is the answer's. On a terminal in words."""
    import structlog

    from broker.log_lines import Log

    log = Log.of(sys.stderr)
    structlog.configure(
        processors=[
            *((_in_words,) if sys.stderr.isatty() else ()),
            structlog.processors.add_log_level,
            log.tell_of_gap,
            structlog.processors.KeyValueRenderer(key_order=["level", "event"]),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING),
        logger_factory=lambda *_: log,
    )


def _in_words(_logger: Any, _method: str, event: "EventDict") -> "EventDict":
    """Say it to a person, or nothing where the command says it anyway."""
    import structlog

    match event["event"]:
        case "lease_lost":
            raise structlog.DropEvent
        case "reply_not_signed":
            note(
                f"a reply without a signature said {event['answer']}: {event['detail']}; it is not believed, asking on"
            )
            raise structlog.DropEvent
        case _:
            return event
