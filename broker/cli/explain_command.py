"""`broker explain`: why a job waits, and why a factory has no work."""

from collections.abc import Iterable, Mapping
from typing import Annotated, Any

import typer

from broker.cli import options
from broker.cli.asking import LOOKING_AT_FACTORY, Ask, asks
from broker.cli.output import say, span
from broker.cli.session import INCARNATION
from broker.cli.why_text import words

JobId = Annotated[str | None, typer.Argument(metavar="JOB_ID", help="The job; may be left out with --factory.")]
ExplainedFactory = Annotated[
    str | None, typer.Option("--factory", metavar="F", help="Why this factory has no work, or can't have the job.")
]
QueueFilter = Annotated[
    str | None,
    typer.Option("--queue", metavar="Q", help="Ready jobs of this queue; else those it asked for."),
]


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(rich_help_panel="Jobs")(explain)


@asks(LOOKING_AT_FACTORY)
def explain(
    ask: Ask,
    job_id: JobId = None,
    factory: ExplainedFactory = None,
    offers: options.Offers = None,
    queue: QueueFilter = None,
    incarnation: options.Incarnation = INCARNATION,
) -> int:
    """Say why a job can't be claimed now, or why a factory has no work: every reason, with who and until when."""
    if job_id is None and factory is None:
        raise typer.BadParameter("name a job, a --factory, or both")
    given = options.listed(offers) if offers else None
    with ask.connected(incarnation=incarnation) as client:
        reply = client.explain(job_id, factory=factory, offers=given, queue=queue)
    if ask.json or not reply.good:
        return ask.finish(reply, good="")
    now_ms = reply.server_now_ms
    for line in factory_lines(reply.body, now_ms) if job_id is None else job_lines(reply.body, now_ms, factory):
        say(line)
    return 0


def job_lines(body: Mapping[str, Any], now_ms: int, factory: str | None = None) -> Iterable[str]:
    """`factory`: the one that was asked about, if any."""
    at_epoch = f", epoch {body['epoch']}" if body["epoch"] else ""
    head = f"job {body['job_id']} is {body['state']} in queue {body['queue']}{at_epoch}"
    if body["claimable"]:
        yield f"{head}; nothing stands in its way"
        yield from _interest(body, now_ms, factory)
        return
    yield f"{head}; it can't be claimed now:"
    yield from _reasons(body, body["job_id"], now_ms)


def _reasons(body: Mapping[str, Any], job_id: str, now_ms: int) -> Iterable[str]:
    for obstacle in body["obstacles"]:
        text, step = words(obstacle, job_id=job_id, now_ms=now_ms)
        yield f"  - {text}"
        if step is not None:
            yield f"      next: {step}"


def _interest(body: Mapping[str, Any], now_ms: int, factory: str | None) -> Iterable[str]:
    if body["state"] == "leased":
        yield f"  - the lease of {body['holder']} has died; the next claim or the sweep takes it over"
        return
    interest = body.get("interest") or {}
    if interest.get("parked"):
        yield f"  - {interest['parked']} waiting claims fit: one of them gets it within moments"
    elif factory is not None or interest.get("fitting"):
        asked = {each["factory"]: each["asked_ms"] for each in interest.get("fitting", ())}
        name = max(asked, key=lambda each: asked[each]) if factory is None else factory
        when = f"fits, and last asked {span(now_ms - asked[name])} ago" if name in asked else "can have it"
        yield f"  - {name} {when}; nobody waits now"
        yield f"      next: broker claim --factory {name} --queue {body['queue']}, or wait for its next claim"
    elif interest.get("draining"):
        yield f"  - {', '.join(interest['draining'])} would fit, and drains; nobody else asks"
        yield f"      next: let it work again: broker factory resume {interest['draining'][0]}"
    elif stopped := interest.get("stopped"):
        yield f"  - {', '.join(stopped)} would fit, and was told to stop; nobody else asks"
        yield f"      next: start it anew: broker agent --factory {stopped[0]} -- CMD"
    elif limited := interest.get("limited"):
        yield f"  - {', '.join(limited)} would fit, and its own limit is reached; nobody else asks"
        yield f"      next: wait until it admits another, or raise it: broker limit set factory:{limited[0]} N"
    elif interest.get("asked"):
        yield f"  - {interest['asked']} factories asked for work of queue {body['queue']} lately; none of them fits"
    else:
        yield f"  - nobody has asked for work of queue {body['queue']} in the last minutes"
        yield f"      next: start a factory: broker exec --factory NAME --queue {body['queue']} -- CMD"


def factory_lines(body: Mapping[str, Any], now_ms: int) -> Iterable[str]:
    name = body["factory_id"]
    offers = ", ".join(body["offers"]) or "nothing in particular"
    asked = body["last_asked_ms"]
    when = "has not asked for work lately" if asked is None else f"last asked for work {span(now_ms - asked)} ago"
    yield f"factory {name} offers {offers}; it {when}"
    yield from _reasons(body, "", now_ms)
    for lease in body["holds"]:
        yield f"  - holds {lease['job_id']} at epoch {lease['epoch']}, for another {span(lease['remaining_ms'])}"
    if body["more_held"]:
        yield "  - and more leases: broker leases"
    where = f" of queue {', '.join(body['queues'])}" if body["queues"] else ""
    first = "the first " if body["more"] else ""
    yield f"of {first}{body['looked_at']} ready jobs{where} it can have {body['fits']}"
    for job in body["refused"]:
        yield f"  job {job['job_id']} it can't have:"
        yield from (f"  {line}" for line in _reasons(job, job["job_id"], now_ms))
    hidden = body["looked_at"] - body["fits"] - len(body["refused"])
    if hidden > 0:
        yield f"  and {hidden} more"
