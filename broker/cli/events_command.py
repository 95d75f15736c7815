"""`broker events`: what happens to jobs, as it happens."""

from typing import TYPE_CHECKING, Annotated

import typer

from broker.cli.asking import LOOKING_AT_FACTORY, Ask, asks
from broker.cli.output import emit, moment, note, say, span

if TYPE_CHECKING:
    from broker.events import Event


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(rich_help_panel="Jobs")(events)


@asks(LOOKING_AT_FACTORY)
def events(
    ask: Ask,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on with what happens, until Ctrl-C.")] = False,
    since: Annotated[
        str | None,
        typer.Option("--since", metavar="CURSOR", help="After this event; `now`: only what happens from now on."),
    ] = None,
    job: Annotated[str | None, typer.Option("--job", metavar="JOB_ID", help="Of this job only.")] = None,
    factory: Annotated[str | None, typer.Option("--factory", metavar="F", help="Of this factory only.")] = None,
    limit: Annotated[int, typer.Option("--limit", metavar="N", min=0, help="End after so many; 0: never.")] = 0,
) -> int:
    """Tell what happened to jobs, oldest first: a recent past that Redis keeps; `broker runs` has the record."""
    last = None
    with ask.connected() as client:
        found = client.events(since=since, follow=follow, job_id=job, factory_id=factory)
        for count, event in enumerate(found, start=1):
            last = event.cursor or last
            emit(event.plain()) if ask.json else say(_line(event))
            if count == limit:
                break
    if last is not None and not ask.json:
        note(f"go on from here with --since {last}")
    return 0


def _line(event: "Event") -> str:
    about = event.job_id or event.subject
    if not about:
        return f"{event.event}: {event.reason}"
    facts = [
        f"epoch {event.epoch}" if event.epoch else None,
        event.factory_id,
        f"by {event.by}" if event.by else None,
        f"held by {event.holder}" if event.holder else None,
        f"now {event.state}" if event.state and event.event not in (event.state, "claimed", "renewed") else None,
        f"for {span(event.until_ms - event.at_ms)}" if event.until_ms and event.until_ms > event.at_ms else None,
        f"{event.renewals} renewals" if event.renewals else None,
        event.reason,
    ]
    return f"{moment(event.at_ms)}  {event.event:<16} {about}  {', '.join(fact for fact in facts if fact)}"
