"""Shows the requests that no worker could settle: malformed, not ours, dangerous. Failed jobs are `broker dead`."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from broker.cli import options

if TYPE_CHECKING:
    from broker.settings import Settings

LIMIT_DEFAULT = 20


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(rich_help_panel="Operation")(refused)


def refused(
    limit: Annotated[int, typer.Option("--limit", metavar="N", min=1, help="At most so many.")] = LIMIT_DEFAULT,
    redis: options.RedisUrl = None,
    state_dir: options.StateFolder = None,
    json: options.Json = False,
) -> int:
    """List requests that were put aside because they can't be settled, the latest first, with the reason."""
    from broker.cli.output import emit, moment, table
    from broker.settings import load
    from workers.cli.failures import told

    with told():
        letters = _letters(load(redis_url=redis, state_dir=state_dir), limit)
    if json:
        for letter in letters:
            emit(letter)
        return 0
    rows = [
        (moment(each["at_ms"]), each["wire"], each["request_id"], each["reason"], each["entry"]) for each in letters
    ]
    table(("AT", "WIRE", "REQUEST", "REASON", "ENTRY"), rows)
    return 0


def _letters(settings: "Settings", limit: int) -> list[dict[str, Any]]:
    from workers.finishing import read_letters
    from workers.runtime import connect_redis

    with connect_redis(settings) as connection:
        return read_letters(connection, limit)
