"""What a factory does with a job: claim it, renew the lease, and end it."""

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from broker.cli import options
from broker.cli.session import INCARNATION, Target, connected


def register(app: typer.Typer) -> None:
    """Add the commands."""
    for command in (claim, renew, renew_many, complete, fail, release, hand_over, progress):
        app.command(command.__name__.replace("_", "-"), rich_help_panel="Factories")(command)


def claim(
    job_id: Annotated[str | None, typer.Argument(metavar="[JOB_ID]", help="This job; else any that fits.")] = None,
    factory: options.Factory = None,
    queue: options.Queue = "default",
    offers: options.Offers = None,
    wait: options.Wait = 0,
    count: options.Count = None,
    ttl: options.Ttl = None,
    request_id: options.RequestId = None,
    incarnation: options.Incarnation = INCARNATION,
    redis: options.RedisUrl = None,
    state_dir: options.StateFolder = None,
    timeout: options.Timeout = None,
    json: options.Json = False,
) -> int:
    """Claim a job: the answer holds the epoch and the token that the other commands ask for."""
    from broker.cli.answers import finish
    from broker.cli.output import span

    if count is not None and job_id is not None:
        raise typer.BadParameter("--count is for a claim without JOB_ID", param_hint="--count")
    target = Target(redis, state_dir, timeout, factory, incarnation, needs_factory=True)
    with connected(target) as client:
        reply = client.claim(
            job_id,
            queue=queue,
            offers=options.listed(offers),
            ttl_ms=ttl,
            wait_ms=wait,
            count=count,
            request_id=request_id,
        )
    lines = (
        f"granted job {grant['job_id']}, epoch {grant['epoch']}, for {span(grant['ttl_ms'])}, token {grant['token']}"
        for grant in (each.body for each in reply.grants)
    )
    return finish(reply, json=json, good="\n".join(lines))


def renew(
    job_id: options.LeasedJobId,
    epoch: options.Epoch,
    token: options.Token,
    factory: options.Factory = None,
    ttl: options.Ttl = None,
    request_id: options.RequestId = None,
    redis: options.RedisUrl = None,
    state_dir: options.StateFolder = None,
    timeout: options.Timeout = None,
    json: options.Json = False,
) -> int:
    """Extend the lease. The answer may carry a directive, such as to cancel."""
    from broker.cli.answers import finish
    from broker.cli.output import span

    target = Target(redis, state_dir, timeout, factory, needs_factory=True)
    with connected(target) as client:
        reply = client.renew(job_id, epoch=epoch, token=_token(token), ttl_ms=ttl, request_id=request_id)
    asked = reply.body.get("directives")
    good = f"renewed job {job_id}, epoch {epoch}, for {span(reply.body.get('ttl_ms'))}"
    return finish(reply, json=json, good=f"{good}; asked to {', '.join(asked)}" if asked else good)


def renew_many(
    leases: Annotated[
        Any,
        typer.Argument(metavar="JSON|@FILE|-", parser=options.json_value, help="Leases, or what `claim --count` said."),
    ],
    factory: options.Factory = None,
    request_id: options.RequestId = None,
    redis: options.RedisUrl = None,
    state_dir: options.StateFolder = None,
    timeout: options.Timeout = None,
    json: options.Json = False,
) -> int:
    """Extend many leases with one request. The worst of their answers makes the exit status."""
    from broker.cli.answers import finish
    from broker.cli.exits import EXITS
    from broker.cli.output import span

    given = leases.get("grants", [leases]) if isinstance(leases, dict) else leases
    if not isinstance(given, list) or not all(isinstance(lease, dict) for lease in given):
        raise typer.BadParameter("must be an array of objects with job_id, epoch and token", param_hint="JSON")
    target = Target(redis, state_dir, timeout, factory, needs_factory=True)
    with connected(target) as client:
        reply = client.renew_many(given, request_id=request_id)
    if not reply.good or json:
        return finish(reply, json=json, good="") or max(EXITS[each.answer] for each in reply.results)
    statuses = [
        finish(
            each,
            json=False,
            good=f"renewed job {each.body['job_id']}, epoch {each.body.get('epoch')}, for "
            f"{span(each.body.get('ttl_ms'))}",
        )
        for each in reply.results
    ]
    return max(statuses)


def complete(
    job_id: options.LeasedJobId,
    epoch: options.Epoch,
    token: options.Token,
    factory: options.Factory = None,
    result: options.Result = None,
    request_id: options.RequestId = None,
    redis: options.RedisUrl = None,
    state_dir: options.StateFolder = None,
    timeout: options.Timeout = None,
    json: options.Json = False,
) -> int:
    """End the job as succeeded, with its result."""
    target = Target(redis, state_dir, timeout, factory, needs_factory=True)
    with connected(target) as client:
        reply = client.complete(job_id, epoch=epoch, token=_token(token), result=result, request_id=request_id)
    return _ended(reply, job_id, json=json)


def fail(
    job_id: options.LeasedJobId,
    epoch: options.Epoch,
    token: options.Token,
    factory: options.Factory = None,
    error: Annotated[str, typer.Option("--error", metavar="TEXT", help="What went wrong.")] = "",
    result: options.Result = None,
    final: Annotated[bool, typer.Option("--final", help="Another try would fail too: don't schedule one.")] = False,
    request_id: options.RequestId = None,
    redis: options.RedisUrl = None,
    state_dir: options.StateFolder = None,
    timeout: options.Timeout = None,
    json: options.Json = False,
) -> int:
    """End this try as failed. The job is tried again later, unless its failures are used up."""
    target = Target(redis, state_dir, timeout, factory, needs_factory=True)
    with connected(target) as client:
        reply = client.fail(
            job_id,
            epoch=epoch,
            token=_token(token),
            error=error,
            result=result,
            retryable=not final,
            request_id=request_id,
        )
    return _ended(reply, job_id, json=json)


def release(
    job_id: options.LeasedJobId,
    epoch: options.Epoch,
    token: options.Token,
    factory: options.Factory = None,
    reason: options.Why = None,
    request_id: options.RequestId = None,
    redis: options.RedisUrl = None,
    state_dir: options.StateFolder = None,
    timeout: options.Timeout = None,
    json: options.Json = False,
) -> int:
    """Give the job back, for any factory to claim. No failure is counted."""
    target = Target(redis, state_dir, timeout, factory, needs_factory=True)
    with connected(target) as client:
        reply = client.release(job_id, epoch=epoch, token=_token(token), reason=reason, request_id=request_id)
    return _ended(reply, job_id, json=json)


def hand_over(
    job_id: options.LeasedJobId,
    epoch: options.Epoch,
    token: options.Token,
    to: Annotated[str, typer.Option("--to", metavar="F2", help="The factory that is to go on with it.")],
    reason: options.Why = None,
    factory: options.Factory = None,
    request_id: options.RequestId = None,
    redis: options.RedisUrl = None,
    state_dir: options.StateFolder = None,
    timeout: options.Timeout = None,
    json: options.Json = False,
) -> int:
    """Give the job to another factory: for one ttl nobody else gets it. A factory that drains is refused."""
    from broker.cli.answers import finish

    target = Target(redis, state_dir, timeout, factory, needs_factory=True)
    with connected(target) as client:
        reply = client.hand_over(job_id, epoch=epoch, token=_token(token), to=to, reason=reason, request_id=request_id)
    waits = reply.body.get("state") == "ready"
    return finish(reply, json=json, good=f"job {job_id} {f'waits for factory {to}' if waits else 'is cancelled'}")


def progress(
    job_id: options.LeasedJobId,
    epoch: options.Epoch,
    token: options.Token,
    progress: Annotated[
        Any, typer.Option("--progress", metavar="JSON", parser=options.json_value, help="JSON, `@file`, or `-`.")
    ],
    factory: options.Factory = None,
    request_id: options.RequestId = None,
    redis: options.RedisUrl = None,
    state_dir: options.StateFolder = None,
    timeout: options.Timeout = None,
    json: options.Json = False,
) -> int:
    """Say how far the job is. Seen with `broker runs`; it does not extend the lease."""
    from broker.cli.answers import finish

    target = Target(redis, state_dir, timeout, factory, needs_factory=True)
    with connected(target) as client:
        reply = client.progress(job_id, epoch=epoch, token=_token(token), progress=progress, request_id=request_id)
    return finish(reply, json=json, good=f"noted the progress of job {job_id}")


def _token(token: str) -> str:
    """The token itself: in an argument list every user of the machine could read it."""
    if token.startswith("@"):
        try:
            return Path(token[1:]).read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise typer.BadParameter(f"can't read {token}: {error}", param_hint="--token") from error
    return sys.stdin.readline().strip() if token == "-" else token  # noqa: S105  # not a token: standard input


def _ended(reply: Any, job_id: str, *, json: bool) -> int:
    from broker.cli.answers import finish
    from broker.cli.output import moment

    again = reply.body.get("not_before_ms")
    good = f"job {job_id} is {reply.body.get('state', 'settled')}"
    return finish(reply, json=json, good=f"{good}, to be tried again at {moment(again)}" if again else good)
