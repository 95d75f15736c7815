"""Dead letters: jobs that failed, why and how often they were tried; and how they are started again."""

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

import typer

from broker.cli import options
from broker.cli.asking import AS_OPERATOR, LOOKING, Ask, asks
from broker.cli.listing_commands import Limit, QueueFilter, all_jobs, all_runs, took
from broker.cli.output import cell, emit, moment, note, say
from broker.documents import Outcome, State

if TYPE_CHECKING:
    from broker.client import Client

LIMIT_DEFAULT = 100


class Over(StrEnum):
    """States that redrive leaves."""

    FAILED = "failed"
    CANCELLED = "cancelled"


def register(app: typer.Typer) -> None:
    """Add the commands."""
    for command in (dead, redrive):
        app.command(rich_help_panel="Jobs")(command)


@asks(LOOKING)
def dead(
    ask: Ask,
    queue: QueueFilter = None,
    limit: Limit = LIMIT_DEFAULT,
) -> int:
    """List failed jobs, the reason and every run of each. Requests that made no sense: `broker refused`."""
    from broker.cli.answers import require_good

    count = 0
    with ask.connected() as client:
        for count, (job, _) in enumerate(all_jobs(client, state=State.FAILED, queue=queue, limit=limit), 1):  # noqa: B007  # it is wanted after the loop
            reply = client.runs(job["id"])
            require_good(reply)
            runs = all_runs(client, reply, job["id"])
            if ask.json:
                emit({"job_id": job["id"], "reason": reason(job), "job": job, "runs": runs})
                continue
            say(f"{job['id']}  {job['queue']}  {moment(job['updated_ms'])}  {cell(reason(job))}")
            for run in runs:
                ended = cell(run.get("error") or run.get("result"))
                say(f"  epoch {run['epoch']}  {run['factory_id']}  {run.get('outcome')}  {took(run) or '-'}  {ended}")
    if limit and count == limit:
        note(f"the first {limit}; --limit 0 lists all")
    return 0


@dataclass(frozen=True, slots=True)
class Filter:
    """Which of the jobs that are over are meant."""

    state: State
    queue: str | None
    outcome: str | None
    older_than_ms: int | None

    def found(self, client: "Client") -> Iterator[dict[str, Any]]:
        """Every job that fits, read before any is changed: what is redriven must not be met again."""
        for job, now_ms in list(all_jobs(client, state=self.state, queue=self.queue, limit=0)):
            if self.outcome is not None and outcome(job) != self.outcome:
                continue
            if self.older_than_ms is None or now_ms - job["updated_ms"] > self.older_than_ms:
                yield job


@asks(AS_OPERATOR)
def redrive(
    ask: Ask,
    job_ids: Annotated[list[str] | None, typer.Argument(metavar="JOB_ID", help="The jobs; or --all.")] = None,
    all: Annotated[bool, typer.Option("--all", help="Every failed job, or those the filters leave.")] = False,
    queue: QueueFilter = None,
    state: Annotated[Over, typer.Option("--state", help="With --all: jobs in this state.")] = Over.FAILED,
    outcome: Annotated[
        Outcome | None, typer.Option("--outcome", help="With --all: whose last run ended like this.")
    ] = None,
    older_than: Annotated[
        int | None,
        typer.Option(
            "--older-than",
            metavar="SECONDS",
            parser=options.milliseconds,
            help="With --all: over for so long, e.g. 3600 or 1h.",
        ),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say which jobs it would be, and change nothing.")] = False,
) -> int:
    """Make failed or cancelled jobs ready again, their failures and expiries forgotten."""
    from broker.cli.submit_command import request_ids
    from broker.client import BrokerTimeout

    if bool(job_ids) == all:
        raise typer.BadParameter("name jobs, or give --all with or without filters", param_hint="JOB_ID")
    if job_ids and (queue, state, outcome, older_than) != (None, Over.FAILED, None, None):
        raise typer.BadParameter("filters go with --all", param_hint="JOB_ID")
    status = 0
    with ask.connected(only_reads=dry_run) as client:
        chosen = Filter(State(state), queue, outcome, older_than)
        found = [job["id"] for job in chosen.found(client)] if all else list(job_ids or ())
        if all and not ask.json:
            note("1 job fits" if len(found) == 1 else f"{len(found)} jobs fit")
        if dry_run:
            return _tell(client, found, ask)
        repeat, ids = request_ids(ask.request_id, len(found))
        for number, job_id in enumerate(found):
            try:
                reply = client.redrive(job_id, request_id=ids[number] if ids else None)
            except BrokerTimeout as error:
                if repeat is None:
                    raise
                raise BrokerTimeout(f"{job_id}: {error}", request_id=repeat) from error
            good = f"job {job_id} is {reply.body.get('state')}"
            status = max(status, ask.finish(reply, good=good, repeat=repeat))
    return status


def _tell(client: "Client", job_ids: list[str], ask: Ask) -> int:
    """Say what a redrive would do to each of these jobs."""
    from broker.answers import Word
    from broker.cli.exits import Exit

    status = 0
    for job_id in job_ids:
        reply = client.job(job_id)
        if not reply.good and reply.answer is not Word.NOT_FOUND:
            status = max(status, ask.finish(reply, good=""))
            continue
        job = reply.body.get("job") or {"state": "not_found"}
        would = job["state"] in tuple(Over)
        status = status if would else max(status, Exit.REFUSED)
        if ask.json:
            told = {"job_id": job_id, "dry_run": True, "would_redrive": would}
            emit({**told, "state": job["state"], "reason": reason(job)})
        else:
            say(f"{'would redrive' if would else 'would refuse'} {job_id}  {job['state']}  {cell(reason(job))}")
    return int(status)


def outcome(job: dict[str, Any]) -> str | None:
    """How the last run of a job ended; None where it never ran."""
    return (job.get("last_end") or {}).get("outcome")


def reason(job: dict[str, Any]) -> str | None:
    """Why a job is over, in the words of whoever ended it."""
    end = job.get("last_end") or {}
    return job.get("why") or end.get("error") or end.get("outcome")
