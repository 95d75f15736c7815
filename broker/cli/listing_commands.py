"""What anyone may look at: jobs, one job, its runs, the leases. Never a token."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any

import typer

from broker.cli import options
from broker.cli.asking import LOOKING, Ask, asks
from broker.cli.job_text import describe
from broker.cli.job_text import state as state_text
from broker.cli.output import emit, moment, note, span, table
from broker.documents import State

if TYPE_CHECKING:
    from broker.client import Client, Reply

LIMIT_DEFAULT = 100
RUNS_DEFAULT = 500
PAGE_JOBS = 200
"""Jobs of one reply: mostly some hundred kilobytes."""

QueueFilter = Annotated[str | None, typer.Option("--queue", metavar="Q", help="Of this queue only.")]
Limit = Annotated[int, typer.Option("--limit", metavar="N", min=0, help="At most so many; 0: all.")]


def register(app: typer.Typer) -> None:
    """Add the commands."""
    for command in (jobs, job, runs, leases):
        app.command(rich_help_panel="Jobs")(command)


@asks(LOOKING)
def jobs(
    ask: Ask,
    state: Annotated[
        State | None, typer.Option("--state", metavar="STATE", help=f"Only those that are {', '.join(State)}.")
    ] = None,
    queue: QueueFilter = None,
    limit: Limit = LIMIT_DEFAULT,
) -> int:
    """List jobs, as stale as a search may be."""
    with ask.connected() as client:
        found = all_jobs(client, state=state, queue=queue, limit=limit)
        if ask.json:
            for each, _ in found:
                emit(each)
            return 0
        rows = [
            (each["id"], state_text(each), each["queue"], each["priority"], each["epoch"], _holder(each),
             moment(each["updated_ms"]))
            for each, _ in found
        ]  # fmt: skip
    table(("JOB", "STATE", "QUEUE", "PRIORITY", "EPOCH", "HOLDER", "UPDATED"), rows)
    if limit and len(rows) == limit:
        note(f"the first {limit}; --limit 0 lists all")
    return 0


@asks(LOOKING)
def leases(
    ask: Ask,
    queue: QueueFilter = None,
    limit: Limit = 0,
) -> int:
    """List who holds which job, at which epoch, and for how long still."""
    with ask.connected() as client:
        found = [_lease(*each) for each in all_jobs(client, state=State.LEASED, queue=queue, limit=limit)]
    if ask.json:
        for lease in found:
            emit(lease)
        return 0
    rows = [
        (each["job_id"], each["queue"], each["factory_id"], each["epoch"], span(each["remaining_ms"]), each["renewals"])
        for each in found
    ]
    table(("JOB", "QUEUE", "FACTORY", "EPOCH", "REMAINING", "RENEWALS"), rows)
    return 0


@asks(LOOKING)
def job(
    ask: Ask,
    job_id: options.JobId,
) -> int:
    """Show one job: where it stands, what was submitted, how its last run went."""
    from broker.cli.answers import require_good

    with ask.connected() as client:
        reply = client.job(job_id)
        if ask.json or not reply.good:
            return ask.finish(reply, good="")
        of_runs = client.runs(job_id)
        require_good(of_runs)
    found = of_runs.body["runs"]
    describe(reply.body, found[-1] if found else None, reply.server_now_ms)
    return 0


@asks(LOOKING)
def runs(
    ask: Ask,
    job_id: options.JobId,
    limit: Annotated[
        int, typer.Option("--limit", metavar="N", min=0, help="The latest so many; 0: all.")
    ] = RUNS_DEFAULT,
) -> int:
    """List the runs of a job: who ran it, at which epoch, how it ended."""
    with ask.connected() as client:
        reply = client.runs(job_id)
        if not reply.good:
            return ask.finish(reply, good="")
        found = all_runs(client, reply, job_id, limit=limit)
    if ask.json:
        for run in found:
            emit(run)
        return 0
    rows = [
        (run["epoch"], run["factory_id"], moment(run["started_ms"]), took(run), run.get("renewals", 0),
         run.get("outcome") or "running", _told(run))
        for run in found
    ]  # fmt: skip
    table(("EPOCH", "FACTORY", "STARTED", "TOOK", "RENEWALS", "OUTCOME", "REASON, RESULT OR PROGRESS"), rows)
    if limit and len(rows) == limit:
        note(f"the latest {limit}; --limit 0 lists all")
    return 0


def all_jobs(
    client: "Client", *, state: State | None, queue: str | None, limit: int
) -> Iterator[tuple[dict[str, Any], int]]:
    """Jobs over all pages, each with the broker time of its page. `limit` 0: all there are."""
    from broker.cli.answers import require_good

    cursor, left = None, limit
    while True:
        page = min(PAGE_JOBS, left) if limit else PAGE_JOBS
        reply = client.jobs(state=state, queue=queue, limit=page, cursor=cursor)
        require_good(reply)
        for each in reply.body["jobs"]:
            yield each, reply.server_now_ms
        cursor, left = reply.body.get("cursor"), left - len(reply.body["jobs"])
        if cursor is None or (limit and left <= 0):
            return


def all_runs(client: "Client", latest: "Reply", job_id: str, *, limit: int = RUNS_DEFAULT) -> list[dict[str, Any]]:
    """The runs of a job in order of epoch: the page of the `latest`, and those before it. `limit` 0: all of them."""
    from broker.cli.answers import require_good

    reply, found = latest, list(latest.body["runs"])
    while (cursor := reply.body.get("cursor")) is not None and (not limit or len(found) < limit):
        reply = client.runs(job_id, cursor=cursor)
        require_good(reply)
        found = [*reply.body["runs"], *found]
    return found[-limit:]


def _holder(job: dict[str, Any]) -> str | None:
    return (job.get("lease") or {}).get("factory_id")


def _lease(job: dict[str, Any], now_ms: int) -> dict[str, Any]:
    lease: dict[str, Any] = job["lease"]
    return {"job_id": job["id"], "queue": job["queue"], **lease, "remaining_ms": lease["expires_ms"] - now_ms}


def _told(run: dict[str, Any]) -> Any:
    handed = f"handed over to {run['handed_to']}" if run.get("handed_to") else None
    said = run.get("error") or run.get("result") or run.get("progress")
    return f"{handed}: {said}" if handed and said else handed or said


def took(run: dict[str, Any]) -> str | None:
    return span(run["ended_ms"] - run["started_ms"]) if run.get("ended_ms") is not None else None
