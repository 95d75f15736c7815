"""The verdict on a campaign, from the datastore and from what clients wrote down; no counter of the product's own."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from broker.history import Record, Report, check
from broker.history.reading import read
from datastore import Datastore
from tests.faults.judging import TERMINAL, faults_of_the_store, found, runs_of

FENCED = frozenset({"renew", "complete", "fail", "release", "progress"})
TOLD_OFF = frozenset({"lease_lost", "already_terminal"})

Body = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Verdict:
    """The counts, and everything that is wrong, in words."""

    grants: int
    """Pairs of job and epoch, each looked at for a second holder."""
    stale_tried: int
    """Requests with an old epoch, sent after a higher one had been granted to somebody who knew, and answered."""
    stale_refused: int
    stale_unheard: int
    """The same, but whoever sent them was killed before an answer, or gave up."""
    submitted: int
    lost: int
    double_grants: int
    completed: int
    wrong: tuple[str, ...]

    @property
    def holds(self) -> bool:
        """Whether nothing is wrong, and something was tried, with an old epoch too."""
        clean = self.lost == self.double_grants == 0 and not self.wrong
        refused = self.stale_tried == self.stale_refused
        return clean and refused and min(self.submitted, self.grants, self.stale_tried) > 0


def judge(store: Datastore, histories: Path) -> Verdict:
    """Judge a campaign that has ended; nothing writes to either any more."""
    records = [record for piece in read([histories]) for record in piece]
    jobs = dict(found(store, "job"))
    runs = runs_of(store, jobs)
    report = check(records, drained=False)
    granted = _granted(records)
    holders = _holders(granted, runs)
    tried, refused, unheard = _stale(records, granted)
    submitted = {record.job for record in records if record.op == "submit" and record.type == "ok" and record.job}
    unfinished = sorted(job for job in submitted if job not in jobs or jobs[job]["state"] not in TERMINAL)
    doubles = [f"{job} at epoch {epoch}: {sorted(who)}" for (job, epoch), who in holders.items() if len(who) > 1]
    doubles += _completed_twice(records)
    wrong = [*faults_of_the_store(jobs, runs), *_unheard_of(records, jobs), *_broken_rules(report)]
    wrong += [f"two holders: {each}" for each in doubles] + [f"lost: {job}" for job in unfinished]
    return Verdict(
        grants=len(holders),
        stale_tried=tried,
        stale_refused=refused,
        stale_unheard=unheard,
        submitted=len(submitted),
        lost=len(unfinished),
        double_grants=len(doubles),
        completed=sum(1 for body in jobs.values() if body["state"] == "succeeded"),
        wrong=tuple(wrong),
    )


def _granted(records: Iterable[Record]) -> list[Record]:
    return [record for record in records if record.op == "claim" and record.type == "ok" and record.token is not None]


def _holders(granted: Iterable[Record], runs: Iterable[Body]) -> Mapping[tuple[str, int], set[str]]:
    """Who held a job at an epoch, by the word of those who were told, and by the run in the store."""
    holders: dict[tuple[str, int], set[str]] = defaultdict(set)
    for run in runs:
        holders[run["job_id"], run["epoch"]].add(f"{run['factory_id']} {run['incarnation']} {run['request_id']}")
    for record in granted:
        if record.job is not None and record.epoch is not None:
            holders[record.job, record.epoch].add(f"{record.factory} {record.incarnation} {record.request}")
    return holders


def _stale(records: Sequence[Record], granted: Iterable[Record]) -> tuple[int, int, int]:
    """Attempts under an epoch after a higher one was known to its holder: answered, of these refused, and unheard."""
    known_at: dict[str, dict[int, int]] = defaultdict(dict)
    for grant in granted:
        epochs = known_at[grant.job or ""]
        epochs[grant.epoch or 0] = min(grant.at, epochs.get(grant.epoch or 0, grant.at))
    attempts: dict[str, list[Record]] = defaultdict(list)
    for record in records:
        if record.op in FENCED and record.epoch is not None and record.job is not None:
            attempts[record.request].append(record)
    tried = refused = unheard = 0
    for attempt in attempts.values():
        first = min(attempt, key=lambda record: record.at if record.type == "invoke" else record.sent or record.at)
        higher = [at for epoch, at in known_at[first.job or ""].items() if epoch > (first.epoch or 0)]
        if not higher or min(higher) > (first.sent or first.at):
            continue
        answers = [record for record in attempt if record.type == "ok" or record.answer in TOLD_OFF]
        tried += bool(answers)
        unheard += not answers
        refused += bool(answers) and all(record.type == "refused" for record in answers)
    return tried, refused, unheard


def _completed_twice(records: Iterable[Record]) -> list[str]:
    epochs: dict[str, set[int]] = defaultdict(set)
    for record in records:
        if record.op == "complete" and record.type == "ok" and record.job is not None and record.epoch is not None:
            epochs[record.job].add(record.epoch)
    return [f"{job} was completed at epochs {sorted(each)}" for job, each in epochs.items() if len(each) > 1]


def _unheard_of(records: Iterable[Record], jobs: Mapping[str, Body]) -> list[str]:
    """Completions that somebody was told of and the store knows nothing of, and the reverse."""
    records = list(records)
    sent = {record.job for record in records if record.op == "complete"}
    told = {record.job for record in records if record.op == "complete" and record.type == "ok"}
    done = {job for job, body in jobs.items() if body["state"] == "succeeded"}
    vanished = [f"{job} was completed, and the store says it is not" for job in sorted(told - done, key=str)]
    return vanished + [f"{job} has succeeded, and nobody sent that" for job in sorted(done - sent)]


def _broken_rules(report: Report) -> list[str]:
    return [f"{each.rule}: {each.job} at epoch {each.epoch}: {each.why}" for each in report.violations]
