"""What the demo proves, computed from the datastore and from what the factories wrote down, never from a counter."""

import math
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

from broker.searches import pages
from datastore import Datastore
from workers.demo.records import Event, Record

PAGE = 500
PAGES_MAX = 100


@dataclass(frozen=True, slots=True)
class Ledger:
    """The jobs by id, and the runs, as the datastore holds them: plain documents, not parsed by the code under test."""

    jobs: Mapping[str, Mapping[str, Any]]
    runs: Sequence[Mapping[str, Any]]

    @classmethod
    def read(cls, store: Datastore) -> "Ledger":
        """Everything that is in the store now."""
        jobs = dict(_found(store, "job"))
        return cls(jobs, [body for _, body in _found(store, "run")])

    def succeeded(self) -> set[str]:
        """The jobs that are done."""
        return {job for job, body in self.jobs.items() if body["state"] == "succeeded"}

    def takeovers(self) -> list[tuple[Mapping[str, Any], Mapping[str, Any]]]:
        """Each run whose lease expired, with the run of the next higher epoch of that job."""
        pairs = []
        for run in self.runs:
            later = [each for each in self.runs if each["job_id"] == run["job_id"] and each["epoch"] > run["epoch"]]
            if run.get("outcome") == "expired" and later:
                pairs.append((run, min(later, key=lambda each: each["epoch"])))
        return pairs


@dataclass(frozen=True, slots=True)
class Summary:
    """The numbers of the last line."""

    jobs: int
    """Submissions that were acknowledged."""
    completed: int
    double_grants: int
    lost: int
    takeovers: int
    stale_refused: int
    p50_ms: int | None
    """Claims that did not wait parked, from send to a guarded lease, by the factories' clocks. None: none were."""
    p99_ms: int | None

    def holds(self, *, jobs: int) -> bool:
        """Whether the run shows all it is meant to show."""
        whole = self.jobs == self.completed == jobs and self.double_grants == self.lost == 0
        return whole and self.takeovers >= 1 and self.stale_refused >= 1 and self.p99_ms is not None

    def fields(self) -> str:
        """`name=value` for each number, in the order of the class."""
        return " ".join(f"{name}={getattr(self, name)}" for name in self.__slots__)


def summarize(submitted: Sequence[str], ledger: Ledger, records: Sequence[Record]) -> Summary:
    """Judge a run by its evidence alone."""
    done = ledger.succeeded() & set(submitted)
    latencies = sorted(_latencies(records))
    return Summary(
        jobs=len(submitted),
        completed=len(done),
        double_grants=double_grants(ledger, records),
        lost=len(set(submitted) - done),
        takeovers=len(ledger.takeovers()),
        stale_refused=sum(1 for record in records if _is_stale_refusal(record, ledger)),
        p50_ms=percentile(latencies, 0.50),
        p99_ms=percentile(latencies, 0.99),
    )


def double_grants(ledger: Ledger, records: Sequence[Record]) -> int:
    """Pairs of job and epoch with two holders, and jobs that two holders completed.

    The run record in the store is a witness too: one that names another holder than the factory that wrote down the
    grant makes a second one.
    """
    holders: dict[tuple[str, int], set[tuple[str, str]]] = defaultdict(set)
    completions: dict[str, set[tuple[str, str, int]]] = defaultdict(set)
    for run in ledger.runs:
        holders[run["job_id"], run["epoch"]].add((run["factory_id"], run["incarnation"]))
    for record in records:
        if record.job is None or record.epoch is None:
            continue
        if record.event is Event.CLAIMED:
            holders[record.job, record.epoch].add((record.factory, record.incarnation))
        if record.event is Event.COMPLETED:
            completions[record.job].add((record.factory, record.incarnation, record.epoch))
    return sum(1 for each in holders.values() if len(each) > 1) + sum(
        1 for each in completions.values() if len(each) > 1
    )


def percentile(ascending: Sequence[int], share: float) -> int | None:
    """The nearest rank: the smallest value that at least `share` of all do not exceed. None of nothing."""
    return ascending[max(1, math.ceil(share * len(ascending))) - 1] if ascending else None


def _latencies(records: Sequence[Record]) -> Iterator[int]:
    for record in records:
        if record.event is Event.CLAIMED and not record.waited:
            yield (record.received_ms or 0) - (record.sent_ms or 0)


def _is_stale_refusal(record: Record, ledger: Ledger) -> bool:
    """A late answer that was refused, and rightly: the store has seen a higher epoch."""
    if record.event is not Event.REFUSED or not record.late or record.job is None or record.epoch is None:
        return False
    job = ledger.jobs.get(record.job)
    return job is not None and record.epoch < job["epoch"]


def _found(store: Datastore, kind: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    for page in islice(pages(store, {"kind": kind}, limit=PAGE), PAGES_MAX):
        yield from ((document.id, document.body) for document in page.documents)
