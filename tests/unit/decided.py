"""How tests spell what a rule decides."""

from typing import Any

import msgspec

from broker.answers import Answer, Reason, Word
from broker.documents import Job
from broker.transitions import Refuse, Write
from tests.unit.jobs import EPOCH, HOLDER, NOW

STARTED = NOW - 59_000
CANCEL = {"reason": "stop", "asked_ms": NOW - 5, "enforce_ms": NOW - 1}


def told(**fields: Any) -> Answer:
    """The answer of a rule that carried something out."""
    return Answer(Word.OK, body={"job_id": "job", **fields})


def raced(state: str, **fields: Any) -> Refuse:
    """The answer of a rule for which there is nothing to do."""
    return Refuse(Answer(Word.CONFLICT, Reason.RACED, facts(state, **fields)))


def facts(state: str, **fields: Any) -> dict[str, Any]:
    """What every refusal says of a job."""
    held = {"holder": "holder", "remaining_ms": 1_000} if state == "leased" else {}
    return {"job_id": "job", "state": state, "epoch": EPOCH, **held, **fields}


def ended(outcome: str, **fields: Any) -> dict[str, Any]:
    """The changes that end the holder's lease."""
    end = {"epoch": EPOCH, **HOLDER, "request_id": "claim-1", "started_ms": STARTED, "ended_ms": NOW}
    end |= {"outcome": outcome, "renewals": 0, "result": None, "error": None}
    return {"lease": None, "cancel": None, "last_end": {**end, **fields}}


def remembered(op: str, state: str) -> dict[str, Any]:
    """The change that makes a resend a replay, beside the new state."""
    by = "operator" if op in ("cancel", "redrive", "revoke", "hold", "lift") else "holder"
    entry = {"request_id": "request-1", "factory_id": by, "op": op, "epoch": EPOCH, "state": state}
    return {"recent_requests": [entry], "state": state, "updated_ms": NOW}


def written(changes: dict[str, Any], answer: Answer) -> Write:
    """A write of these changes, spelt as they are stored."""
    read = msgspec.convert({"queue": "builds", "state": "ready", **changes}, Job)
    return Write({name: getattr(read, name) for name in changes}, answer)


def counters(failures: int = 0, expiries: int = 0, releases: int = 0) -> dict[str, Any]:
    return {"counters": {"failures": failures, "expiries": expiries, "releases": releases}}
