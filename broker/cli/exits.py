"""What the exit status of a command says. An interface: shell agents decide by it."""

from collections.abc import Mapping
from enum import IntEnum

from broker.answers import Reason, Word


class Exit(IntEnum):
    """Exit statuses of every command (docs/cli.md)."""

    DONE = 0
    REFUSED = 1
    """Refused or failed. The same command would get the same answer."""
    USAGE = 2
    """The command line is wrong. Nothing was sent."""
    NOTHING = 3
    """No job fits now."""
    UNKNOWN = 4
    """Not settled as far as we know: timed out, throttled. Repeat it, with the same request id."""
    LOST = 5
    """Somebody else holds the job, or it is over."""
    INTERRUPTED = 130
    PIPE_CLOSED = 141


EXITS: Mapping[Word, Exit] = {
    Word.OK: Exit.DONE,
    Word.GRANTED: Exit.DONE,
    Word.RENEWED: Exit.DONE,
    Word.REPLAYED: Exit.DONE,
    Word.CONFLICT: Exit.LOST,
    Word.LEASE_LOST: Exit.LOST,
    Word.ALREADY_TERMINAL: Exit.LOST,
    Word.NOT_CLAIMABLE: Exit.REFUSED,
    Word.NOT_FOUND: Exit.REFUSED,
    Word.NONE_AVAILABLE: Exit.NOTHING,
    Word.REQUEST_EXPIRED: Exit.UNKNOWN,
    Word.THROTTLED: Exit.UNKNOWN,
    Word.DRAINING: Exit.UNKNOWN,
    Word.UNAUTHORIZED: Exit.REFUSED,
    Word.INVALID: Exit.REFUSED,
    Word.OUTCOME_UNKNOWN: Exit.UNKNOWN,
}


def exit_of(answer: Word, reason: Reason | None) -> Exit:
    """The exit status of an answer. Of a claim whose lease is over a repetition gets the same for ever."""
    return Exit.LOST if reason is Reason.LEASE_OVER else EXITS[answer]
