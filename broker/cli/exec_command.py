"""Runs a command as a factory: the way a shell agent joins the fleet."""

import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from broker.cli import options
from broker.cli.session import INCARNATION, Target, connected

if TYPE_CHECKING:
    from broker.exec import Command, ExecResult, Start


def register(app: typer.Typer, start: "Start | None") -> None:
    """Add the command. `start`: how CMD is started, where that is not `Command`'s own way."""

    @app.command(
        "exec",
        rich_help_panel="Factories",
        context_settings={"allow_interspersed_args": False},  # what follows CMD is CMD's
    )
    def exec_(
        command: Annotated[list[str], typer.Argument(metavar="-- CMD", help="What to run, and its arguments.")],
        job_id: Annotated[str | None, typer.Option("--job", metavar="JOB_ID", help="This job; else any.")] = None,
        factory: options.Factory = None,
        queue: options.Queue = "default",
        offers: options.Offers = None,
        wait: options.Wait = 0,
        ttl: options.Ttl = None,
        grace: options.Grace = options.GRACE_MS,
        request_id: options.RequestId = None,
        incarnation: options.Incarnation = INCARNATION,
        redis: options.RedisUrl = None,
        state_dir: options.StateFolder = None,
        timeout: options.Timeout = None,
        json: options.Json = False,
    ) -> int:
        """Claim a job and run CMD with it: the payload on its input, done or failed by its exit status.

        CMD finds BROKER_JOB_ID and BROKER_LEASE_EPOCH in its environment. The lease is renewed while it runs; it is
        stopped when the lease is lost or the job cancelled. Exit status 65 of CMD fails the job for good, any other
        but 0 this try. With --json the output of CMD goes to standard error.
        """
        from broker.cli.answers import waited_in_vain
        from broker.cli.errors import CommandError
        from broker.exec import CommandNotFound, execute

        target = Target(redis, state_dir, timeout, factory, incarnation, needs_factory=True)
        run = to_run(command, start, grace_ms=grace, json=json)
        with connected(target) as client:
            try:
                result = execute(
                    client,
                    run,
                    job_id,
                    queue_name=queue,
                    offers=options.listed(offers),
                    wait_ms=wait,
                    ttl_ms=ttl,
                    request_id=request_id,
                )
            except CommandNotFound as error:
                raise CommandError.from_text(str(error), otherwise="check the command's name and PATH") from error
        step = None
        if wait and result.reply is not None:
            step = waited_in_vain(result.reply, factory=client.factory_id, queue=queue)
        return _told(result, json=json, step=step)


def to_run(command: list[str], start: "Start | None", *, grace_ms: int, json: bool) -> "Command":
    """What is run for each job; from here on it can't look into this process. With `json` standard output is not the
    command's.
    """
    from broker.exec import Command, start_plainly
    from broker.exec.environment import keep_secrets

    keep_secrets()
    output = sys.stderr.fileno() if json else None
    return Command(command, grace_ms=grace_ms, stdout=output, start=start or start_plainly)


def _told(result: "ExecResult", *, json: bool, step: str | None = None) -> int:
    """Say what became of the job, on standard error: standard output is the command's. The exit status.

    `step`: what to do where nothing was granted, where the command knows better than the answer.
    """
    from broker.cli.answers import finish
    from broker.cli.output import complain, emit, note
    from broker.exec import Ending

    if result.ending is Ending.NOT_GRANTED and result.reply is not None:
        return finish(result.reply, json=json, good="", step=step)
    if json:
        emit(shown(result))
    elif result.job_id is None:
        note(result.detail)
    else:
        line = f"job {result.job_id}, epoch {result.epoch}: {result.ending.value} ({result.detail})"
        if result.ending is Ending.LEASE_LOST:
            complain(
                line,
                f"see `broker job {result.job_id}` for where it stands now: what this run still does must not count",
            )
        elif result.ending is Ending.UNKNOWN:
            known = "it may be done" if result.request_id else "nobody was told; it is tried again later"
            complain(line, f"see `broker job {result.job_id}`: {known}")
        else:
            note(line)
    return status(result)


def status(result: "ExecResult") -> int:
    """The exit status that tells what became of the job."""
    from broker.cli.exits import Exit
    from broker.exec import Ending

    exits = {Ending.COMPLETED: Exit.DONE, Ending.LEASE_LOST: Exit.LOST, Ending.UNKNOWN: Exit.UNKNOWN}
    return exits.get(result.ending, Exit.REFUSED)


def shown(result: "ExecResult") -> dict[str, Any]:
    """The `--json` shape."""
    reply = result.reply
    return {
        "ending": result.ending.value,
        "detail": result.detail,
        "job_id": result.job_id,
        "epoch": result.epoch,
        "command_exit": result.command_exit,
        "answer": reply.answer.value if reply is not None else None,
        "request_id": reply.request_id if reply is not None else result.request_id,
    }
