"""What of a request and its reply is written down: the rows of one table, an operation each."""

import hashlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeAlias

from broker.answers import Word
from broker.history.record import Kind

Fields: TypeAlias = dict[str, Any]
Said: TypeAlias = Mapping[str, Any]
"""The body of a reply, or one answer of several in it."""

HASH_CHARS = 16
_EFFECTIVE = frozenset({Word.OK, Word.GRANTED, Word.RENEWED, Word.REPLAYED})


def token_hash(token: str) -> str:
    """Tells tokens apart, and gives none away: they are 128 random bits."""
    return hashlib.sha256(token.encode(errors="surrogatepass")).hexdigest()[:HASH_CHARS]


def asked(op: str, request_id: str, body: Any) -> Fields:
    """What a request says of a job: its id, and the fence of a holder."""
    fields: Fields = {}
    given = vars(body)
    if (job := given.get("job_id")) is not None:
        fields["job"] = job
    elif op == "submit":
        fields["job"] = f"j-{request_id}"  # the id the broker derives
    if (token := given.get("token")) is not None:
        fields |= {"epoch": given["epoch"], "token": token_hash(token)}
    return fields


def learned(
    op: str, own: Fields, body: Any, answer: str, reason: str | None, said: Said
) -> Iterator[tuple[Kind, Fields]]:
    """The lines that end a call: one for each job that its answer speaks of, or one without a job.

    `own`: what `asked` made of the request with this `body`; `said`: the body of the reply.
    """
    for each, part in _PARTS.get(op, _no_parts)(own, body, said) or [(own, said)]:
        yield _line(op, each, part.get("answer", answer), part.get("reason", reason), part)


def _line(op: str, own: Fields, answer: str, reason: str | None, said: Said) -> tuple[Kind, Fields]:
    fields: Fields = {"job": said.get("job_id"), **own, "answer": answer, "reason": reason}
    if answer == Word.OUTCOME_UNKNOWN:
        return "unknown", fields
    if answer not in _EFFECTIVE or op in READS:
        return "refused" if answer not in _EFFECTIVE else "ok", fields | _seen(fields, answer, said)
    fields["state"] = said.get("state")
    fields["epoch"] = said.get("epoch", own.get("epoch"))
    if answer == Word.REPLAYED:
        fields["did"] = said.get("op")
    if "token" in said:
        fields["token"] = token_hash(said["token"])
    if said.get("joined"):
        fields |= {"joined": True, "job": said["job_id"]}
    return "ok", fields


def _seen(fields: Fields, answer: str, said: Said) -> Fields:
    """How the broker saw the job as it changed nothing, if it says so of this very job."""
    if said.get("job_id") not in (None, fields["job"]):
        return {}  # another one stands in the way
    if answer == Word.ALREADY_TERMINAL:
        # A holder is told this only at the last epoch there was; the fence has judged its own.
        return {"seen": said.get("epoch", fields.get("epoch")), "state": said.get("outcome")}
    return {"seen": said.get("epoch"), "state": said.get("state", said.get("outcome"))}


Parts: TypeAlias = list[tuple[Fields, Said]]
READS = frozenset({"get_job", "list_jobs"})


def _no_parts(_own: Fields, _body: Any, _said: Said) -> Parts:
    return []


def _grants(own: Fields, _body: Any, said: Said) -> Parts:
    return [(own, grant) for grant in said.get("grants", ())]


def _leases(_own: Fields, body: Any, said: Said) -> Parts:
    results = said.get("results", ())
    return [(asked("renew", "", lease), each) for lease, each in zip(body.leases, results, strict=False)]


def _one_job(own: Fields, _body: Any, said: Said) -> Parts:
    return [(own, _as_read(said["job"]))] if isinstance(said.get("job"), Mapping) else []


def _jobs(own: Fields, _body: Any, said: Said) -> Parts:
    return [(own, _as_read(job)) for job in said.get("jobs", ())]


def _as_read(job: Said) -> Said:
    return {"job_id": job["id"], "epoch": job["epoch"], "state": job["state"]}


_PARTS: Mapping[str, Callable[[Fields, Any, Said], Parts]] = {
    "claim": _grants,
    "renew_many": _leases,
    "get_job": _one_job,
    "list_jobs": _jobs,
}
"""Operations whose answers may speak of several jobs, or not at the top."""
