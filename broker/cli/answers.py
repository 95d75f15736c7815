"""Shows the answer to a request and gives the exit status that goes with it."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from broker.answers import Reason, Word
from broker.cli.errors import CommandError
from broker.cli.exits import exit_of
from broker.cli.output import complain, emit, moment, say, span
from broker.cli.why_text import words

if TYPE_CHECKING:
    from broker.client import Reply

_NEXT: Mapping[Word, str] = {
    Word.CONFLICT: "ask for another job, or wait until its lease is over",
    Word.LEASE_LOST: "stop this work: whatever it still sends is refused",
    Word.ALREADY_TERMINAL: "nothing; the job is over. `broker redrive JOB_ID` starts a failed one again",
    Word.NOT_CLAIMABLE: "see `broker explain JOB_ID`, or ask for any job that fits: `broker claim` without an id",
    Word.NOT_FOUND: "see `broker jobs` for the jobs there are",
    Word.NONE_AVAILABLE: "ask again later, or wait for one with --wait",
    Word.REQUEST_EXPIRED: "repeat it with the same --request-id and a longer --timeout",
    Word.THROTTLED: "repeat it with the same --request-id, later",
    Word.DRAINING: "wait until the drain ends, or see `broker factory resume`",
    Word.UNAUTHORIZED: "give it the key of this factory with BROKER_KEY_FILE; see `broker key list`",
    Word.INVALID: "correct the request",
    Word.OUTCOME_UNKNOWN: "see `broker status`; then repeat it with the same --request-id: it may have taken effect",
}
_LISTS: Mapping[str, tuple[str, str]] = {
    "job_id": ("job", "broker jobs"),
    "name": ("schedule", "broker schedule list"),
    "factory": ("factory", "broker factory list"),
    "limit": ("limit", "broker limit list"),
}
"""What an answer is about, by the field that names it, and what lists those there are."""
_NEXT_FOR_REASON: Mapping[Reason, str] = {
    Reason.EXISTS: "choose another id, or leave it out",
    Reason.NOT_UNIQUE: "wait until the job that has the key is over, cancel it, or submit with another policy",
    Reason.EPOCH_FROM_THE_FUTURE: "check --epoch: this job was never granted at it",
    Reason.RESTARTED: (
        "stop: another start of this factory has registered since, or it was removed. To go on, take a new start: "
        "`broker factory register FACTORY --incarnation NAME`, and claim with the same --incarnation"
    ),
    Reason.RESERVED: "wait: it was handed over to another factory, or ask for any job that fits",
    Reason.DRAINING: "choose another factory: `broker factory list`",
    Reason.LEASE_OVER: "this claim had its lease, which is over: claim anew, with a new request id",
    Reason.NOT_LEASED: "see `broker job JOB_ID`: nobody holds it",
    Reason.NOT_REDRIVABLE: "see `broker job JOB_ID`: only a failed or cancelled job is redriven",
    Reason.NOT_PERMITTED: (
        "give it a key whose role may (BROKER_KEY_FILE; `broker key new --role ROLE`): `factory` claims, holds leases "
        "and submits, `submitter` submits and cancels, `reader` looks, `operator` may all of it"
    ),
    Reason.NOT_CANCELLABLE: "see `broker job JOB_ID`",
    Reason.REQUEST_ID_USED: "choose another request id, or give none; nothing was done",
}


_ANY_JOB: Mapping[Word, str] = {
    Word.NOT_CLAIMABLE: "wait for it with --wait; see `broker queue list` and `broker limit list`",
}
"""Instead of `_NEXT` where the claim named no job."""
_OWN_LIMIT = "end one of this factory's jobs, or see `broker limit list`: a claim does not wait for that"
_AFTER_THE_WAIT = "ask again later; `broker explain --factory {factory} --queue {queue}` says why there was none"
_TIME_CHANGES_NOTHING = frozenset({Reason.NOT_LEASED, Reason.NOT_REDRIVABLE, Reason.NOT_CANCELLABLE})
"""Reasons for which it is idle to say from when on to ask again."""
_KEY_REVOKED = (
    "see `broker key list` where the broker runs; with a key of its secret that stands (BROKER_KEY_FILE) repeat it"
)
_MAY_HAVE_BEEN_DONE = " with the same --request-id: it may have taken effect"
_OF_A_READ: Mapping[Word, str] = {
    Word.REQUEST_EXPIRED: "repeat it with a longer --timeout",
    Word.THROTTLED: "repeat it later",
    Word.OUTCOME_UNKNOWN: "see `broker status`, and repeat it",
}
"""Instead of `_NEXT` where nothing was to be done: such a command has no request id to choose."""
_STORE_FAILS = "; if the datastore goes on failing, see the workers' logs, or run `broker doctor` where they run"
_SCHEDULE_EXISTS = "choose another name, or change that schedule with --replace"


class Refused(CommandError):
    """A command that reads, and needs the answer to go on, was refused it."""

    def __init__(self, reply: "Reply") -> None:
        problem, *more = _problem(reply)
        step = next_step(reply, reply.request_id, reads=True)
        super().__init__(problem, step, exit=exit_of(reply.answer, reply.reason), more=more)
        self._reply = reply

    def shown(self) -> dict[str, Any]:
        """The answer's own object, as of every refusal."""
        return flat(self._reply)


def require_good(reply: "Reply") -> None:
    """Do nothing where a command can go on with this answer.

    Raises:
      Refused: it can't.
    """
    if not reply.good:
        raise Refused(reply)


def flat(reply: "Reply") -> dict[str, Any]:
    """The answer as one flat object, the `--json` shape of every command that changes something."""
    shown: dict[str, Any] = {"answer": reply.answer.value, "reason": None, "retry": reply.retry.value}
    if reply.reason is not None:
        shown["reason"] = reply.reason.value
    if reply.retry_after_ms is not None:
        shown["retry_after_ms"] = reply.retry_after_ms
    return {**shown, **reply.body, "request_id": reply.request_id}


def finish(
    reply: "Reply",
    *,
    json: bool,
    good: str | Sequence[str],
    repeat: str | None = None,
    reads: bool = False,
    step: str | None = None,
) -> int:
    """Show the answer and return its exit status. `good` is what is said of one that had its effect.

    `repeat`: what the command is repeated under, where that is not the reply's own request id.
    `reads`: it changes nothing. `step`: what to do about it, where the command knows better.
    """
    if json:
        emit(flat(reply))
    elif reply.good:
        *lines, last = [good] if isinstance(good, str) else good
        say(*lines, last if reply.answer is not Word.REPLAYED else f"{last} (as before: this request id was known)")
    else:
        problem, *more = _problem(reply)
        complain(problem, step or next_step(reply, repeat or reply.request_id, reads=reads), more)
    return exit_of(reply.answer, reply.reason)


def _problem(reply: "Reply") -> list[str]:
    """The word, why, and what is known of the job; then a line for each obstacle."""
    body = reply.body
    reasons = body.get("reasons") or ([reply.reason.value] if reply.reason else [])
    text = reply.answer.value + (f" ({', '.join(map(str, reasons))})" if reasons else "")
    facts = [f"{kind} {body[field]}" for field, (kind, _) in _LISTS.items() if body.get(field) is not None]
    facts += [f"{name} {body[name]}" for name in ("state", "outcome", "epoch") if body.get(name) is not None]
    facts += [str(body["detail"])] if body.get("detail") is not None else []
    if body.get("why"):
        facts.append(f'because "{body["why"]}"')
    if reply.answer is Word.DRAINING and body.get("until_ms"):
        facts.append(f"until {moment(body['until_ms'])}")
    if body.get("holder"):
        facts.append(f"held by {body['holder']} for another {span(max(0, body.get('remaining_ms') or 0))}")
    lines = [": ".join([text, *([", ".join(facts)] if facts else [])])]
    for obstacle in body.get("obstacles") or ():
        sentence, _ = words(obstacle, job_id=str(body.get("job_id")), now_ms=reply.server_now_ms)
        lines.append(f"  - {sentence}")
    return lines


def next_step(reply: "Reply", request_id: str, *, reads: bool = False) -> str:
    """What to do about an answer that is not good. `reads`: to a command that changes nothing."""
    from broker.client.trust import NOT_SIGNED

    step = _NEXT_FOR_REASON.get(reply.reason) if reply.reason is not None else None
    if reply.reason is Reason.EXISTS and "name" in reply.body:
        step = _SCHEDULE_EXISTS
    if reads:
        step = _OF_A_READ.get(reply.answer, step)
    if reply.body.get(NOT_SIGNED):
        step = _KEY_REVOKED + ("" if reads else _MAY_HAVE_BEEN_DONE)
    if "job_id" not in reply.body:
        step = step or (_OWN_LIMIT if _at_its_own_limit(reply) else _ANY_JOB.get(reply.answer))
    if reply.answer is Word.NOT_FOUND:
        step = next(
            (f"see `{lists}` for those there are" for field, (_, lists) in _LISTS.items() if field in reply.body), None
        )
    step = (step or _NEXT.get(reply.answer, "see docs/cli.md")).replace(
        "JOB_ID", str(reply.body.get("job_id", "JOB_ID"))
    )
    if reply.retry_after_ms and reply.reason not in _TIME_CHANGES_NOTHING:
        step += f" (not before {span(reply.retry_after_ms)} from now)"
    if reply.answer is Word.THROTTLED and reply.reason is Reason.STORE:
        step += _STORE_FAILS
    return f"{step}; the request id was {request_id}" if "--request-id" in step else step


def waited_in_vain(reply: "Reply", *, factory: str, queue: str) -> str | None:
    """What to do where a claim has waited and there was nothing: its answer says no more. None: it was another."""
    shown = {"factory": factory, "queue": queue}
    return _AFTER_THE_WAIT.format(**shown) if reply.answer is Word.NONE_AVAILABLE else None


def _at_its_own_limit(reply: "Reply") -> bool:
    """Whether a claim met the limit of its factory."""
    return any(str(each.get("limit", "")).startswith("factory:") for each in reply.body.get("obstacles") or ())
