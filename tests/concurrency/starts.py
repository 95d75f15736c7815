"""Starts of one factory that race, and leases that are handed over under contention, with judges that count."""

from collections.abc import Mapping
from functools import partial
from typing import Any
from uuid import uuid4

from broker import coordinator, factories
from broker.controls import factory_doc_id
from broker.coordinator import Settlement
from broker.documents import State
from broker.factory_bodies import RegisterBody
from broker.fence import Fence
from broker.messages import RegisterFactory
from broker.transitions import Claimant
from datastore import Datastore, Ok
from tests.concurrency.race import NOW, at_once, context, new_job, read, runs_of

FACTORY = "f1"
GIVER = "f2"
RACERS = 32


def register(store: Datastore, incarnation: str) -> Settlement:
    """One start of the factory."""
    address = {"request_id": uuid4().hex, "factory_id": FACTORY, "incarnation": incarnation, "instance": "x"}
    return factories.register(context(store), RegisterFactory(**address, body=RegisterBody()), NOW + 1)


def claim(store: Datastore, job_id: str, factory: str, incarnation: str = "start-0") -> Settlement:
    """One claim of a job by its id."""
    who = Claimant(factory, incarnation, uuid4().hex, uuid4().hex)
    return coordinator.try_claim_job(context(store), job_id, who, now_ms=NOW + 1)


def race_of_starts(store: Datastore) -> list[str]:
    """`RACERS` starts register at once while the start before them holds a job; what is wrong afterwards."""
    register(store, "start-0")
    job_id = new_job(store)
    assert claim(store, job_id, FACTORY).answer.word == "granted"
    starts = [f"start-{number}" for number in range(1, RACERS + 1)]
    settled = at_once([partial(register, store, start) for start in starts])
    late = at_once([partial(claim, store, job_id, FACTORY, start) for start in ["start-0", *starts]])
    found = store.read(factory_doc_id(FACTORY), factory_doc_id(FACTORY))
    assert isinstance(found, Ok)
    record, rev = found.document.body, found.document.rev
    job, runs = read(store, job_id), runs_of(store, job_id)
    ended = sum(job_id in each.answer.body["ended"] for each in settled)
    granted = [start for start, each in zip(["start-0", *starts], late, strict=True) if each.answer.word == "granted"]
    over = {"start-0", *starts} - {record["incarnation"]}
    facts = {
        f"the answers were { {each.answer.word.value for each in settled} }": all(
            each.answer.word == "ok" for each in settled
        ),
        f"{ended} starts ended the one lease": ended == 1,
        f"{job.counters.expiries} expiries were counted": job.counters.expiries == 1,
        f"the record was written {rev - 1} times": rev == RACERS + 2,
        f"not all earlier starts are over: {sorted(over ^ set(_names(record)))}": set(_names(record)) == over,
        f"{granted} were granted the job, {record['incarnation']} is registered": granted == [record["incarnation"]],
        f"the job is {job.state} at epoch {job.epoch}": (job.state, job.epoch) == (State.LEASED, 2),
        f"the runs are {[(run.epoch, run.outcome) for run in runs]}": [(run.epoch, run.outcome) for run in runs]
        == [(1, "expired"), (2, None)],
    }
    return [fault for fault, fine in facts.items() if not fine]


def race_of_hand_overs(store: Datastore) -> list[str]:
    """A holder's hand-overs to `RACERS` factories at once, then all of these claim; what is wrong afterwards."""
    job_id = new_job(store)
    grant = claim(store, job_id, GIVER)
    token = str(grant.answer.body["token"])
    heirs = [f"heir-{number}" for number in range(RACERS)]

    def hand_over(heir: str) -> Settlement:
        fence = Fence(GIVER, 1, token, uuid4().hex)
        return coordinator.hand_over(context(store), job_id, fence, now_ms=NOW + 1, to=heir)

    settled = at_once([partial(hand_over, heir) for heir in heirs])
    told = [heir for heir, each in zip(heirs, settled, strict=True) if each.answer.word == "ok"]
    claimed = at_once([partial(claim, store, job_id, heir) for heir in [*heirs, GIVER]])
    granted = [heir for heir, each in zip([*heirs, GIVER], claimed, strict=True) if each.answer.word == "granted"]
    job, runs = read(store, job_id), runs_of(store, job_id)
    facts = {
        f"{len(told)} hand-overs took effect": len(told) == 1,
        f"handed to {told}, granted to {granted}": told == granted,
        f"{job.counters.releases} releases were counted": job.counters.releases == 1,
        f"the job is {job.state} at epoch {job.epoch}": (job.state, job.epoch) == (State.LEASED, 2),
        f"the runs say {[run.handed_to for run in runs]}": [run.handed_to for run in runs] == [*told, None],
    }
    return [fault for fault, fine in facts.items() if not fine]


def _names(record: Mapping[str, Any]) -> list[str]:
    return list(record["replaced"])
