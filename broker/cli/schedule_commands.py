"""Recurring jobs on the command line."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from broker.cli import options
from broker.cli.output import emit, moment, say, table
from broker.cli.session import Target, connected

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


def add(
    name: Name,
    file: Annotated[str, typer.Argument(metavar="FILE|-", help="A job file with one job, without id.")],
    cron: Annotated[str, typer.Option("--cron", metavar="EXPR", help='Minute hour day month weekday: "*/5 * * * *".')],
    tz: Annotated[str, typer.Option("--tz", metavar="ZONE", help="Whose clock it is, such as Europe/Berlin.")] = "UTC",
    catch_up: Annotated[
        str, typer.Option("--catch-up", metavar="|".join(CATCH_UPS), help="Fires missed in an outage to make up for.")
    ] = "last",
    replace: Annotated[bool, typer.Option("--replace", help="Change the schedule of this name.")] = False,
    request_id: options.RequestId = None,
    factory: options.Factory = None,
    redis: options.RedisUrl = None,
    state_dir: options.StateFolder = None,
    timeout: options.Timeout = None,
    json: options.Json = False,
) -> int:
    """Submit the job of a file at every time that fits a cron expression. Each time makes one job, never two."""
    from broker.cli.answers import finish
    from broker.cli.exits import Exit
    from broker.cli.submit_command import read_file

    if catch_up not in CATCH_UPS:
        raise typer.BadParameter(f"{catch_up!r} is none of {', '.join(CATCH_UPS)}", param_hint="--catch-up")
    found = read_file(file, None, json=json)
    if found is None:
        return int(Exit.REFUSED)
    if len(found) != 1:
        raise typer.BadParameter(f"{file} holds {len(found)} jobs; a schedule submits one", param_hint="FILE")
    with connected(Target(redis, state_dir, timeout, factory)) as client:
        reply = client.put_schedule(
            name, cron=cron, job=found[0].body, tz=tz, catch_up=catch_up, replace=replace, request_id=request_id
        )
    return finish(reply, json=json, good=f"schedule {name} fires next at {moment(reply.body.get('next_ms'))}")


def schedules(
    factory: options.Factory = None,
    redis: options.RedisUrl = None,
    state_dir: options.StateFolder = None,
    timeout: options.Timeout = None,
    json: options.Json = False,
) -> int:
    """List the schedules: when each fires next, and the job it made last."""
    with connected(Target(redis, state_dir, timeout, factory, only_reads=True)) as client:
        found = _all(client)
    if json:
        for each in found:
            emit({name: value for name, value in each.items() if name != "job"})
        return 0
    rows = [
        (each["name"], each["state"], each["cron"], each["tz"], each["catch_up"], _next(each), each.get("last_job_id"))
        for each in found
    ]
    table(("SCHEDULE", "STATE", "CRON", "ZONE", "CATCH-UP", "NEXT", "LAST JOB"), rows)
    return 0


def show(
    name: Name,
    factory: options.Factory = None,
    redis: options.RedisUrl = None,
    state_dir: options.StateFolder = None,
    timeout: options.Timeout = None,
    json: options.Json = False,
) -> int:
    """Show one schedule and the job it submits."""
    import json as text

    from broker.cli.answers import finish

    with connected(Target(redis, state_dir, timeout, factory, only_reads=True)) as client:
        reply = client.schedules(name)
    if not reply.good:
        return finish(reply, json=json, good="")
    [found] = reply.body["schedules"]
    if json:
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
    say(text.dumps(found["job"], indent=2, ensure_ascii=False))
    return 0


def pause(
    name: Name,
    factory: options.Factory = None,
    redis: options.RedisUrl = None,
    state_dir: options.StateFolder = None,
    timeout: options.Timeout = None,
    json: options.Json = False,
) -> int:
    """Stop a schedule from firing until it is resumed. What it has submitted goes on."""
    return _change(name, "paused", Target(redis, state_dir, timeout, factory), json=json)


def resume(
    name: Name,
    factory: options.Factory = None,
    redis: options.RedisUrl = None,
    state_dir: options.StateFolder = None,
    timeout: options.Timeout = None,
    json: options.Json = False,
) -> int:
    """Let a paused schedule fire again, from now on."""
    return _change(name, "active", Target(redis, state_dir, timeout, factory), json=json)


def remove(
    name: Name,
    factory: options.Factory = None,
    redis: options.RedisUrl = None,
    state_dir: options.StateFolder = None,
    timeout: options.Timeout = None,
    json: options.Json = False,
) -> int:
    """Remove a schedule. What it has submitted goes on."""
    return _change(name, "removed", Target(redis, state_dir, timeout, factory), json=json)


def _change(name: str, to: str, target: Target, *, json: bool) -> int:
    from broker.cli.answers import finish

    with connected(target) as client:
        reply = client.change_schedule(name, to)
    return finish(reply, json=json, good=f"schedule {name} is {to}")


def _all(client: "Client") -> list[dict[str, Any]]:
    from broker.cli.errors import CommandError
    from broker.cli.exits import EXITS

    found: list[dict[str, Any]] = []
    cursor = None
    while True:
        reply = client.schedules(limit=PAGE, cursor=cursor)
        if not reply.good:
            raise CommandError(reply.summary, "try again; see `broker doctor`", exit=EXITS[reply.answer])
        found += reply.body["schedules"]
        cursor = reply.body["cursor"]
        if cursor is None:
            return found


def _next(schedule: dict[str, Any]) -> str | None:
    return moment(schedule["next_ms"]) if schedule["state"] == "active" else None
