"""Messages nobody asked for: a holder that listens is told at once to renew, and so learns of a cancel or a loss.

A notice says nothing itself. What it leads to is a renewal, whose answer the fence guards; so a lost notice costs time
until the next renewal, and a forged one costs a renewal.
"""

from collections.abc import Iterable
from typing import Any

from redis.client import Pipeline

from broker import replies
from broker.documents import Outcome
from broker.settlement import Change

RENEW = "renew"
_TAKEN = frozenset({Outcome.REVOKED, Outcome.EXPIRED, Outcome.TIMED_OUT})
"""Ends that are not the holder's own doing. After its expiry it knows by itself."""


def tell_holders(pipe: Pipeline, changes: Iterable[Change]) -> None:
    """Add the commands that tell the holders of whom a cancel was asked, or whose lease was taken."""
    for change in changes:
        before, after = change.before, change.after
        if before is None or (lease := before.lease) is None or lease.instance is None:
            continue
        asked = after.cancel is not None and before.cancel is None
        end = after.last_end
        taken = after.lease is None and end is not None and end.outcome in _TAKEN and end.ended_ms < lease.expires_ms
        if asked or taken:
            notice: dict[str, Any] = {"v": 1, "request_id": None, "notice": RENEW}
            notice |= {"job_id": before.id, "epoch": lease.epoch}
            replies.push(pipe, replies.reply_key(lease.factory_id, lease.instance), [replies.encode(notice)])
