"""The one check that stands before everything a holder asks for: does the caller still hold the lease?"""

import hmac
from enum import StrEnum
from typing import TypeAlias

from broker.documents import Job, Outcome
from datastore.value import Value


class Fence(Value, frozen=True):
    """What a caller says about itself. Never filled from a value that was just re-read."""

    factory_id: str
    epoch: int
    token: str
    request_id: str


class Loss(StrEnum):
    """How a lease was lost. Wire values of `lease_lost`."""

    SUPERSEDED = "superseded"
    RECLAIMED = "reclaimed"
    RELEASED = "released"
    REVOKED = "revoked"
    TIMED_OUT = "timed_out"
    TERMINAL = "terminal"


class FenceOk(Value, frozen=True):
    """The caller holds the lease."""


class Replayed(Value, frozen=True):
    """The caller's request has been carried out already."""


class UsedToClaim(Value, frozen=True):
    """The caller holds the lease, and has claimed it under this very request id."""


class FenceLost(Value, frozen=True):
    """The caller holds nothing. Its request must not change the job."""

    loss: Loss


class Impossible(Value, frozen=True):
    """An epoch this job has not reached: a forgery, or a store that lost writes. An alarm, not a conflict."""


FenceResult: TypeAlias = FenceOk | Replayed | UsedToClaim | FenceLost | Impossible

_ENDED = {
    Outcome.EXPIRED: Loss.RECLAIMED,
    Outcome.REVOKED: Loss.REVOKED,
    Outcome.RELEASED: Loss.RELEASED,
    Outcome.TIMED_OUT: Loss.TIMED_OUT,
    # The holder itself gave the lease back by reporting a failure that is tried again.
    Outcome.FAILED: Loss.RELEASED,
}


def check(job: Job, fence: Fence) -> FenceResult:
    """Judge a caller by its own epoch and token against the job as read.

    A late caller is fine while nobody has taken over: the epoch, not the clock, decides.
    """
    if job.recent_requests and job.recent(fence.request_id, fence.factory_id) is not None:
        return Replayed()
    if fence.epoch > job.epoch:
        return Impossible()
    if fence.epoch < job.epoch:
        return FenceLost(Loss.SUPERSEDED)
    if job.lease is None:
        return FenceLost(_how_it_ended(job))
    same_token = hmac.compare_digest(job.lease.token.encode(), fence.token.encode())
    if not (same_token and job.lease.factory_id == fence.factory_id):
        # Only one token was ever given out for this epoch (I1), so the caller has never held it.
        return FenceLost(Loss.SUPERSEDED)
    return FenceOk() if job.lease.request_id != fence.request_id else UsedToClaim()


def _how_it_ended(job: Job) -> Loss:
    if job.state.terminal:
        return Loss.TERMINAL
    if job.last_end is None or job.last_end.epoch != job.epoch:
        return Loss.RELEASED
    return _ENDED.get(job.last_end.outcome, Loss.RELEASED)
