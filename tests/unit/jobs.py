"""Jobs in any state, made by hand, and what a decision makes of them, without a store."""

from typing import Any

from broker.documents import Job, as_stored
from broker.fence import Fence
from broker.transitions import Claimant, Decision, Rules, Write
from datastore.interface import Document, Etag

NOW = 1_700_000_000_000
RULES = Rules()
TOKEN = "a" * 32
HOLDER = {"factory_id": "holder", "incarnation": "start-1"}
EPOCH = 4
"""The epoch of every job below that was granted before."""


def job(state: str, **fields: Any) -> Job:
    """A job in `state`, at `EPOCH` where that is not blocked, scheduled or ready from the start."""
    body: dict[str, Any] = {"kind": "job", "queue": "default", "state": state, "epoch": EPOCH, **fields}
    if state == "leased":
        body.setdefault("lease", lease())
    return stored(body, rev=1)


def lease(**fields: Any) -> dict[str, Any]:
    """A lease that stands for another second."""
    return {
        **HOLDER,
        "epoch": EPOCH,
        "token": TOKEN,
        "request_id": "claim-1",
        "granted_ms": NOW - 59_000,
        "expires_ms": NOW + 1_000,
        "ttl_ms": 60_000,
        **fields,
    }


def stored(body: dict[str, Any], *, rev: int, id: str = "job") -> Job:
    """The job in such a document; refused where it breaks I2."""
    return Job.from_document(Document(id, id, rev, Etag(f"v{rev}"), body))


def after(job: Job, decision: Decision) -> Job:
    """What is stored once the decision was carried out; the same job where it writes nothing."""
    if not isinstance(decision, Write):
        return job
    document = job.document
    return stored({**document.body, **as_stored(decision.changes)}, rev=document.rev + 1, id=document.id)


def claimant(factory: str = "other", request_id: str = "claim-2", **fields: Any) -> Claimant:
    """Somebody who wants a job and offers nothing in particular."""
    return Claimant(factory, fields.pop("incarnation", "start-1"), request_id, fields.pop("token", "b" * 32), **fields)


def fence(request_id: str = "request-1", **fields: Any) -> Fence:
    """The holder's own, unless told otherwise."""
    return Fence(**{"factory_id": "holder", "epoch": EPOCH, "token": TOKEN, "request_id": request_id, **fields})
