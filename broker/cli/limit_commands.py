"""What an operator sets for the whole fleet: `broker limit …` and `broker queue …`."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any

import typer

from broker.answers import Word
from broker.cli.asking import AS_OPERATOR, LOOKING, Ask, asks
from broker.cli.exits import EXITS
from broker.cli.output import complain, emit, moment, table

if TYPE_CHECKING:
    from broker.client import Reply


def rate_of(text: str | tuple[int, int]) -> tuple[int, int]:
    """Grants and milliseconds of `30/min`, `100/s`, `5/h` or `500/10s`."""
    if isinstance(text, tuple):  # a default, which the parser hands through
        return text
    from broker.jobfile import duration_ms

    count, _, window = text.partition("/")
    words = {"s": "1s", "sec": "1s", "min": "1m", "m": "1m", "h": "1h", "hour": "1h", "d": "1d", "day": "1d"}
    try:
        found = int(count), duration_ms(words.get(window.strip(), window))
    except ValueError as error:
        raise typer.BadParameter(f"{text} is no rate: write 30/min, 100/s, 5/h or 500/10s") from error
    if not (1 <= found[0] <= 1_000 and 100 <= found[1] <= 86_400_000):
        raise typer.BadParameter(f"{text}: 1 to 1000 in 100ms to 1d; a higher rate takes a shorter window")
    return found


def limit_name(text: str) -> str:
    """The name of a limit."""
    scope, _, name = text.partition(":")
    if scope not in ("queue", "key", "factory") or not name:
        raise typer.BadParameter(f"{text} is no limit: write queue:NAME, key:NAME or factory:NAME")
    return text


LimitName = Annotated[
    str, typer.Argument(metavar="LIMIT", parser=limit_name, help="queue:NAME, key:NAME or factory:NAME.")
]
QueueName = Annotated[str, typer.Argument(metavar="QUEUE", help="The queue.")]
Rate = Annotated[
    Any, typer.Option("--rate", metavar="N/TIME", parser=rate_of, help="Grants in any window, e.g. 30/min or 500/10s.")
]


def register(app: typer.Typer) -> None:
    """Add the two groups."""
    limit = typer.Typer(help="Limit how many jobs run at once, and how often one starts.", no_args_is_help=True)
    limit.command("set")(set_limit)
    limit.command("remove")(remove_limit)
    limit.command("list")(list_limits)
    queue = typer.Typer(help="Pause a queue, and resume it.", no_args_is_help=True)
    queue.command("pause")(pause)
    queue.command("resume")(resume)
    queue.command("list")(list_queues)
    app.add_typer(limit, name="limit", rich_help_panel="Operation")
    app.add_typer(queue, name="queue", rich_help_panel="Operation")


@asks(AS_OPERATOR)
def set_limit(
    ask: Ask,
    limit: LimitName,
    capacity: Annotated[int | None, typer.Argument(metavar="N", min=0, max=1_000, help="Jobs at once.")] = None,
    rate: Rate = None,
) -> int:
    """Limit how many jobs of a queue, a key or a factory run at once, or how often one starts, or both.

    What is left out stays as it was. Jobs that run go on, and count.
    """
    if capacity is None and rate is None:
        raise typer.BadParameter("say how many jobs at once, or a --rate", param_hint="N")
    with ask.connected() as client:
        reply = client.set_limit(limit, capacity=capacity, rate=rate, request_id=ask.request_id)
    return ask.finish(reply, good=f"{limit}: {_allows(reply.body)}, {reply.body.get('used')} in use")


@asks(AS_OPERATOR)
def remove_limit(
    ask: Ask,
    limit: LimitName,
) -> int:
    """Take a limit away, its number and its rate."""
    with ask.connected() as client:
        reply = client.remove_limit(limit, request_id=ask.request_id)
    if reply.answer is Word.NOT_FOUND and not ask.json:
        complain(f"{limit} is not limited", "see `broker limit list`")
        return EXITS[reply.answer]
    return ask.finish(reply, good=f"{limit} is not limited any more")


@asks(LOOKING)
def list_limits(
    ask: Ask,
) -> int:
    """List the limits and who uses them."""
    with ask.connected() as client:
        reply = client.limits()
    rows = [
        (each["limit"], each["capacity"], _rate(each["rate"]), each["used"],
         ", ".join(holder["job_id"] for holder in each["holders"]))
        for each in reply.body.get("limits", ())
    ]  # fmt: skip
    return _list(ask, reply, "limits", ("LIMIT", "AT ONCE", "RATE", "USED", "BY"), rows)


@asks(AS_OPERATOR)
def pause(
    ask: Ask,
    queue: QueueName,
    reason: Annotated[
        str | None, typer.Option("--reason", metavar="TEXT", help="Told to whoever asks for its work.")
    ] = None,
) -> int:
    """Hand out no more work of a queue; whoever holds some of it goes on."""
    with ask.connected() as client:
        reply = client.pause_queue(queue, reason=reason, request_id=ask.request_id)
    return ask.finish(reply, good=f"queue {queue} is paused; `broker queue resume {queue}` ends that")


@asks(AS_OPERATOR)
def resume(
    ask: Ask,
    queue: QueueName,
) -> int:
    """Hand out the work of a queue again; claims that wait for it come first."""
    with ask.connected() as client:
        reply = client.resume_queue(queue, request_id=ask.request_id)
    return ask.finish(reply, good=f"queue {queue} is served")


@asks(LOOKING)
def list_queues(
    ask: Ask,
) -> int:
    """List the queues that are paused or limited; every other is served without a limit."""
    with ask.connected() as client:
        reply = client.queues()
    rows = [
        (each["queue"], "paused" if each["paused"] else "served", moment(each["since_ms"]), each["why"],
         each["capacity"], _rate(each["rate"]))
        for each in reply.body.get("queues", ())
    ]  # fmt: skip
    return _list(ask, reply, "queues", ("QUEUE", "STATE", "SINCE", "REASON", "AT ONCE", "RATE"), rows)


def _list(ask: Ask, reply: "Reply", field: str, columns: tuple[str, ...], rows: list[tuple[Any, ...]]) -> int:
    if not reply.good:
        return ask.finish(reply, good="")
    if ask.json:
        for each in reply.body[field]:
            emit(each)
        return 0
    table(columns, rows)
    return 0


def _allows(limit: Mapping[str, Any]) -> str:
    said = [] if limit.get("capacity") is None else [f"{limit['capacity']} at once"]
    return " and ".join(said + ([str(_rate(limit["rate"]))] if limit.get("rate") else []))


def _rate(rate: dict[str, Any] | None) -> str | None:
    from broker.cli.output import span

    return f"{rate['count']} in {span(rate['per_ms'])}" if rate else None
