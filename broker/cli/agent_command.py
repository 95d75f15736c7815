"""Runs a factory: the way a host joins the fleet for good."""

from contextlib import ExitStack
from typing import TYPE_CHECKING, Annotated

import typer

from broker.cli import options
from broker.cli.exec_command import shown, to_run
from broker.cli.session import Target, connected

if TYPE_CHECKING:
    from broker.agent import End, Limits, Terms
    from broker.exec import Command, ExecResult, Start


def register(app: typer.Typer, start: "Start | None") -> None:
    """Add the command. `start`: how CMD is started, where that is not `Command`'s own way."""

    @app.command(
        rich_help_panel="Factories",
        context_settings={"allow_interspersed_args": False},  # what follows CMD is CMD's
    )
    def agent(
        command: Annotated[list[str], typer.Argument(metavar="-- CMD", help="What to run, and its arguments.")],
        factory: options.Factory = None,
        concurrency: Annotated[
            int, typer.Option("--concurrency", metavar="N", min=1, max=256, help="Jobs at once.")
        ] = 1,
        queue: options.Queue = "default",
        offers: options.Offers = None,
        version: Annotated[str | None, typer.Option("--version", metavar="V", help="What it runs; only shown.")] = None,
        ttl: options.Ttl = None,
        grace: options.Grace = options.GRACE_MS,
        once: Annotated[bool, typer.Option("--once", help="Run one job, and exit by what became of it.")] = False,
        max_jobs: Annotated[
            int | None, typer.Option("--max-jobs", metavar="N", min=1, help="End after so many jobs.")
        ] = None,
        idle_exit: Annotated[
            int | None,
            typer.Option(
                "--idle-exit",
                metavar="SECONDS",
                parser=options.milliseconds,
                help="End after so long without work, e.g. 90 or 10m.",
            ),
        ] = None,
        stop_after: Annotated[
            int | None,
            typer.Option(
                "--stop-after",
                metavar="SECONDS",
                parser=options.milliseconds,
                help="After a signal, stop what still runs after so long, e.g. 25 or 5m.",
            ),
        ] = None,
        redis: options.RedisUrl = None,
        state_dir: options.StateFolder = None,
        timeout: options.Timeout = None,
        json: options.Json = False,
    ) -> int:
        """Run a factory: register, wait for jobs, run CMD for each as `exec` does, until told to stop.

        It waits for a broker that is not there yet. Each start is a new incarnation: what an earlier start of this
        factory held ends at once. SIGTERM, SIGINT or SIGHUP: no new work, what runs is finished; a second one stops the
        commands and releases their jobs. An operator's drain and cancels are obeyed. With --json a line for each job,
        and CMD writes to standard error.
        """
        from broker.agent import Limits, Terms

        offered = options.listed(offers)
        run = to_run(command, start, grace_ms=grace, json=json)
        limits = Limits(1 if once else concurrency, 1 if once else max_jobs, idle_exit, stop_after)
        target = Target(redis, state_dir, timeout, factory, None, needs_factory=True)
        return _serve(target, run, Terms(queue, offered, ttl), limits, version=version, once=once, json=json)


def _serve(
    target: Target, run: "Command", terms: "Terms", limits: "Limits", *, version: str | None, once: bool, json: bool
) -> int:
    """Register and work; every end of a job is told as it comes. The exit status."""
    from broker.agent import Agent, IdleEnough, Registering
    from broker.cli.answers import finish
    from broker.cli.errors import CommandError
    from broker.cli.exits import Exit
    from broker.cli.output import emit, note
    from broker.exec import CommandNotFound, StoppedEarly, require_command

    try:
        require_command(run)
    except CommandNotFound as error:
        raise CommandError.from_text(str(error), otherwise="check the command's name and PATH") from error
    last: ExecResult | None = None

    def ended(result: "ExecResult") -> None:
        nonlocal last
        last = result
        if json:
            emit(shown(result))
        else:
            note(f"job {result.job_id}, epoch {result.epoch}: {result.ending.value} ({result.detail})")

    with ExitStack() as stack:
        registering = Registering(note, idle_exit_ms=limits.idle_exit_ms)
        try:
            client, reply = registering.run(
                lambda: stack.enter_context(connected(target)),
                lambda client: client.register(capacity=limits.concurrency, version=version, offers=terms.offers),
            )
        except StoppedEarly as stopped:
            note(f"{stopped.signal.name}: ended before it was registered")
            return Exit.DONE
        except IdleEnough:
            return Exit.NOTHING
        if not reply.good:
            return finish(reply, json=json, good="")
        name = f"factory {client.factory_id}, incarnation {client.incarnation}"
        note(f"{name}: waits for jobs of queue {terms.queue}")
        worker = Agent(client, run, terms, limits, ended=ended, tell=note)
        end = worker.run()
        note(f"{name}: ended ({end.value}) after {worker.started} {'job' if worker.started == 1 else 'jobs'}")
    return _status(end, last if once else None, nothing=not worker.started)


def _status(end: "End", last: "ExecResult | None", *, nothing: bool) -> int:
    """By the one job with --once; else whether the agent ended as it was asked to."""
    from broker.agent import End as Why
    from broker.cli.exec_command import status
    from broker.cli.exits import Exit

    if last is not None:
        return status(last)
    if end in (Why.REFUSED, Why.UNABLE):
        return Exit.REFUSED
    return Exit.NOTHING if end is Why.IDLE and nothing else Exit.DONE
