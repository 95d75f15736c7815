"""Decides whether a history can have happened on a broker that keeps its promises.

What is decided, exactly, is in docs/checking.md; in short: a history is clean if moments can be chosen, one for each
effect that was answered, between the first sending of its request and its answer, at which the effects follow each
other as the state machine of the design demands, job by job. Whatever the broker does by itself (an expiry, a
deadline, a claim nobody was told of) may happen at any time. A call that is unknown, or was refused, may have had its
effect at any time after it was sent, or never. What was merely seen in a refusal or a listing may be stale.
"""

from collections import defaultdict, deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from itertools import chain
from typing import NamedTuple

from broker.history.effects import ALWAYS, HOLDERS
from broker.history.evidence import Evidence, FirstSent, gather
from broker.history.job_rules import judge
from broker.history.record import Record
from broker.history.report import Report, Rule, Totals, Violation
from broker.history.totals import count


class Log:
    """Records on their way into a verdict, fed one by one: an `invoke` is kept only until its call has ended."""

    def __init__(self) -> None:
        self.jobs: defaultdict[str, list[Record]] = defaultdict(list)
        self.first_sent: defaultdict[str, dict[str, int]] = defaultdict(dict)
        """Of each factory: a request id is its own."""
        self.calls = 0
        self.unknown = 0
        self._open: dict[str, dict[int, Record]] = defaultdict(dict)
        self._clocks: set[str | None] = set()

    def feed(self, records: Iterable[Record]) -> None:
        """Take records in. Those of one client in their order; those of several in any."""
        jobs, first_sent = self.jobs, self.first_sent
        for record in records:
            kind = record.type
            if kind == "invoke":
                self._open[record.client][record.call] = record
                self.calls += 1
                continue
            if kind == "start":
                self._clocks.add(record.clock)
                continue
            self._open[record.client].pop(record.call, None)
            if kind == "unknown":
                self.unknown += 1
            sent = record.at if record.sent is None else record.sent
            requests, request = first_sent[record.factory], record.request
            if requests.setdefault(request, sent) > sent:
                requests[request] = sent
            if record.job is not None:
                jobs[record.job].append(record)

    def close(self) -> None:
        """No more records: calls that have not ended are unknown."""
        for calls in self._open.values():
            for record in calls.values():
                self.unknown += 1
                requests = self.first_sent[record.factory]
                if requests.setdefault(record.request, record.at) > record.at:
                    requests[record.request] = record.at
                if record.job is not None:
                    self.jobs[record.job].append(record)
        self._open.clear()

    @property
    def timed(self) -> bool:
        """Whether the times of all records can be compared."""
        return len(self._clocks) <= 1


def check(records: Iterable[Record], *, drained: bool = False) -> Report:
    """The verdict on a history. `drained`: every job was to end, so that one that did not is lost.

    Each client's records must be in their order. A client's record may be missing behind its last one, never before:
    a redrive nobody wrote down makes what follows look wrong.
    """
    log = Log()
    log.feed(records)
    return verdict(log, drained=drained)


def verdict(log: Log, *, drained: bool = False) -> Report:
    """The verdict on the records in a log, which is closed by this."""
    log.close()
    timed = log.timed
    first_sent: FirstSent = log.first_sent if timed else defaultdict(lambda: defaultdict(lambda: ALWAYS))
    totals = Totals()
    violations: list[Violation] = []
    grants = _Grants()
    for job, records in log.jobs.items():
        evidence = gather(records, first_sent)
        violations += judge(job, evidence)
        violations += count(job, records, evidence, totals, drained=drained)
        grants.note(evidence)
    if timed:
        violations += grants.answered_twice(log.jobs, first_sent)
    return Report(
        violations=tuple(violations),
        totals=totals,
        calls=log.calls,
        unknown=log.unknown,
        jobs=len(log.jobs),
        grants=grants.number,
        drained=drained,
        timed=timed,
    )


class _Grants:
    """Which claim got which jobs: a claim for any job that is repeated gets the same, while a lease of these stands."""

    def __init__(self) -> None:
        self.number = 0
        self._first: dict[tuple[str, str, str], Record] = {}
        self._several: dict[tuple[str, str, str], list[Record]] = {}

    def note(self, evidence: Evidence) -> None:
        for effect in evidence.effects:
            record = effect.record
            if record.op != "claim" or record.type != "ok":
                continue
            self.number += 1
            claim = (record.request, record.factory, record.incarnation)
            first = self._first.setdefault(claim, record)
            if first is not record:
                self._several.setdefault(claim, [first]).append(record)

    def answered_twice(self, jobs: Mapping[str, Sequence[Record]], first_sent: FirstSent) -> Iterator[Violation]:
        names = {str(grant.job) for grants in self._several.values() for grant in grants}
        known = _Known((jobs[name] for name in names), first_sent)
        for (request, _, _), grants in self._several.items():
            for first, second in _other_answers(grants, known):
                why = f"claim {request} was granted another job while its lease on {first.job} stood"
                yield Violation(Rule.ANSWERED_TWICE, str(second.job), second.epoch, why, first, second)


class _Known:
    """Of some jobs, when their leases were last used, and with which others they were granted.

    Their records are gone through once, however many claims ask.
    """

    def __init__(self, jobs: Iterable[Sequence[Record]], first_sent: FirstSent) -> None:
        self._used: dict[tuple[str | None, int | None, str | None], int] = {}
        self._granted: defaultdict[tuple[str, int], set[str | None]] = defaultdict(set)
        for record in chain.from_iterable(jobs):
            if record.type == "ok" and record.op in HOLDERS:
                lease, sent = (record.job, record.epoch, record.token), first_sent[record.factory][record.request]
                self._used[lease] = max(sent, self._used.get(lease, ALWAYS))
            elif record.type == "ok" and record.op == "claim":
                self._granted[record.client, record.call].add(record.job)

    def use_of(self, grant: Record) -> "_Use":
        last = self._used.get((grant.job, grant.epoch, grant.token), ALWAYS)
        return _Use(last, grant, self._granted[grant.client, grant.call])


class _Use(NamedTuple):
    """The last use of a lease."""

    last: int
    """When something of its holder that was taken was first sent."""
    grant: Record
    answer: AbstractSet[str | None]
    """All jobs that came with the same answer: a claim may ask for several."""


def _other_answers(grants: Sequence[Record], known: _Known) -> Iterator[tuple[Record, Record]]:
    """Each answer that came from a copy sent after an earlier answer, names a job that is not in that one, and came
    while a lease of that one was still to be used.

    Two copies settled at the same moment may be granted two jobs.
    """
    earlier = deque(sorted(grants, key=lambda record: record.at))
    used: list[_Use] = []
    for second in sorted(grants, key=_sent):
        while earlier and earlier[0].at < _sent(second):
            used = _foremost([*used, known.use_of(earlier.popleft())])
        for use in used:
            if second.job not in use.answer and use.last > second.at:
                yield use.grant, second
                break


def _foremost(used: Iterable[_Use]) -> list[_Use]:
    """The uses that tell most: for each job, they have the last of all whose answers were without it.

    They are few: each was answered without one of the jobs that all later ones were answered with.
    """
    kept: list[_Use] = []
    common: AbstractSet[str | None] | None = None
    for use in sorted(used, key=lambda each: -each.last):
        if common is None or not common <= use.answer:
            kept.append(use)
            common = use.answer if common is None else common & use.answer
    return kept


def _sent(record: Record) -> int:
    return ALWAYS if record.sent is None else record.sent
