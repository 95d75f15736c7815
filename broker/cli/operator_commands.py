"""What an operator does with a job: cancel it, revoke its lease, hold it and lift the hold."""

from typing import Annotated

import typer

from broker.cli import options
from broker.cli.session import Target, connected


def register(app: typer.Typer) -> None:
    """Add the commands."""
    for command in (cancel, revoke, hold, lift):
        app.command(rich_help_panel="Jobs")(command)


def cancel(
    job_id: options.JobId,
    reason: options.Why = None,
    request_id: options.RequestId = None,
    factory: options.Factory = None,
    redis: options.RedisUrl = None,
    state_dir: options.StateFolder = None,
    timeout: options.Timeout = None,
    json: options.Json = False,
) -> int:
    """Cancel a waiting job; ask the holder of a leased one to stop, and enforce it after a grace."""
    from broker.cli.answers import finish

    with connected(Target(redis, state_dir, timeout, factory)) as client:
        reply = client.cancel(job_id, reason=reason, request_id=request_id)
    leased = reply.body.get("state") == "leased"
    good = f"asked the holder of job {job_id} to stop" if leased else f"job {job_id} is cancelled"
    return finish(reply, json=json, good=good)


def revoke(
    job_id: options.JobId,
    reason: options.Why = None,
    hold: Annotated[bool, typer.Option("--hold", help="Keep it from being claimed again.")] = False,
    request_id: options.RequestId = None,
    factory: options.Factory = None,
    redis: options.RedisUrl = None,
    state_dir: options.StateFolder = None,
    timeout: options.Timeout = None,
    json: options.Json = False,
) -> int:
    """Take the lease away from its holder, at once. What that one still sends is refused."""
    from broker.cli.answers import finish

    with connected(Target(redis, state_dir, timeout, factory)) as client:
        reply = client.revoke(job_id, reason=reason, hold=hold, request_id=request_id)
    return finish(reply, json=json, good=f"revoked the lease of job {job_id}{', which is held' if hold else ''}")


def hold(
    job_id: options.JobId,
    reason: options.Why = None,
    request_id: options.RequestId = None,
    factory: options.Factory = None,
    redis: options.RedisUrl = None,
    state_dir: options.StateFolder = None,
    timeout: options.Timeout = None,
    json: options.Json = False,
) -> int:
    """Keep a job from being claimed until it is lifted; whoever holds it goes on."""
    from broker.cli.answers import finish

    with connected(Target(redis, state_dir, timeout, factory)) as client:
        reply = client.hold(job_id, reason=reason, request_id=request_id)
    return finish(reply, json=json, good=f"job {job_id} is held; `broker lift {job_id}` ends that")


def lift(
    job_id: options.JobId,
    request_id: options.RequestId = None,
    factory: options.Factory = None,
    redis: options.RedisUrl = None,
    state_dir: options.StateFolder = None,
    timeout: options.Timeout = None,
    json: options.Json = False,
) -> int:
    """End a hold: the job may be claimed again."""
    from broker.cli.answers import finish

    with connected(Target(redis, state_dir, timeout, factory)) as client:
        reply = client.lift(job_id, request_id=request_id)
    return finish(reply, json=json, good=f"job {job_id} is {reply.body.get('state')}, and not held")
