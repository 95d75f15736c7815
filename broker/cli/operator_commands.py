"""What an operator does with a job: cancel it, revoke its lease, hold it and lift the hold."""

from typing import Annotated

import typer

from broker.cli import options
from broker.cli.asking import AS_OPERATOR, Ask, asks


def register(app: typer.Typer) -> None:
    """Add the commands."""
    for command in (cancel, revoke, hold, lift):
        app.command(rich_help_panel="Jobs")(command)


@asks(AS_OPERATOR)
def cancel(
    ask: Ask,
    job_id: options.JobId,
    reason: options.Why = None,
) -> int:
    """Cancel a waiting job; ask the holder of a leased one to stop, and enforce it after a grace."""
    with ask.connected() as client:
        reply = client.cancel(job_id, reason=reason, request_id=ask.request_id)
    leased = reply.body.get("state") == "leased"
    good = f"asked the holder of job {job_id} to stop" if leased else f"job {job_id} is cancelled"
    return ask.finish(reply, good=good)


@asks(AS_OPERATOR)
def revoke(
    ask: Ask,
    job_id: options.JobId,
    reason: options.Why = None,
    hold: Annotated[bool, typer.Option("--hold", help="Keep it from being claimed again.")] = False,
) -> int:
    """Take the lease away from its holder, at once. What that one still sends is refused."""
    with ask.connected() as client:
        reply = client.revoke(job_id, reason=reason, hold=hold, request_id=ask.request_id)
    return ask.finish(reply, good=f"revoked the lease of job {job_id}{', which is held' if hold else ''}")


@asks(AS_OPERATOR)
def hold(
    ask: Ask,
    job_id: options.JobId,
    reason: options.Why = None,
) -> int:
    """Keep a job from being claimed until it is lifted; whoever holds it goes on."""
    with ask.connected() as client:
        reply = client.hold(job_id, reason=reason, request_id=ask.request_id)
    return ask.finish(reply, good=f"job {job_id} is held; `broker lift {job_id}` ends that")


@asks(AS_OPERATOR)
def lift(
    ask: Ask,
    job_id: options.JobId,
) -> int:
    """End a hold: the job may be claimed again."""
    with ask.connected() as client:
        reply = client.lift(job_id, request_id=ask.request_id)
    return ask.finish(reply, good=f"job {job_id} is {reply.body.get('state')}, and not held")
