"""The same verdict, found the slow way: try every order of what happened against a little state machine of one job.

Independent of the checker on purpose: it knows no epochs in order and no stages, only what each operation needs and
does, when it can have happened, and what a broker may do unseen.
"""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import permutations
from typing import TypeAlias

from broker.history import Record

FOREVER = 1 << 60
TERMINAL = {"failed", "cancelled", "succeeded"}
HOLDERS = {"renew", "progress", "complete", "fail", "release", "hand_over"}
ENDINGS = {"complete", "fail", "release", "hand_over", "cancel", "revoke"}
"""What may leave a job over."""
FirstSent: TypeAlias = dict[tuple[str, str], int]
"""When each request of a factory was first sent."""


@dataclass(frozen=True)
class Job:
    """`phase`: none (not submitted), waiting, leased, over (failed or cancelled), succeeded."""

    phase: str = "none"
    epoch: int = 0
    holder: tuple[str, str | None] | None = None
    """None: somebody nobody has heard of yet."""
    told: bool = False
    """Whether somebody was told that it is over, or may yet be, and nothing has said otherwise since."""


@dataclass(frozen=True)
class Step:
    """Something that must have happened (or, if `optional`, may have) at one moment from `start` to `end`."""

    what: str
    start: int
    end: int
    epoch: int = 0
    holder: tuple[str, str | None] | None = None
    state: str | None = None
    optional: bool = False
    number: int = 0
    """Tells steps apart that are alike."""


def possible(records: Sequence[Record], *, drained: bool = False) -> bool:
    """Whether a sound broker can have answered like that; `drained`: and have left no job that it was given."""
    jobs: dict[str, list[Record]] = defaultdict(list)
    calls = _calls(records)
    for record in calls:
        if record.job is not None:
            jobs[record.job].append(record)
    first: FirstSent = defaultdict(lambda: FOREVER)
    for record in calls:
        first[_own(record)] = min(first[_own(record)], record.at if record.sent is None else record.sent)
    for job in jobs.values():
        steps = _steps(job, first)
        if steps is None:
            return False
        if drained and not any(record.op == "submit" for record in job) and not all(step.optional for step in steps):
            return False  # it came from nowhere
        ends = drained and any(record.op == "submit" and record.type == "ok" and not record.joined for record in job)
        happened = frozenset([*steps, *_endings(job, first)] if ends else steps)
        if not _search(_start(steps), -1, happened, set(), over=ends):
            return False
    return not any(_second_answer(one, other, calls, first) for one, other in permutations(_grants(calls), 2))


def _own(record: Record) -> tuple[str, str]:
    """A request id is its factory's own."""
    return record.request, record.factory


def _calls(records: Iterable[Record]) -> list[Record]:
    """The ends of calls, and the calls without one."""
    records = list(records)
    ended = {(record.client, record.call) for record in records if record.type not in ("invoke", "start")}
    return [
        record
        for record in records
        if record.type not in ("invoke", "start")
        or (record.type == "invoke" and (record.client, record.call) not in ended)
    ]


def _steps(records: Sequence[Record], first: FirstSent) -> list[Step] | None:
    """What must have happened to one job; None where two answers to one request contradict each other."""
    steps: list[Step] = []
    answers: dict[tuple[str, ...], list[Record]] = defaultdict(list)
    for record in records:
        if record.type == "ok" and record.op in ("renew", "progress"):
            fence = (record.factory, record.token)
            steps.append(Step("held", first[_own(record)], record.at, record.epoch or 0, fence))
        elif record.type == "ok" and record.op != "get_job":
            if not record.joined and record.did in (None, record.op):
                who = (record.factory, record.incarnation if record.op == "claim" else "")
                answers[record.op, record.request, *who].append(record)
        elif record.seen is not None and record.state is not None:
            steps.append(Step("seen", -1, record.at, record.seen, state=record.state))
    for (op, *_), same in answers.items():
        for facts in {_said(record) for record in same}:
            agreeing = [record for record in same if _said(record) == facts]
            if agreeing[0] is not same[0] and _knows(records, same[0], agreeing[0]):
                return None
            record = min(agreeing, key=lambda each: each.at)
            steps.append(Step(op, first[_own(record)], record.at, record.epoch or 0, _heard(record), record.state))
    told = {(request, factory) for op, request, factory, _ in answers if op == "redrive"}
    silent = {_own(record) for record in records if record.op == "redrive"} - told
    steps += [Step("redrive", first[own], FOREVER, optional=True) for own in silent]
    return [replace(step, number=number) for number, step in enumerate(steps)]


def _endings(records: Sequence[Record], first: FirstSent) -> list[Step]:
    """What may have ended a job though nobody had the answer."""
    silent = [record for record in records if record.type in ("unknown", "invoke") and record.op in ENDINGS]
    return [
        Step(record.op, first[_own(record)], FOREVER, record.epoch or 0, optional=True, number=-1 - number)
        for number, record in enumerate(silent)
    ]


def _heard(record: Record) -> tuple[str, str | None] | None:
    """Who is heard as the holder; of a request that had its effect before, no broker looks at the token again."""
    if record.op not in HOLDERS | {"claim"}:
        return None
    known = record.op == "claim" or record.answer != "replayed"
    return record.factory, record.token if known else None


def _said(record: Record) -> tuple[object, ...]:
    if record.op == "submit":
        return ()
    return record.epoch or 0, record.token if record.op == "claim" else record.state


def _knows(records: Sequence[Record], one: Record, other: Record) -> bool:
    """Whether a job still knows a request when it comes again: it keeps the last eight.

    What can have come in between: one claim and one end an epoch, and whatever operators asked for.
    """
    operators = {"cancel", "redrive", "revoke", "hold", "lift"}
    asked = {_own(record) for record in records if record.op in operators}
    return len(asked) + 1 + 2 * abs((one.epoch or 0) - (other.epoch or 0)) < 8


def _start(steps: Sequence[Step]) -> Job:
    """Not there yet, where somebody was told that the job was made."""
    return Job("none" if any(step.what == "submit" for step in steps) else "waiting")


def _search(
    job: Job, now: int, left: frozenset[Step], vain: set[tuple[Job, int, frozenset[Step]]], *, over: bool = False
) -> bool:
    """Whether what is left can happen from here on, and, if `over`, leave the job so for all that is known.

    `vain`: where that was tried before.
    """
    if all(step.optional for step in left) and (job.told or not over):
        return True
    if (job, now, left) in vain or any(step.end < now and not step.optional for step in left):
        return False
    vain.add((job, now, left))
    for step in left:
        moment = max(now, step.start)
        if moment <= step.end and any(
            _search(after, moment, left - {step}, vain, over=over) for after in _outcomes(job, step)
        ):
            return True
    return False


def _outcomes(job: Job, step: Step) -> list[Job]:
    """The job after a step, for each way there is; none where the step is impossible now."""
    if step.what == "submit":
        return [Job("waiting")] if job.phase == "none" else []
    if step.optional:
        return _unheard(job, step)
    before = [known for known in _unseen(job, step.epoch) if known.epoch == step.epoch]
    if step.what == "claim":
        free = [known for known in _unseen(job, step.epoch - 1) if known.epoch == step.epoch - 1]
        return [Job("leased", step.epoch, step.holder) for known in free if known.phase == "waiting"]
    if step.what in ("held", "seen", "cancel", "hold", "lift") and step.state in (None, "leased"):
        return _as_holder(before, step)
    if step.what == "revoke" or step.what in HOLDERS:
        told, phase = step.state in TERMINAL, _phase(step.state)
        return [replace(known, phase=phase, holder=None, told=told) for known in _as_holder(before, step)]
    if step.what == "redrive":
        return [replace(known, phase="waiting", told=False) for known in before if known.phase == "over"]
    if step.state == "succeeded":
        return [replace(known, told=True) for known in before if known.phase == "succeeded"]
    # Whether a job that is over already can be ended again, or still be seen waiting, is not judged.
    idle = [known for known in before if known.phase in ("waiting", "over")]
    if step.state in TERMINAL:
        return [replace(known, phase="over", told=True) for known in idle]
    return [replace(known, told=False) for known in idle]


def _unheard(job: Job, step: Step) -> list[Job]:
    """The job after a call nobody had the answer of, if that took effect."""
    if step.what == "redrive":
        return [replace(job, phase="waiting", told=False)] if job.phase == "over" else []
    if step.what in HOLDERS:
        before = [known for known in _unseen(job, step.epoch) if known.epoch == step.epoch]
        return [replace(known, phase="over", holder=None, told=True) for known in before if known.phase == "leased"]
    return [replace(job, phase="over", holder=None, told=True)] if job.phase != "succeeded" else []


def _as_holder(jobs: Iterable[Job], step: Step) -> list[Job]:
    held = [job for job in jobs if job.phase == "leased" and _may_be_one(job.holder, step.holder)]
    return [replace(job, holder=max(job.holder, step.holder, key=_known)) for job in held]


def _known(holder: tuple[str, str | None] | None) -> int:
    return 0 if holder is None else 1 if holder[1] is None else 2


def _may_be_one(one: tuple[str, str | None] | None, other: tuple[str, str | None] | None) -> bool:
    if one is None or other is None:
        return True
    return one[0] == other[0] and (one[1] == other[1] or None in (one[1], other[1]))


def _phase(state: str | None) -> str:
    return "succeeded" if state == "succeeded" else "over" if state in TERMINAL else "waiting"


def _unseen(job: Job, epoch_max: int) -> list[Job]:
    """Where a broker can get by itself: leases expire, jobs fail at their cap, and claims are granted unheard."""
    found = [job]
    for each in found:
        ways: list[Job] = []
        if each.phase == "leased":
            ways = [replace(each, phase=phase, holder=None) for phase in ("waiting", "over", "succeeded")]
        elif each.phase == "waiting":
            ways = [replace(each, phase="over", told=False)]
            if each.epoch < epoch_max:
                ways.append(Job("leased", each.epoch + 1))
        found += [way for way in ways if way not in found]
    return found


def _grants(calls: Iterable[Record]) -> list[Record]:
    """The first answer of each grant."""
    grants: dict[tuple[object, ...], Record] = {}
    for record in sorted(calls, key=lambda record: record.at):
        if record.type == "ok" and record.op == "claim":
            who = (record.request, record.factory, record.incarnation)
            grants.setdefault((*who, record.job, record.epoch, record.token), record)
    return list(grants.values())


def _second_answer(one: Record, other: Record, calls: Sequence[Record], first: FirstSent) -> bool:
    """Whether a claim was granted a job that its answer did not name, while a lease of that was still to be used."""
    same = (one.request, one.factory, one.incarnation) == (other.request, other.factory, other.incarnation)
    answer = [record for record in calls if record.type == "ok" and record.op == "claim"]
    named = {record.job for record in answer if (record.client, record.call) == (one.client, one.call)}
    if not same or other.job in named or other.sent is None or other.sent <= one.at:
        return False
    lease = (one.job, one.epoch, one.token)
    effects = [record for record in calls if record.type == "ok" and record.op in HOLDERS]
    used = [record for record in effects if (record.job, record.epoch, record.token) == lease]
    return any(first[_own(record)] > other.at for record in used)
