"""What a record proves of a job: at which epoch, at which stage of it, and when it must have been true.

The stages of one epoch follow each other; an effect of a later stage or epoch can't come before one of an earlier:

    created | granted(1) held(1)* ended(1)? after(1)* | granted(2) held(2)* ended(2)? after(2)* | …
"""

from enum import IntEnum
from typing import NamedTuple

from broker.history.record import Record

ALWAYS = -1
"""Earlier than any clock."""
BEFORE_ALL = -1
"""The epoch of a submission."""
NEVER_LEASED = 0
"""The epoch of a job until its first grant, which makes it 1; also that of an answer without an epoch."""


class Stage(IntEnum):
    """Where in the life of an epoch something happens."""

    GRANTED = 0
    HELD = 1
    """While the lease stands."""
    ENDED = 2
    """The lease is ended, by its holder or an operator."""
    AFTER = 3
    """No lease stands, and the next one is not granted yet."""


class Effect(NamedTuple):
    """Something that was true of a job at one moment between `start` and `end`, steady nanoseconds.

    An effect of a request lies between the request's first invocation and its first good answer. What was merely
    seen may be stale: it was true at some time before `end`, and has no `start`.
    """

    epoch: int
    stage: Stage
    start: int
    end: int
    number: int
    """Tells effects apart where all else is equal, so that they can be sorted."""
    state: str | None
    """Of the job; None while it is leased."""
    record: Record


TERMINAL = frozenset({"succeeded", "failed", "cancelled"})
SUCCEEDED = "succeeded"
LEASED = "leased"
REPLAYED = "replayed"
HOLDERS = frozenset({"renew", "renew_many", "progress", "complete", "fail", "release", "hand_over"})
"""Operations that carry an epoch and a token."""
OPERATORS = frozenset({"cancel", "redrive", "revoke", "hold", "lift"})
ANSWERED_ONCE = OPERATORS | {"submit", "claim", "complete", "fail", "release", "hand_over"}
"""Operations that a job remembers by request id: a resend is answered as the first was."""
REMEMBERED_MAX = 8
"""How many of them (`recent_requests` of the job document)."""
READS = frozenset({"get_job", "list_jobs"})

_STAGES = {
    "claim": Stage.GRANTED,
    "renew": Stage.HELD,
    "renew_many": Stage.HELD,
    "progress": Stage.HELD,
    "complete": Stage.ENDED,
    "fail": Stage.ENDED,
    "release": Stage.ENDED,
    "hand_over": Stage.ENDED,
    "revoke": Stage.ENDED,
    "redrive": Stage.AFTER,
}
"""The rest happens in any state: what the answer says of the state tells the stage."""
_BY_STATE = frozenset({"cancel", "hold", "lift"})


def effect_of(record: Record, start: int, number: int) -> Effect | None:
    """What an `ok` proves; None where that is nothing of a job's epochs.

    `start`: when this request id was first sent, in whichever call.
    """
    op = record.op
    if op == "submit":
        return None if record.joined else Effect(BEFORE_ALL, Stage.GRANTED, start, record.at, number, None, record)
    if record.did not in (None, op):
        return None  # a request id that was used for two operations is answered with the first
    stage = _STAGES.get(op)
    if stage is None:
        if op not in _BY_STATE:
            return None
        stage = Stage.HELD if record.state == LEASED else Stage.AFTER
    state = record.state if stage >= Stage.ENDED else None
    return Effect(record.epoch or NEVER_LEASED, stage, start, record.at, number, state, record)


def seen_in(record: Record, number: int) -> Effect | None:
    """What the broker saw of the job when it refused something, or was asked for it; perhaps of an earlier time."""
    if record.seen is None or record.state is None:
        return None
    if record.state == LEASED:
        return Effect(record.seen, Stage.HELD, ALWAYS, record.at, number, None, record)
    return Effect(record.seen, Stage.AFTER, ALWAYS, record.at, number, record.state, record)
