"""Lease rules: (job, request, now) -> Decision. No I/O, no clock, no log.

         unblock            due              claim: epoch + 1               complete
blocked ---------> scheduled ----> ready ------------------> leased ------------------> succeeded
                       ^             ^                        | | |  renew, same epoch
                       |             +--- release, revoke, ---+ | |
                       |    hand over, reap, outlive            | |
                       +------------- fail, to be retried ------+ |
                                                                  +-- fail, final or at the cap ---> failed
cancel, from every state that is not terminal ---> cancelled           (reap at the cap, deadline: failed too)
redrive: failed, cancelled ---> ready
"""

from broker.controls import Surroundings
from broker.transitions.claim import Claimant, claim, told_again
from broker.transitions.decision import Decision, Refuse, Replay, Rules, Write
from broker.transitions.factory import draining, turned_away
from broker.transitions.holder import complete, fail, hand_over, release, renew, undo
from broker.transitions.operator import cancel, give_way, hold, lift, redrive, revoke, supersede
from broker.transitions.timer import (
    anchor,
    due,
    end_run,
    enforce_cancel,
    heed_progress,
    outlive,
    reap,
    time_out,
    unblock,
)

__all__ = [
    "Claimant",
    "Decision",
    "Refuse",
    "Replay",
    "Rules",
    "Surroundings",
    "Write",
    "anchor",
    "cancel",
    "claim",
    "complete",
    "draining",
    "due",
    "end_run",
    "enforce_cancel",
    "fail",
    "give_way",
    "hand_over",
    "heed_progress",
    "hold",
    "lift",
    "outlive",
    "reap",
    "redrive",
    "release",
    "renew",
    "revoke",
    "supersede",
    "time_out",
    "told_again",
    "turned_away",
    "unblock",
    "undo",
]
