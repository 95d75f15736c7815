"""What a holder knows of its lease, with every moment on its own monotonic clock (I9). No I/O, no clock."""

from collections.abc import Mapping
from typing import Any

from broker.answers import Reason, Retry, Word
from broker.client.reply import Reply

FIRST_RENEWAL_SHARE = 6
"""The first renewal is due after a sixth of the ttl: a lease that can't be renewed is found out early."""
RENEWAL_SHARE = 3
RENEWAL_JITTER = 0.1
MARGIN_SHARE = 10
"""A holder stops a tenth of the ttl before the broker may give the job to another."""
RENEWAL_TIMEOUT_MAX_MS = 3_000
RETRY_SHARE = 30
"""A renewal without an answer is tried again after a thirtieth of the ttl, some twenty times before the deadline."""
TTL_MAX_MS = 8_640_000_000
"""A hundred times the longest that a broker gives. No thread waits for much more, and 0 is due at once."""
LOST = frozenset({Word.LEASE_LOST, Word.ALREADY_TERMINAL, Word.NOT_FOUND, Word.INVALID, Word.UNAUTHORIZED})
"""Answers after which there is nothing left to renew."""
SAYS_NOTHING = frozenset({Reason.STORE, Reason.CORRUPT})
"""... unless this is why: then the store did not show the job, or did not take the write, and nothing is known of the
lease, as after `outcome_unknown`. It may stand, and what can't be read or written now may be mended before the
deadline, which ends it in any case; no other gets the job before. So a holder goes on until then, rather than drop good
work."""


class Tenure:
    """One lease from its grant to its end. The deadline is `send time + ttl - ttl / 10` of the last good request."""

    def __init__(self, grant: Reply) -> None:
        body = grant.body
        self.job_id: str = body["job_id"]
        self.queue: str = body["queue"]
        self.epoch: int = body["epoch"]
        self.token: str = body["token"]
        self.payload: Any = body.get("payload")
        self.labels: Mapping[str, str] = body.get("labels") or {}
        self.failures: int = body.get("failures", 0)
        """Failed tries before this one."""
        self.directives: frozenset[str] = frozenset()
        self.ttl_ms: int = body["ttl_ms"]
        # A grant that is replayed has only what is left of its ttl.
        left_ms: int = min(self.ttl_ms, body.get("remaining_ms", self.ttl_ms))
        self.deadline_ms: int = grant.sent_monotonic_ms + left_ms - self.ttl_ms // MARGIN_SHARE
        self.renewal_due_ms = grant.sent_monotonic_ms + left_ms // FIRST_RENEWAL_SHARE

    @property
    def fence(self) -> dict[str, Any]:
        """What a fenced operation carries."""
        return {"epoch": self.epoch, "token": self.token}

    def over(self, now_ms: int) -> bool:
        """Whether the holder can't be sure any more that the lease is its own."""
        return now_ms >= self.deadline_ms

    def left_ms(self, now_ms: int) -> int:
        """How long the holder may still work, in milliseconds; at least 0."""
        return max(0, self.deadline_ms - now_ms)

    def renewal_timeout_ms(self) -> int:
        """How long one renewal may take before it is tried again."""
        return max(1, min(RENEWAL_TIMEOUT_MAX_MS, self.ttl_ms // FIRST_RENEWAL_SHARE))

    def renewed(self, reply: Reply, *, now_ms: int, jitter: float) -> bool:
        """Take in the answer to a renewal. Whether the lease still stands; the next renewal is due then.

        `jitter`, in [0, 1), spreads the next renewal over ±10 %.

        Raises:
          KeyError, TypeError, ValueError: what is said of the lease makes no sense. Nothing has changed.
        """
        if reply.answer in LOST and reply.reason not in SAYS_NOTHING:
            return False
        if reply.answer is not Word.RENEWED:
            self.renewal_failed(now_ms=now_ms, pause_ms=reply.retry_after_ms if reply.retry is Retry.LATER else None)
            return True
        ttl_ms, directives = reply.body["ttl_ms"], frozenset(reply.body.get("directives", ()))
        if not 0 < ttl_ms <= TTL_MAX_MS:
            raise ValueError("an extension beyond all that is given")
        sent_ms = reply.sent_monotonic_ms
        deadline_ms = max(self.deadline_ms, sent_ms + ttl_ms - ttl_ms // MARGIN_SHARE)
        spread = 1 + RENEWAL_JITTER * (2 * jitter - 1)
        due_ms = sent_ms + int(ttl_ms / RENEWAL_SHARE * spread)
        self.renewal_due_ms, self.deadline_ms = due_ms, deadline_ms
        self.ttl_ms, self.directives = ttl_ms, directives
        return True

    def renewal_failed(self, *, now_ms: int, pause_ms: int | None = None) -> None:
        """No answer, or one that says nothing of the lease: ask again soon, until the deadline."""
        soon_ms = max(1, self.ttl_ms // RETRY_SHARE)
        self.renewal_due_ms = now_ms + (soon_ms if pause_ms is None else min(pause_ms, 3 * soon_ms))
