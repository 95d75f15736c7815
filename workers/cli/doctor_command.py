"""Tells what keeps a broker from running here, and what to do about it."""

import typer

from broker.cli import options


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(rich_help_panel="Operation")(doctor)


def doctor(
    redis: options.RedisUrl = None,
    datastore: options.DatastoreUrl = None,
    state_dir: options.StateFolder = None,
    json: options.Json = False,
) -> int:
    """Check what a broker needs on this machine, a line for each. Exit 0 if nothing is missing."""
    from broker.cli.output import emit, say
    from broker.settings import load
    from workers.diagnosis import examine

    healthy = True
    for symptom in examine(load(redis_url=redis, datastore_url=datastore, state_dir=state_dir)):
        healthy = healthy and symptom.problem is None
        problem, _, advice = (symptom.problem or "").rpartition("; ")
        if json:
            shown = {"check": symptom.name, "ok": symptom.problem is None, "found": symptom.found or None}
            emit({**shown, "problem": problem or advice or None, "next": advice if problem else None})
        elif symptom.problem is None:
            say(f"ok       {symptom.name:<13} {symptom.found}")
        else:
            say(f"problem  {symptom.name:<13} {symptom.problem}")
    return 0 if healthy else 1
