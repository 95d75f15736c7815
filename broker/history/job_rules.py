"""The rules on one job: pure, and one pass over its effects in the order of their epochs.

Why one pass is enough: the effects of a job have one order, that of their epochs and stages, and each was at one
moment between its start and its end. Such moments exist in that order if, and only if, no effect ends before an
earlier one of the order starts. So the latest start so far is all that has to be remembered.
"""

from collections.abc import Iterator, Sequence
from itertools import groupby

from broker.history.effects import (
    ALWAYS,
    BEFORE_ALL,
    HOLDERS,
    NEVER_LEASED,
    REPLAYED,
    SUCCEEDED,
    TERMINAL,
    Effect,
    Stage,
)
from broker.history.evidence import Evidence
from broker.history.record import Record
from broker.history.report import Rule, Violation


def judge(job: str, evidence: Evidence) -> Iterator[Violation]:
    """Every violation on one job."""
    yield from _first_epoch(job, evidence.effects)
    if evidence.disagreements or not _is_plain(evidence.effects):
        yield from _closely(job, evidence)


def _first_epoch(job: str, effects: Sequence[Effect]) -> Iterator[Violation]:
    """Each grant adds one to the epoch, so that nobody has a lease, or has had one, before epoch 1."""
    for effect in effects:
        if effect.epoch > NEVER_LEASED:
            return
        if effect.epoch == NEVER_LEASED and (effect.stage < Stage.AFTER or effect.state == SUCCEEDED):
            why = f"{effect.record.op} tells of a lease before the first epoch, which is 1"
            yield Violation(Rule.EPOCH_ORDER, job, effect.epoch, why, effect.record)


def _is_plain(effects: Sequence[Effect]) -> bool:
    """Whether nothing can be wrong, seen at a glance: most jobs of a history are like that, and need no second look.

    Moments in order even within a stage, each stage once where it may be once, one holder an epoch, and nothing after
    a terminal state but that state again.
    """
    latest, epoch, stage, holder = ALWAYS, BEFORE_ALL, None, None
    over: str | None = None
    for effect in effects:
        if effect.end < latest or (over is not None and (effect.epoch, effect.state) != (epoch, over)):
            return False
        if effect.start > latest:
            latest = effect.start
        if effect.epoch > epoch:
            epoch, stage, holder = effect.epoch, None, None
        elif effect.stage is stage and (stage is Stage.GRANTED or stage is Stage.ENDED):
            return False
        record = effect.record
        if effect.stage < Stage.AFTER and record.token is not None and record.type == "ok":
            if holder is not None and (record.token, record.factory) != holder:
                return False
            holder = (record.token, record.factory)
        if over is None and effect.state in TERMINAL:
            if stage is not None and stage >= Stage.ENDED:
                return False
            over = effect.state
        stage = effect.stage
    return True


def _closely(job: str, evidence: Evidence) -> Iterator[Violation]:
    for one, other in evidence.disagreements:
        why = f"request {one.record.request} was answered twice, and differently"
        yield _violation(Rule.ANSWERED_TWICE, job, other.epoch, why, one.record, other.record)
    yield from _order(job, evidence)
    for epoch, group in groupby(evidence.effects, key=_epoch):
        effects = list(group)
        if epoch == BEFORE_ALL:
            yield from _created_once(job, effects)
        else:
            yield from _one_holder(job, epoch, effects)
            yield from _one_end(job, epoch, effects)


def _epoch(effect: Effect) -> int:
    return effect.epoch


def _created_once(job: str, effects: Sequence[Effect]) -> Iterator[Violation]:
    for other in effects[1:]:
        why = "two submissions were told that they created the job"
        yield _violation(Rule.CREATED_TWICE, job, None, why, effects[0].record, other.record)


def _one_holder(job: str, epoch: int, effects: Sequence[Effect]) -> Iterator[Violation]:
    """Every grant of an epoch is one grant, and only its factory and token count as its holder's."""
    holder: Record | None = None
    for effect in effects:
        record = effect.record
        if record.type != "ok" or not (effect.stage is Stage.GRANTED or record.op in HOLDERS):
            continue
        if holder is None:
            # A replay is told to a factory by its request id alone, whatever token came with it.
            holder = None if record.op in HOLDERS and record.answer == REPLAYED else record
        elif effect.stage is Stage.GRANTED:
            yield _violation(Rule.TWO_HOLDERS, job, epoch, "the epoch was granted twice", holder, record)
        elif record.factory != holder.factory or (record.token != holder.token and record.answer != REPLAYED):
            why = f"{record.op} was accepted from somebody else than the holder {holder.factory}"
            yield _violation(Rule.TWO_HOLDERS, job, epoch, why, holder, record)


def _one_end(job: str, epoch: int, effects: Sequence[Effect]) -> Iterator[Violation]:
    """A lease ends once, and a job that succeeded at an epoch stays so."""
    ends = [effect for effect in effects if effect.stage is Stage.ENDED]
    for other in ends[1:]:
        both = {ends[0].record.op, other.record.op} == {"complete"}
        rule = Rule.TWO_COMPLETIONS if both else Rule.STALE_EFFECT
        why = f"{other.record.op} took effect on a lease that {ends[0].record.op} has ended"
        yield _violation(rule, job, epoch, why, ends[0].record, other.record)
    done = _succeeded(effects)
    if done is None:
        return
    for effect in effects:
        said_above = len(ends) > 1 and effect.stage is Stage.ENDED
        if effect.stage >= Stage.ENDED and effect.state != SUCCEEDED and not said_above:
            why = f"the job is {effect.state} at the epoch at which it succeeded"
            yield _violation(Rule.GRANTED_AFTER_TERMINAL, job, epoch, why, done.record, effect.record)


def _succeeded(effects: Sequence[Effect]) -> Effect | None:
    return next((effect for effect in effects if effect.state == SUCCEEDED), None)


def _order(job: str, evidence: Evidence) -> Iterator[Violation]:
    """Moments that keep the order of epochs and stages, with a redrive wherever a job has left a terminal state."""
    latest = _Latest()
    redrives = iter(evidence.redrives)
    ended: list[tuple[int, Effect]] = []
    done: Effect | None = None
    redriven: list[Effect] = []
    epoch: int | None = None
    for (of, stage), group in groupby(evidence.effects, key=lambda effect: (effect.epoch, effect.stage)):
        effects = list(group)
        if epoch is not None and of > epoch:
            if done is not None:
                yield _after_success(job, done, effects[0])
            elif ended:
                yield from _left(job, ended, redriven, redrives, latest, effects[0])
            ended, redriven, done = [], [], None
        epoch = of
        for effect in effects:
            if effect.end < latest.start:
                yield _out_of_order(job, latest.effect_record, effect)
        if stage >= Stage.ENDED:
            done = done or _succeeded(effects)
            ended += [(max(each.start, latest.start), each) for each in effects if each.state in TERMINAL]
            redriven += [each for each in effects if each.record.type == "ok" and each.record.op == "redrive"]
        for effect in effects:
            latest.heed(effect.start, effect.record)


class _Latest:
    """The latest start so far, and whose it is."""

    __slots__ = ("effect_record", "start")

    def __init__(self) -> None:
        self.start = ALWAYS
        self.effect_record: Record | None = None

    def heed(self, start: int, record: Record) -> None:
        if start > self.start:
            self.start, self.effect_record = start, record


def _left(
    job: str,
    ended: Sequence[tuple[int, Effect]],
    redriven: Sequence[Effect],
    redrives: Iterator[tuple[int, Record]],
    latest: _Latest,
    after: Effect,
) -> Iterator[Violation]:
    """A job that was terminal is leased again: some redrive came after its end."""
    since, end = max(ended, key=lambda each: each[0])
    if any(each.end >= since for each in redriven):
        return
    silent = next(redrives, None)
    if silent is not None:
        latest.heed(*silent)
        return
    why = f"epoch {after.epoch} came after the job was {end.state}, and nobody has redriven it"
    yield _violation(Rule.GRANTED_AFTER_TERMINAL, job, after.epoch, why, end.record, after.record)


def _after_success(job: str, done: Effect, after: Effect) -> Violation:
    rule = Rule.TWO_COMPLETIONS if after.record.op == "complete" else Rule.GRANTED_AFTER_TERMINAL
    why = f"epoch {after.epoch} came after the job had succeeded at epoch {done.epoch}"
    return _violation(rule, job, after.epoch, why, done.record, after.record)


def _out_of_order(job: str, earlier: Record | None, effect: Effect) -> Violation:
    """`effect` was over before `earlier`, which it must come after, was even sent."""
    assert earlier is not None, "what started has a record"
    if earlier.op in HOLDERS:
        why = f"{earlier.op} at epoch {earlier.epoch} took effect after that lease was over"
        return _violation(Rule.STALE_EFFECT, job, earlier.epoch, why, effect.record, earlier)
    if effect.record.op in HOLDERS and (earlier.epoch, earlier.token) == (effect.epoch, effect.record.token):
        why = f"{_named(effect.record)} took effect before that epoch was granted"
        return _violation(Rule.STALE_EFFECT, job, effect.epoch, why, effect.record, earlier)
    why = f"{_named(earlier)} was first sent after {_named(effect.record)} was answered"
    return _violation(Rule.EPOCH_ORDER, job, effect.epoch, why, effect.record, earlier)


def _named(record: Record) -> str:
    epoch = record.epoch if record.type == "ok" and record.epoch is not None else record.seen
    return record.op if epoch is None else f"{record.op} at epoch {epoch}"


def _violation(rule: Rule, job: str, epoch: int | None, why: str, first: Record, second: Record) -> Violation:
    return Violation(rule, job, None if epoch == BEFORE_ALL else epoch, why, first, second)
