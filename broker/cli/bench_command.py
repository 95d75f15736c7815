"""Measures the broker that runs, on the user's own Redis and store: nothing but what a factory would do."""

import signal
import threading
from typing import TYPE_CHECKING, Annotated

import typer

from broker.cli import options

if TYPE_CHECKING:  # loaded when the command runs
    from broker.cli.bench_load import Figures

JOBS_MAX = 200_000
FIRST_STEP = "see that a worker serves (`broker status`), and try again with fewer --jobs"


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(rich_help_panel="Operation")(bench)


def bench(
    jobs: Annotated[
        int, typer.Option("--jobs", metavar="N", min=10, max=JOBS_MAX, help="Jobs to put through.")
    ] = 2_000,
    outstanding: Annotated[
        int, typer.Option("--outstanding", metavar="N", min=1, max=1_024, help="Jobs at the same time.")
    ] = 64,
    factory: options.Factory = None,
    redis: options.RedisUrl = None,
    state_dir: options.StateFolder = None,
    timeout: options.Timeout = None,
    json: options.Json = False,
) -> int:
    """Put jobs of its own through the running broker: submit, claim, renew, complete. They stay, succeeded.

    After Ctrl-C those that are not finished are cancelled; a second one ends at once.
    """
    import asyncio

    from broker.cli.answers import next_step
    from broker.cli.bench_load import measure
    from broker.cli.errors import CommandError
    from broker.cli.exits import Exit
    from broker.cli.output import emit
    from broker.cli.session import Target, async_client

    target = Target(redis, state_dir, timeout, factory, incarnation=None)
    _leave_interrupts_to_asyncio()
    figures = asyncio.run(
        measure(lambda: async_client(target), jobs=jobs, outstanding=outstanding, interrupted=_interrupted)
    )
    if figures.wrong:
        reply = figures.refused
        step = FIRST_STEP if reply is None else next_step(reply, reply.request_id, reads=True)
        raise CommandError(f"{figures.wrong} of {jobs} jobs did not go as they should: {figures.first}", step)
    if json:
        emit(figures.shown())
    else:
        _tell(figures)
    return Exit.DONE


def _leave_interrupts_to_asyncio() -> None:
    """Have Ctrl-C cancel what runs: where it finds a handler that is not Python's own, it would be raised anywhere."""
    if threading.current_thread() is threading.main_thread() and signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def _interrupted(told: str) -> None:
    from broker.cli.output import note

    signal.signal(signal.SIGINT, signal.SIG_DFL)  # a second one ends the process, whatever it waits for
    note(told)


def _tell(figures: "Figures") -> None:
    from broker.cli.output import say, table

    rows = [
        (each.what, each.outstanding, f"{each.per_s:,.0f}", f"{each.p50_ms:.2f}", f"{each.p99_ms:.2f}")
        for each in figures.steps
    ]
    table(("STEP", "OUTSTANDING", "A SECOND", "P50 MS", "P99 MS"), rows)
    say(f"every job of queue {figures.queue} was granted once, at epoch 1, and is succeeded")
