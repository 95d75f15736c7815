"""Recurring jobs on the command line."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from broker.cli.asking import AS_OPERATOR, LOOKING, Ask, asks
from broker.cli.output import emit, moment, say, table

if TYPE_CHECKING:
    from broker.client import Client

PAGE = 200
CATCH_UPS = ("none", "last", "all")

Name = Annotated[str, typer.Argument(metavar="NAME", help="The schedule.")]


def register(app: typer.Typer) -> None:
    """Add the group."""
    group = typer.Typer(help="Recurring jobs: a job file submitted again and again.", no_args_is_help=True)
    group.command(name="list")(schedules)
    for command in (add, show, pause, resume, remove):
        group.command()(command)
    app.add_typer(group, name="schedule", rich_help_panel="Jobs")


@asks(AS_OPERATOR)
def add(
    ask: Ask,
    name: Name,
    file: Annotated[str, typer.Argument(metavar="FILE|-", help="A job file with one job, without id.")],
    cron: Annotated[str, typer.Option("--cron", metavar="EXPR", help='Minute hour day month weekday: "*/5 * * * *".')],
    tz: Annotated[
        str | None,
        typer.Option("--tz", metavar="ZONE", help="Whose clock it is, such as Europe/Berlin; UTC unless given."),
    ] = None,
    catch_up: Annotated[
        str | None,
        typer.Option(
            "--catch-up",
            metavar="|".join(CATCH_UPS),
            help="Fires missed in an outage to make up for; last unless given.",
        ),
    ] = None,
    replace: Annotated[
        bool,
        typer.Option("--replace", help="Change the schedule of this name; it keeps its zone, catch-up and pause."),
    ] = False,
) -> int:
    """Submit the job of a file at every time that fits a cron expression. Each time makes one job, never two."""
    from broker.cli.exits import Exit
    from broker.cli.submit_command import read_file

    if catch_up is not None and catch_up not in CATCH_UPS:
        raise typer.BadParameter(f"{catch_up!r} is none of {', '.join(CATCH_UPS)}", param_hint="--catch-up")
    found = read_file(file, None, json=ask.json)
    if found is None:
        return int(Exit.REFUSED)
    if len(found) != 1:
        raise typer.BadParameter(f"{file} holds {len(found)} jobs; a schedule submits one", param_hint="FILE")
    with ask.connected() as client:
        reply = client.put_schedule(
            name, cron=cron, job=found[0].body, tz=tz, catch_up=catch_up, replace=replace, request_id=ask.request_id
        )
    if reply.body.get("state") == "paused":
        return ask.finish(
            reply, good=f"schedule {name} is changed, and stays paused; `broker schedule resume` ends that"
        )
    return ask.finish(reply, good=f"schedule {name} fires next at {moment(reply.body.get('next_ms'))}")


@asks(LOOKING)
def schedules(
    ask: Ask,
) -> int:
    """List the schedules: when each fires next, and the job it made last."""
    with ask.connected() as client:
        found = _all(client)
    if ask.json:
        for each in found:
            emit({name: value for name, value in each.items() if name != "job"})
        return 0
    rows = [
        (each["name"], each["state"], each["cron"], each["tz"], each["catch_up"], _next(each), each.get("last_job_id"))
        for each in found
    ]
    table(("SCHEDULE", "STATE", "CRON", "ZONE", "CATCH-UP", "NEXT", "LAST JOB"), rows)
    return 0


@asks(LOOKING)
def show(
    ask: Ask,
    name: Name,
) -> int:
    """Show one schedule and the job it submits."""
    import json as text

    with ask.connected() as client:
        reply = client.schedules(name)
    if not reply.good:
        return ask.finish(reply, good="")
    [found] = reply.body["schedules"]
    if ask.json:
        emit(found)
        return 0
    lines = (
        ("schedule", found["name"]),
        ("state", found["state"]),
        ("cron", f"{found['cron']}, {found['tz']}"),
        ("catch-up", found["catch_up"]),
        ("next", _next(found)),
        ("last", found.get("last_job_id")),
    )
    for label, value in lines:
        say(f"{label:<11} {value or '-'}")
    say("job")
    say(*text.dumps(found["job"], indent=2, ensure_ascii=False).split("\n"))
    return 0


@asks(AS_OPERATOR)
def pause(
    ask: Ask,
    name: Name,
) -> int:
    """Stop a schedule from firing until it is resumed. What it has submitted goes on."""
    return _change(ask, name, "paused")


@asks(AS_OPERATOR)
def resume(
    ask: Ask,
    name: Name,
) -> int:
    """Let a paused schedule fire again, from now on."""
    return _change(ask, name, "active")


@asks(AS_OPERATOR)
def remove(
    ask: Ask,
    name: Name,
) -> int:
    """Remove a schedule. What it has submitted goes on."""
    return _change(ask, name, "removed")


def _change(ask: Ask, name: str, to: str) -> int:
    with ask.connected() as client:
        reply = client.change_schedule(name, to, request_id=ask.request_id)
    return ask.finish(reply, good=f"schedule {name} is {to}")


def _all(client: "Client") -> list[dict[str, Any]]:
    from broker.cli.answers import require_good

    found: list[dict[str, Any]] = []
    cursor = None
    while True:
        reply = client.schedules(limit=PAGE, cursor=cursor)
        require_good(reply)
        found += reply.body["schedules"]
        cursor = reply.body["cursor"]
        if cursor is None:
            return found


def _next(schedule: dict[str, Any]) -> str | None:
    return moment(schedule["next_ms"]) if schedule["state"] == "active" else None
