"""The factories of the fleet: a start registers, an operator looks at them, drains, resumes and removes them."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any

import typer

from broker.cli import options
from broker.cli.asking import LOOKING_AT_FACTORY, OF_FACTORY, Ask, asks
from broker.cli.output import emit, moment, say, span, table
from broker.cli.session import INCARNATION

if TYPE_CHECKING:
    from broker.client import Client

PAGE_FACTORIES = 200

Name = Annotated[str, typer.Argument(metavar="FACTORY", help="The factory.")]


def register(app: typer.Typer) -> None:
    """Add the group of commands."""
    group = typer.Typer(help="Register factories, look at them, drain, resume and remove them.", no_args_is_help=True)
    group.command("register")(register_factory)
    group.command("list")(list_factories)
    for command in (show, drain, resume, remove):
        group.command()(command)
    app.add_typer(group, name="factory", rich_help_panel="Factories")


@asks(OF_FACTORY)
def register_factory(
    ask: Ask,
    name: Name,
    offers: options.Offers = None,
    capacity: Annotated[
        int | None, typer.Option("--capacity", metavar="N", min=1, help="Jobs it runs at once; only shown.")
    ] = None,
    version: Annotated[str | None, typer.Option("--version", metavar="V", help="What it runs; only shown.")] = None,
    incarnation: options.Incarnation = INCARNATION,
) -> int:
    """Register a start of a factory, and what it offers where a claim names nothing.

    Under a new --incarnation it is a restart: the leases of the earlier one end at once, and it gets no more work.
    """
    with ask.connected(factory=name, incarnation=incarnation) as client:
        reply = client.register(
            capacity=capacity, version=version, offers=options.listed(offers), request_id=ask.request_id
        )
    good = f"registered factory {name}, incarnation {reply.body.get('incarnation')}"
    if ended := reply.body.get("ended"):
        good += f"; the leases of earlier starts have ended: {', '.join(ended)}"
    if reply.body.get("drain"):
        good += f"; it is draining{_why(reply.body['drain'])}"
    return ask.finish(reply, good=good)


@asks(LOOKING_AT_FACTORY)
def list_factories(
    ask: Ask,
) -> int:
    """List the factories: what they offer, when they were last heard of, how many leases they hold."""
    with ask.connected() as client:
        found = list(_factories(client))
    if ask.json:
        for each, _ in found:
            emit(each)
        return 0
    rows = [
        (each["factory"], _standing(each), each["leases"], each["capacity"], ",".join(each["offers"]), each["version"],
         _ago(each, now_ms))
        for each, now_ms in found
    ]  # fmt: skip
    table(("FACTORY", "STATE", "LEASES", "CAPACITY", "OFFERS", "VERSION", "LAST SEEN"), rows)
    return 0


@asks(LOOKING_AT_FACTORY)
def show(
    ask: Ask,
    name: Name,
) -> int:
    """Show one factory and the leases it holds."""
    with ask.connected() as client:
        reply = client.factory(name)
    if ask.json or not reply.good:
        return ask.finish(reply, good="")
    facts = reply.body
    for label, value in (
        ("factory", facts["factory"]),
        ("state", _standing(facts)),
        ("incarnation", facts["incarnation"]),
        ("since", moment(facts["since_ms"])),
        ("last seen", _ago(facts, reply.server_now_ms)),
        ("capacity", facts["capacity"]),
        ("version", facts["version"]),
        ("offers", ", ".join(facts["offers"])),
    ):
        say(f"{label:<12} {'-' if value in (None, '') else value}")
    rows = [
        (each["job_id"], each["queue"], each["epoch"], span(each["remaining_ms"]), each["renewals"],
         "asked" if each["cancel"] else None)
        for each in facts["leases"]
    ]  # fmt: skip
    table(("JOB", "QUEUE", "EPOCH", "REMAINING", "RENEWALS", "CANCEL"), rows)
    return 0


@asks(OF_FACTORY)
def drain(
    ask: Ask,
    name: Name,
    reason: Annotated[
        str | None, typer.Option("--reason", "--note", metavar="TEXT", help="Told to the factory.")
    ] = None,
    until: Annotated[
        int | None,
        typer.Option("--until", metavar="TIME", parser=options.moment, help="End of it, e.g. 2026-01-31T18:00:00Z."),
    ] = None,
    for_: Annotated[
        int | None,
        typer.Option(
            "--for", metavar="SECONDS", parser=options.milliseconds, help="How long, e.g. 2h; else until resumed."
        ),
    ] = None,
) -> int:
    """Give a factory no new work. What it holds it renews and finishes; its claims are answered `draining`."""
    from broker.clock import host_now_ms

    if until is not None and for_ is not None:
        raise typer.BadParameter("give --until or --for, not both", param_hint="--until")
    if until is not None and until <= host_now_ms():
        raise typer.BadParameter(f"it is past; `broker factory resume {name}` ends a drain", param_hint="--until")
    with ask.connected() as client:
        reply = client.drain(name, reason=reason, until_ms=until, for_ms=for_, request_id=ask.request_id)
    stands = reply.body.get("drain")  # none where this one is known, and over or resumed
    return ask.finish(
        reply, good=f"factory {name} {'does not drain' if stands is None else f'is draining{_why(stands)}'}"
    )


@asks(OF_FACTORY)
def resume(
    ask: Ask,
    name: Name,
) -> int:
    """End a drain: the factory gets work again."""
    with ask.connected() as client:
        reply = client.resume(name, request_id=ask.request_id)
    return ask.finish(reply, good=f"factory {name} gets work")


@asks(OF_FACTORY)
def remove(
    ask: Ask,
    name: Name,
    force: Annotated[bool, typer.Option("--force", help="Also where it holds leases: they end at once.")] = False,
) -> int:
    """Forget a factory. It comes back by registering a new start."""
    with ask.connected() as client:
        reply = client.remove(name, force=force, request_id=ask.request_id)
    if not reply.good and not ask.json and (leases := reply.body.get("leases")):
        from broker.cli.exits import EXITS
        from broker.cli.output import complain

        held = ", ".join(each["job_id"] for each in leases)
        complain(f"factory {name} holds {held}", f"`broker factory drain {name}` and wait, or end them with --force")
        return EXITS[reply.answer]
    return ask.finish(reply, good=f"removed factory {name}")


def _factories(client: "Client") -> Iterator[tuple[dict[str, Any], int]]:
    """Factories over all pages, each with the broker time of its page."""
    from broker.cli.answers import require_good

    cursor = None
    while True:
        reply = client.factories(limit=PAGE_FACTORIES, cursor=cursor)
        require_good(reply)
        for each in reply.body["factories"]:
            yield each, reply.server_now_ms
        cursor = reply.body.get("cursor")
        if cursor is None:
            return


def _standing(facts: Any) -> str:
    if facts["drain"]:
        return f"draining{_why(facts['drain'])}"
    return "registered" if facts["incarnation"] else "not registered"


def _why(drain: Any) -> str:
    """Why and until when it drains."""
    why = f" ({drain['reason']})" if drain.get("reason") else ""
    return f"{why} until {moment(drain['until_ms'])}" if drain.get("until_ms") else why


def _ago(facts: Any, now_ms: int) -> str | None:
    seen_ms = facts.get("last_seen_ms")
    return None if seen_ms is None else f"{span(max(0, now_ms - seen_ms))} ago"
