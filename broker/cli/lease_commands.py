"""What a factory does with a job: claim it, renew the lease, and end it."""

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from broker.cli import options
from broker.cli.asking import AS_HOLDER, Ask, asks
from broker.cli.session import INCARNATION


def register(app: typer.Typer) -> None:
    """Add the commands."""
    for command in (claim, renew, renew_many, complete, fail, release, hand_over, progress):
        app.command(command.__name__.replace("_", "-"), rich_help_panel="Factories")(command)


@asks(AS_HOLDER)
def claim(
    ask: Ask,
    job_id: Annotated[str | None, typer.Argument(metavar="JOB_ID", help="This job; else any that fits.")] = None,
    queue: options.Queue = "default",
    offers: options.Offers = None,
    wait: options.Wait = 0,
    count: options.Count = None,
    ttl: options.Ttl = None,
    incarnation: options.Incarnation = INCARNATION,
) -> int:
    """Claim a job: the answer holds the epoch and the token that the other commands ask for."""
    from broker.cli.answers import waited_in_vain
    from broker.cli.output import span

    if count is not None and job_id is not None:
        raise typer.BadParameter("--count is for a claim without JOB_ID", param_hint="--count")
    with ask.connected(incarnation=incarnation) as client:
        reply = client.claim(
            job_id,
            queue=queue,
            offers=options.listed(offers),
            ttl_ms=ttl,
            wait_ms=wait,
            count=count,
            request_id=ask.request_id,
        )
    step = waited_in_vain(reply, factory=client.factory_id, queue=queue) if wait else None
    lines = [
        f"granted job {grant['job_id']}, epoch {grant['epoch']}, for {span(grant['ttl_ms'])}, token {grant['token']}"
        for grant in (each.body for each in reply.grants)
    ]
    return ask.finish(reply, good=lines or "", step=step)


@asks(AS_HOLDER)
def renew(
    ask: Ask,
    job_id: options.LeasedJobId,
    epoch: options.Epoch,
    token: options.Token,
    ttl: options.Ttl = None,
) -> int:
    """Extend the lease. The answer may carry a directive, such as to cancel."""
    from broker.cli.output import span

    with ask.connected() as client:
        reply = client.renew(job_id, epoch=epoch, token=_token(token), ttl_ms=ttl, request_id=ask.request_id)
    asked = reply.body.get("directives")
    good = f"renewed job {job_id}, epoch {epoch}, for {span(reply.body.get('ttl_ms'))}"
    return ask.finish(reply, good=f"{good}; asked to {', '.join(asked)}" if asked else good)


@asks(AS_HOLDER)
def renew_many(
    ask: Ask,
    leases: Annotated[
        Any,
        typer.Argument(metavar="JSON|@FILE|-", parser=options.json_value, help="Leases, or what `claim --count` said."),
    ],
) -> int:
    """Extend many leases with one request. The worst of their answers makes the exit status."""
    from broker.cli.exits import EXITS
    from broker.cli.output import span

    given = leases.get("grants", [leases]) if isinstance(leases, dict) else leases
    if given == []:
        raise typer.BadParameter("holds no lease: there is nothing to renew", param_hint="JSON")
    if not isinstance(given, list) or not all(map(_is_lease, given)):
        raise typer.BadParameter("must be an array of objects with job_id, epoch and token", param_hint="JSON")
    with ask.connected() as client:
        reply = client.renew_many(given, request_id=ask.request_id)
    if not reply.good or ask.json:
        return ask.finish(reply, good="") or max(EXITS[each.answer] for each in reply.results)
    statuses = [
        ask.finish(
            each,
            good=f"renewed job {each.body['job_id']}, epoch {each.body.get('epoch')}, for "
            f"{span(each.body.get('ttl_ms'))}",
        )
        for each in reply.results
    ]
    return max(statuses)


def _is_lease(given: Any) -> bool:
    return isinstance(given, dict) and {"job_id", "epoch", "token"} <= given.keys()


@asks(AS_HOLDER)
def complete(
    ask: Ask,
    job_id: options.LeasedJobId,
    epoch: options.Epoch,
    token: options.Token,
    result: options.Result = None,
) -> int:
    """End the job as succeeded, with its result."""
    with ask.connected() as client:
        reply = client.complete(job_id, epoch=epoch, token=_token(token), result=result, request_id=ask.request_id)
    return _ended(ask, reply, job_id)


@asks(AS_HOLDER)
def fail(
    ask: Ask,
    job_id: options.LeasedJobId,
    epoch: options.Epoch,
    token: options.Token,
    error: Annotated[str, typer.Option("--error", metavar="TEXT", help="What went wrong.")] = "",
    result: options.Result = None,
    final: Annotated[bool, typer.Option("--final", help="Another try would fail too: don't schedule one.")] = False,
) -> int:
    """End this try as failed. The job is tried again later, unless its failures are used up."""
    with ask.connected() as client:
        reply = client.fail(
            job_id,
            epoch=epoch,
            token=_token(token),
            error=error,
            result=result,
            retryable=not final,
            request_id=ask.request_id,
        )
    return _ended(ask, reply, job_id)


@asks(AS_HOLDER)
def release(
    ask: Ask,
    job_id: options.LeasedJobId,
    epoch: options.Epoch,
    token: options.Token,
    reason: options.Why = None,
) -> int:
    """Give the job back, for any factory to claim. No failure is counted."""
    with ask.connected() as client:
        reply = client.release(job_id, epoch=epoch, token=_token(token), reason=reason, request_id=ask.request_id)
    return _ended(ask, reply, job_id)


@asks(AS_HOLDER)
def hand_over(
    ask: Ask,
    job_id: options.LeasedJobId,
    epoch: options.Epoch,
    token: options.Token,
    to: Annotated[str, typer.Option("--to", metavar="F2", help="The factory that is to go on with it.")],
    reason: options.Why = None,
) -> int:
    """Give the job to another factory: for the broker's ttl nobody else gets it. A factory that drains is refused."""
    with ask.connected() as client:
        reply = client.hand_over(
            job_id, epoch=epoch, token=_token(token), to=to, reason=reason, request_id=ask.request_id
        )
    waits = reply.body.get("state") == "ready"
    return ask.finish(reply, good=f"job {job_id} {f'waits for factory {to}' if waits else 'is cancelled'}")


@asks(AS_HOLDER)
def progress(
    ask: Ask,
    job_id: options.LeasedJobId,
    epoch: options.Epoch,
    token: options.Token,
    progress: Annotated[
        Any, typer.Option("--progress", metavar="JSON", parser=options.json_value, help="JSON, `@file`, or `-`.")
    ],
) -> int:
    """Say how far the job is. Seen with `broker runs`; it does not extend the lease."""
    with ask.connected() as client:
        reply = client.progress(job_id, epoch=epoch, token=_token(token), progress=progress, request_id=ask.request_id)
    return ask.finish(reply, good=f"noted the progress of job {job_id}")


def _token(token: str) -> str:
    """The token itself: in an argument list every user of the machine could read it."""
    if token.startswith("@"):
        try:
            return Path(token[1:]).read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise typer.BadParameter(f"can't read {token}: {error}", param_hint="--token") from error
    return sys.stdin.readline().strip() if token == "-" else token  # noqa: S105  # not a token: standard input


def _ended(ask: Ask, reply: Any, job_id: str) -> int:
    from broker.cli.output import moment

    again = reply.body.get("not_before_ms")
    good = f"job {job_id} is {reply.body.get('state', 'settled')}"
    return ask.finish(reply, good=f"{good}, to be tried again at {moment(again)}" if again else good)
