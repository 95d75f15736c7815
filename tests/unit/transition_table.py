"""The table of design §4 as data: every situation a job can be in, every event, and what becomes of it.

A pair that has no row changes nothing; the test walks them all.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from broker import transitions
from broker.controls import FactoryRecord
from broker.documents import Job, State
from broker.transitions import Decision
from tests.unit.jobs import EPOCH, NOW, RULES, claimant, fence, job, lease

DEAD = lease(expires_ms=NOW - RULES.skew_ms - 1)
NEARLY_DEAD = lease(expires_ms=NOW - RULES.skew_ms)
ASKED = {"reason": "enough", "asked_ms": NOW - 1_000, "enforce_ms": NOW + 29_000}
GRACE_OVER = {"reason": "enough", "asked_ms": NOW - 31_000, "enforce_ms": NOW - 1}
HELD = {"reason": "look first", "since_ms": NOW}
ENDED = {
    **{name: lease()[name] for name in ("epoch", "factory_id", "incarnation", "request_id")},
    "started_ms": NOW - 60_000,
    "ended_ms": NOW - 1,
    "outcome": "released",
}
"""The run before, of the holder whose events are tried below."""

KEPT = {"factory_id": "heir", "by": "holder", "until_ms": NOW + 1}

SITUATIONS: Mapping[str, Job] = {
    "blocked": job("blocked", epoch=0, depends_on=["parent"]),
    "blocked, and not before tomorrow": job("blocked", epoch=0, depends_on=["parent"], not_before_ms=NOW + 86_400_000),
    "scheduled": job("scheduled", not_before_ms=NOW + 1, last_end=ENDED),
    "scheduled, due": job("scheduled", not_before_ms=NOW, last_end=ENDED),
    "ready": job("ready", epoch=0),
    "ready, given back": job("ready", last_end=ENDED),
    "ready, held": job("ready", hold=HELD, last_end=ENDED),
    "ready, reserved": job("ready", reserved=KEPT, last_end=ENDED),
    "ready, for others": job("ready", epoch=0, requires=["gpu"]),
    "ready, deadline over": job("ready", epoch=0, deadline_ms=NOW - 1),
    "leased": job("leased"),
    "leased, held": job("leased", hold=HELD),
    "leased, expired within the skew": job("leased", lease=NEARLY_DEAD),
    "leased, expired": job("leased", lease=DEAD),
    "leased, expired at the cap": job("leased", lease=DEAD, max_expiries=1),
    "leased, expired, held": job("leased", lease=DEAD, hold=HELD),
    "leased, expired, cancel asked": job("leased", lease=DEAD, cancel=ASKED),
    "leased, last failure": job("leased", counters={"failures": 2}, max_failures=3),
    "leased, cancel asked": job("leased", cancel=ASKED),
    "leased, grace over": job("leased", cancel=GRACE_OVER),
    "leased, superseded": job("leased", superseded_by="newer"),
    "leased, superseded, last failure": job("leased", superseded_by="newer", counters={"failures": 2}, max_failures=3),
    "leased, superseded, expired": job("leased", superseded_by="newer", lease=DEAD),
    "leased, deadline over": job("leased", deadline_ms=NOW - 1),
    "leased, run over": job("leased", lease=lease(run_deadline_ms=NOW - 1)),
    "leased, no progress": job("leased", stuck_after_ms=30_000),
    "leased, no progress, to be revoked": job("leased", stuck_after_ms=30_000, on_stuck="revoke"),
    "blocked, cancelled with its parent": job("blocked", epoch=0, depends_on=["parent"], on_parent_failure="cancel"),
    "blocked, whatever its parent does": job("blocked", epoch=0, depends_on=["parent"], on_parent_failure="ignore"),
    "succeeded": job("succeeded", last_end={**ENDED, "outcome": "succeeded"}),
    "failed": job("failed", counters={"failures": 3, "expiries": 2, "releases": 1}),
    "cancelled": job("cancelled", counters={"failures": 1}),
    "cancelled, superseded": job("cancelled", superseded_by="newer"),
}

STARTED_ANEW = FactoryRecord(incarnation="start-2", since_ms=NOW, replaced=("start-1",))

Event = Callable[[Job], Decision]
EVENTS: Mapping[str, Event] = {
    "claim": lambda job: transitions.claim(job, claimant(), now_ms=NOW, rules=RULES),
    "the same claim": lambda job: transitions.claim(job, claimant("holder", "claim-1"), now_ms=NOW, rules=RULES),
    "renew": lambda job: transitions.renew(job, fence(), now_ms=NOW),
    "complete": lambda job: transitions.complete(job, fence(), now_ms=NOW, result={"n": 1}),
    "fail": lambda job: _fail(job, retryable=True),
    "fail for good": lambda job: _fail(job, retryable=False),
    "release": lambda job: transitions.release(job, fence(), now_ms=NOW),
    "hand over": lambda job: transitions.hand_over(job, fence(), now_ms=NOW, rules=RULES, to="heir"),
    "the heir's claim": lambda job: transitions.claim(job, claimant("heir"), now_ms=NOW, rules=RULES),
    "its factory starts anew": lambda job: transitions.outlive(job, "holder", STARTED_ANEW, now_ms=NOW),
    "another factory starts anew": lambda job: transitions.outlive(job, "another", STARTED_ANEW, now_ms=NOW),
    "reap": lambda job: transitions.reap(job, now_ms=NOW, rules=RULES),
    "cancel": lambda job: transitions.cancel(job, request_id="op", by="f", now_ms=NOW, rules=RULES, reason=None),
    "enforce cancel": lambda job: transitions.enforce_cancel(job, now_ms=NOW),
    "time out": lambda job: transitions.time_out(job, now_ms=NOW),
    "due": lambda job: transitions.due(job, now_ms=NOW),
    "parents succeeded": lambda job: transitions.unblock(job, parents={"parent": State.SUCCEEDED}, now_ms=NOW),
    "parents running": lambda job: transitions.unblock(job, parents={"parent": State.LEASED}, now_ms=NOW),
    "parents failed": lambda job: transitions.unblock(job, parents={"parent": State.FAILED}, now_ms=NOW),
    "end run": lambda job: transitions.end_run(job, now_ms=NOW, rules=RULES, jitter=0.5),
    "heed progress": lambda job: _heed(job, progress_ms=None),
    "parents unknown": lambda job: transitions.unblock(job, parents={}, now_ms=NOW),
    "revoke": lambda job: transitions.revoke(job, request_id="op", by="f", now_ms=NOW, reason=None),
    "revoke and hold": lambda job: transitions.revoke(
        job, request_id="op", by="f", now_ms=NOW, reason=None, and_hold=True
    ),
    "redrive": lambda job: transitions.redrive(job, request_id="op", by="f", now_ms=NOW),
    "give way": lambda job: transitions.give_way(job, why="replaced", now_ms=NOW),
    "supersede": lambda job: transitions.supersede(job, by="newer", now_ms=NOW),
    "hold": lambda job: transitions.hold(job, request_id="op", by="f", now_ms=NOW, reason=None),
    "lift": lambda job: transitions.lift(job, request_id="op", by="f", now_ms=NOW),
}


def _fail(job: Job, *, retryable: bool) -> Decision:
    return transitions.fail(
        job, fence(), now_ms=NOW, rules=RULES, error="broke", result=None, retryable=retryable, jitter=0.5
    )


def _heed(job: Job, *, progress_ms: int | None) -> Decision:
    return transitions.heed_progress(job, progress_ms=progress_ms, now_ms=NOW, rules=RULES, jitter=0.5)


@dataclass(frozen=True, slots=True)
class Effect:
    """What an event does: the state after it, the grants it makes, the counter it raises, how a run ends by it."""

    to: str
    epoch: int = 0
    counted: str | None = None
    run: str | None = None
    """Outcome of the run that ends; None: no run ends."""


LIVE = (
    "leased",
    "leased, held",
    "leased, expired within the skew",
    "leased, deadline over",
    "leased, run over",
    "leased, no progress",
    "leased, no progress, to be revoked",
)
EXPIRED = ("leased, expired", "leased, expired at the cap", "leased, expired, held")
ASKED_TO_STOP = ("leased, cancel asked", "leased, grace over", "leased, expired, cancel asked")
SUPERSEDED = ("leased, superseded", "leased, superseded, last failure", "leased, superseded, expired")
LEASED = (*LIVE, *EXPIRED, *ASKED_TO_STOP, *SUPERSEDED, "leased, last failure")
UNDER_THE_CAP = (*LIVE, *EXPIRED)
WAIT_AGAIN = tuple(set(LEASED) - set(ASKED_TO_STOP) - set(SUPERSEDED))
STARTED_ANEW_ENDS = tuple(set(WAIT_AGAIN) - {"leased, expired at the cap"})
WAITING = tuple(name for name in SITUATIONS if name.startswith(("blocked", "scheduled", "ready")))
BLOCKED = ("blocked", "blocked, cancelled with its parent", "blocked, whatever its parent does")
EVERY = tuple(SITUATIONS)

ROWS: tuple[tuple[tuple[str, ...], str, Effect], ...] = (
    # Kept for another factory: nobody but the heir.
    (
        ("ready", "ready, reserved", "ready, given back", "scheduled, due"),
        "the heir's claim",
        Effect("leased", epoch=+1),
    ),
    (("leased, expired",), "the heir's claim", Effect("leased", epoch=+1, counted="expiries", run="expired")),
    (("leased, expired at the cap",), "the heir's claim", Effect("failed", counted="expiries", run="expired")),
    (("leased, expired, cancel asked",), "the heir's claim", Effect("cancelled", counted="expiries", run="expired")),
    # ready -> leased. A schedule that is due is claimable before anybody wrote that down.
    (("ready", "ready, given back", "scheduled, due"), "claim", Effect("leased", epoch=+1)),
    (("ready",), "the same claim", Effect("leased", epoch=+1)),  # it has never been granted
    # A dead lease is taken over in one write; at its cap, or under a cancel, it ends the job instead.
    (("leased, expired",), "claim", Effect("leased", epoch=+1, counted="expiries", run="expired")),
    (("leased, expired at the cap",), "claim", Effect("failed", counted="expiries", run="expired")),
    (("leased, expired, cancel asked",), "claim", Effect("cancelled", counted="expiries", run="expired")),
    # The holder, also after its expiry while nobody has taken over.
    (LEASED, "renew", Effect("leased")),
    (LEASED, "complete", Effect("succeeded", run="succeeded")),
    (UNDER_THE_CAP, "fail", Effect("scheduled", counted="failures", run="failed")),
    (("leased, last failure",), "fail", Effect("failed", counted="failures", run="failed")),
    ((*UNDER_THE_CAP, "leased, last failure"), "fail for good", Effect("failed", counted="failures", run="failed")),
    ((*UNDER_THE_CAP, "leased, last failure"), "release", Effect("ready", counted="releases", run="released")),
    ((*UNDER_THE_CAP, "leased, last failure"), "hand over", Effect("ready", counted="releases", run="released")),
    # The same as an acknowledgement of a cancel.
    (ASKED_TO_STOP, "hand over", Effect("cancelled", counted="releases", run="cancelled")),
    (ASKED_TO_STOP, "release", Effect("cancelled", counted="releases", run="cancelled")),
    (ASKED_TO_STOP, "fail", Effect("cancelled", counted="failures", run="cancelled")),
    (ASKED_TO_STOP, "fail for good", Effect("cancelled", counted="failures", run="cancelled")),
    # A newer job of its key has come: it may end, but does not wait again.
    (SUPERSEDED, "hand over", Effect("cancelled", counted="releases", run="released")),
    (SUPERSEDED, "release", Effect("cancelled", counted="releases", run="released")),
    (
        ("leased, superseded", "leased, superseded, expired"),
        "fail",
        Effect("cancelled", counted="failures", run="failed"),
    ),
    (("leased, superseded, last failure",), "fail", Effect("failed", counted="failures", run="failed")),
    (SUPERSEDED, "fail for good", Effect("failed", counted="failures", run="failed")),
    (SUPERSEDED, "revoke", Effect("cancelled", counted="releases", run="revoked")),
    (SUPERSEDED, "revoke and hold", Effect("cancelled", counted="releases", run="revoked")),
    (SUPERSEDED, "its factory starts anew", Effect("cancelled", counted="expiries", run="expired")),
    (("leased, superseded, expired",), "reap", Effect("cancelled", counted="expiries", run="expired")),
    (("leased, superseded, expired",), "claim", Effect("cancelled", counted="expiries", run="expired")),
    (("leased, superseded, expired",), "the heir's claim", Effect("cancelled", counted="expiries", run="expired")),
    # A start of the holder's factory: its earlier leases end as if they had expired.
    (STARTED_ANEW_ENDS, "its factory starts anew", Effect("ready", counted="expiries", run="expired")),
    (("leased, expired at the cap",), "its factory starts anew", Effect("failed", counted="expiries", run="expired")),
    (ASKED_TO_STOP, "its factory starts anew", Effect("cancelled", counted="expiries", run="expired")),
    # Time.
    (("leased, expired", "leased, expired, held"), "reap", Effect("ready", counted="expiries", run="expired")),
    (("leased, expired at the cap",), "reap", Effect("failed", counted="expiries", run="expired")),
    (("leased, expired, cancel asked",), "reap", Effect("cancelled", counted="expiries", run="expired")),
    (("leased, grace over",), "enforce cancel", Effect("cancelled", run="cancelled")),
    (("leased, deadline over",), "time out", Effect("failed", counted="failures", run="timed_out")),
    (("ready, deadline over",), "time out", Effect("failed")),
    (("scheduled, due",), "due", Effect("ready")),
    (BLOCKED, "parents succeeded", Effect("ready")),
    (("blocked, cancelled with its parent",), "parents failed", Effect("cancelled")),
    (("blocked, whatever its parent does",), "parents failed", Effect("ready")),
    (("leased, run over",), "end run", Effect("scheduled", counted="failures", run="timed_out")),
    (("leased, no progress",), "heed progress", Effect("leased")),
    (("leased, no progress, to be revoked",), "heed progress", Effect("scheduled", counted="failures", run="revoked")),
    (("blocked, and not before tomorrow",), "parents succeeded", Effect("scheduled")),
    # Operators.
    (WAITING, "cancel", Effect("cancelled")),
    (WAITING, "give way", Effect("cancelled")),
    (LEASED, "cancel", Effect("leased")),
    (WAIT_AGAIN, "revoke", Effect("ready", counted="releases", run="revoked")),
    (WAIT_AGAIN, "revoke and hold", Effect("ready", counted="releases", run="revoked")),
    (ASKED_TO_STOP, "revoke", Effect("cancelled", counted="releases", run="revoked")),
    (ASKED_TO_STOP, "revoke and hold", Effect("cancelled", counted="releases", run="revoked")),
    (("failed", "cancelled", "cancelled, superseded"), "redrive", Effect("ready")),
    (WAITING, "supersede", Effect("cancelled")),
    # A flag beside the state.
    (tuple(set(EVERY) - set(WAITING)), "supersede", Effect("=")),
    (EVERY, "hold", Effect("=")),
    (EVERY, "lift", Effect("=")),
)

TABLE: Mapping[tuple[str, str], Effect] = {
    (situation, event): effect for situations, event, effect in ROWS for situation in situations
}


__all__ = ["EPOCH", "EVENTS", "ROWS", "SITUATIONS", "TABLE", "Effect"]
