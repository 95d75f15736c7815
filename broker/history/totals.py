"""Counts what became of the jobs of a history: the total queue. What went in must come out, once."""

from collections.abc import Iterator, Sequence

from broker.history.effects import NEVER_LEASED, SUCCEEDED, TERMINAL, Effect, Stage
from broker.history.evidence import Evidence
from broker.history.record import Record
from broker.history.report import Rule, Totals, Violation

HOLDERS_ENDINGS = frozenset({"complete", "fail", "release", "hand_over"})
OPERATORS_ENDINGS = frozenset({"cancel", "revoke"})
"""Operations that may leave a job terminal."""


def count(
    job: str, records: Sequence[Record], evidence: Evidence, totals: Totals, *, drained: bool
) -> Iterator[Violation]:
    """Add one job to the totals; the violation, if any, that it is lost, or came from nowhere."""
    attempts = [record for record in records if record.op == "submit"]
    acknowledged = next((record for record in attempts if record.type == "ok" and not record.joined), None)
    effects = [effect for effect in evidence.effects if effect.epoch >= 0]
    succeeded = any(effect.state == SUCCEEDED for effect in effects)
    last_open = next((effect for effect in reversed(effects) if effect.state not in TERMINAL), None)
    over = succeeded or any(_stands(effect, last_open) for effect in effects)
    completions = sum(1 for effect in effects if effect.record.op == "complete" and effect.record.type == "ok")
    totals.completed += succeeded
    totals.ended += over and not succeeded
    totals.duplicated += completions > 1
    if acknowledged is not None:
        totals.submitted += 1
        if not over:
            if any(_may_have_ended(record, last_open) for record in records):
                totals.unsettled += 1
                return
            totals.lost += 1
            if drained:
                why = "its submission was acknowledged, and nothing says that it is over"
                yield Violation(Rule.LOST, job, None, why, acknowledged)
    elif effects:
        if attempts:
            totals.recovered += 1
            return
        totals.unexpected += 1
        if drained:
            why = "no client of this history has submitted it"
            yield Violation(Rule.UNEXPECTED, job, effects[0].epoch, why, effects[0].record)


def _stands(effect: Effect, last_open: Effect | None) -> bool:
    """Whether a job is over by this, and nothing that must have come later says that it is not any more.

    `last_open`: the last effect, in the order of epochs, stages and starts, that did not leave the job terminal.
    """
    if effect.state not in TERMINAL:
        return False
    if last_open is None or (effect.epoch, effect.stage) != (last_open.epoch, last_open.stage):
        return last_open is None or effect > last_open
    return effect.end >= last_open.start


def _may_have_ended(record: Record, last_open: Effect | None) -> bool:
    """Whether this call may be why nothing more is known of a job: its outcome is not, and may still be to come.

    A holder can end its own lease alone, and not after a later one was granted, or after its own was seen to be over;
    nor one at epoch 0, where there is none.
    """
    if record.type not in ("unknown", "invoke"):
        return False
    if record.op in HOLDERS_ENDINGS:
        since = (NEVER_LEASED, Stage.AFTER) if last_open is None else (last_open.epoch, last_open.stage)
        return (record.epoch or NEVER_LEASED, Stage.ENDED) > since
    return record.op in OPERATORS_ENDINGS
