"""Counts what became of the jobs of a history: the total queue. What went in must come out, once."""

from collections.abc import Iterator, Sequence

from broker.history.effects import SUCCEEDED, TERMINAL
from broker.history.evidence import Evidence
from broker.history.record import Record
from broker.history.report import Rule, Totals, Violation

ENDINGS = frozenset({"complete", "fail", "release", "cancel", "revoke", "hand_over"})
"""Operations that may leave a job terminal."""


def count(
    job: str, records: Sequence[Record], evidence: Evidence, totals: Totals, *, drained: bool
) -> Iterator[Violation]:
    """Add one job to the totals; the violation, if any, that it is lost, or came from nowhere."""
    attempts = [record for record in records if record.op == "submit"]
    acknowledged = next((record for record in attempts if record.type == "ok" and not record.joined), None)
    effects = [effect for effect in evidence.effects if effect.epoch >= 0]
    states = {effect.state for effect in effects}
    completions = sum(1 for effect in effects if effect.record.op == "complete" and effect.record.type == "ok")
    totals.completed += SUCCEEDED in states
    totals.ended += SUCCEEDED not in states and not TERMINAL.isdisjoint(states)
    totals.duplicated += completions > 1
    if acknowledged is not None:
        totals.submitted += 1
        if TERMINAL.isdisjoint(states):
            if any(record.type in ("unknown", "invoke") and record.op in ENDINGS for record in records):
                totals.unsettled += 1
                return
            totals.lost += 1
            if drained:
                why = "its submission was acknowledged, and nothing says that it ever ended"
                yield Violation(Rule.LOST, job, None, why, acknowledged)
    elif effects:
        if attempts:
            totals.recovered += 1
            return
        totals.unexpected += 1
        if drained:
            why = "no client of this history has submitted it"
            yield Violation(Rule.UNEXPECTED, job, effects[0].epoch, why, effects[0].record)
