"""What a factory may be told before any job is looked at."""

from broker.answers import Answer, Reason, Word
from broker.controls import Drain, FactoryRecord

DRAIN_RETRY_MS = 5_000
"""How long a drained factory leaves it before it asks again: nobody tells it that it was resumed."""


def turned_away(factory: FactoryRecord, incarnation: str, *, now_ms: int) -> Answer | None:
    """Why this start of the factory gets no work at all, or None."""
    if factory.drain is None and not factory.replaced:
        return None  # as nearly all
    if factory.has_replaced(incarnation):
        body = {"incarnation": factory.incarnation, "since_ms": factory.since_ms}
        return Answer(Word.NOT_CLAIMABLE, Reason.RESTARTED, {**body, "reasons": [Reason.RESTARTED.value]})
    drain = factory.draining(incarnation, now_ms)
    return None if drain is None else draining(drain, now_ms=now_ms)


def draining(drain: Drain, *, now_ms: int) -> Answer:
    """The answer that says why, and until when."""
    left_ms = DRAIN_RETRY_MS if drain.until_ms is None else drain.until_ms - now_ms
    body = {"why": drain.reason, "since_ms": drain.since_ms, "until_ms": drain.until_ms}
    return Answer(Word.DRAINING, body=body, retry_after_ms=min(DRAIN_RETRY_MS, left_ms))
