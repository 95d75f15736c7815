"""The closed vocabulary of answers (design §7), each with its retry class."""

from collections.abc import Mapping
from enum import StrEnum
from typing import Any, Final

from msgspec import UNSET, UnsetType, field

from broker.entropy import Entropy
from datastore.value import Value


class Word(StrEnum):
    """What became of a request. Wire values."""

    OK = "ok"
    GRANTED = "granted"
    RENEWED = "renewed"
    REPLAYED = "replayed"
    CONFLICT = "conflict"
    LEASE_LOST = "lease_lost"
    ALREADY_TERMINAL = "already_terminal"
    NOT_CLAIMABLE = "not_claimable"
    NOT_FOUND = "not_found"
    NONE_AVAILABLE = "none_available"
    REQUEST_EXPIRED = "request_expired"
    THROTTLED = "throttled"
    DRAINING = "draining"
    UNAUTHORIZED = "unauthorized"
    INVALID = "invalid"
    OUTCOME_UNKNOWN = "outcome_unknown"


class Retry(StrEnum):
    """What a caller may do with an answer."""

    FINAL = "final"
    """The same request would get the same answer, or has had its effect."""
    LATER = "later"
    """Ask again after `retry_after_ms`, with a new request id."""
    SAME_ID = "same_id"
    """Send the same request id again: it may have taken effect already."""


FINAL: Final = Retry.FINAL
LATER: Final = Retry.LATER
SAME_ID: Final = Retry.SAME_ID
"""Names of their own for what every answer is looked at for (docs/decisions/0039)."""

RETRY: Mapping[Word, Retry] = {
    Word.CONFLICT: LATER,
    Word.NOT_CLAIMABLE: LATER,
    Word.NONE_AVAILABLE: LATER,
    Word.THROTTLED: LATER,
    Word.DRAINING: LATER,
    Word.OUTCOME_UNKNOWN: SAME_ID,
}
"""Words that are not named here are final."""

GOOD = frozenset({Word.OK, Word.GRANTED, Word.RENEWED, Word.REPLAYED})
"""The request has had its effect."""

RETRY_AFTER_MS = 1_000
"""What `later` says where nothing better is known."""


class Reason(StrEnum):
    """Why, beside the word. Wire values."""

    HELD = "held"
    RACED = "raced"
    ETAG_MISMATCH = "etag_mismatch"
    EXISTS = "exists"
    NOT_UNIQUE = "not_unique"
    LEASED = "leased"
    DRAINING = "draining"
    SCHEDULED = "scheduled"
    BLOCKED = "blocked"
    LOCK_BUSY = "lock_busy"
    PAUSED = "paused"
    REQUIREMENTS = "requirements"
    QUOTA = "quota"
    TERMINAL = "terminal"
    SUPERSEDED = "superseded"
    RECLAIMED = "reclaimed"
    RELEASED = "released"
    REVOKED = "revoked"
    TIMED_OUT = "timed_out"
    LEASE_OVER = "lease_over"
    NOT_CANCELLABLE = "not_cancellable"
    NOT_REDRIVABLE = "not_redrivable"
    NOT_LEASED = "not_leased"
    RESTARTED = "restarted"
    RESERVED = "reserved"
    EPOCH_FROM_THE_FUTURE = "epoch_from_the_future"
    MALFORMED = "malformed"
    CORRUPT = "corrupt"
    STORE = "store"
    OVERLOADED = "overloaded"
    TOO_MANY_WAITING = "too_many_waiting"
    UNSIGNED = "unsigned"
    BAD_SIGNATURE = "bad_signature"
    UNKNOWN_KEY = "unknown_key"
    KEY_REVOKED = "key_revoked"
    FOREIGN_FACTORY = "foreign_factory"
    NOT_PERMITTED = "not_permitted"
    OUTSIDE_WINDOW = "outside_window"
    REPEATED = "repeated"
    REQUEST_ID_USED = "request_id_used"


_LASTING = frozenset({Reason.TERMINAL, Reason.EXISTS, Reason.RESTARTED, Reason.DRAINING})
"""Reasons for which a word that says `later` does not mean it."""


class Answer(Value, frozen=True):
    """One reply before it is addressed. `body` holds the fields that belong to the word."""

    word: Word
    reason: Reason | None = None
    body: Mapping[str, Any] = field(default_factory=dict)
    retry_after_ms: int | None = None

    @property
    def retry(self) -> Retry:
        """The retry class of the word; a conflict or refusal that can't change is final."""
        return FINAL if self.reason in _LASTING else RETRY.get(self.word, FINAL)

    @property
    def later_ms(self) -> int:
        """When to ask again, where it says `later`."""
        return RETRY_AFTER_MS if self.retry_after_ms is None else self.retry_after_ms

    @property
    def grants(self) -> tuple[Mapping[str, Any], ...]:
        """The leases it gives: its own, or those of a claim for several jobs."""
        return tuple(self.body.get("grants", ())) or ((self.body,) if "token" in self.body else ())

    @property
    def good(self) -> bool:
        """Whether the request has had its effect."""
        return self.word in GOOD


def past_deadline(deadline_ms: int) -> Answer:
    """What a request is told whose time is over. This copy of it did nothing."""
    return Answer(Word.REQUEST_EXPIRED, body={"deadline_ms": deadline_ms})


def used_for(op: str, what: str | None = None) -> Answer:
    """What a request is told whose id this factory has used for `op`, which has had its effect. This one had none.

    `what`: the same in words, where the name of the operation doesn't say enough.
    """
    detail = f"this request id was used for {what or op}"
    return Answer(Word.INVALID, Reason.REQUEST_ID_USED, {"op": op, "detail": detail})


def put_off(reason: Reason, entropy: Entropy, *, resend: bool, after_ms: int) -> Answer:
    """What a request is told that there is no room for: to come back after `after_ms` and up to as much again, since
    those who are put off together are not to come back together.

    Of a `resend` nothing is known: its first copy may have had its effect.
    """
    if resend:
        return Answer(Word.OUTCOME_UNKNOWN, reason)
    return Answer(Word.THROTTLED, reason, retry_after_ms=after_ms + int(after_ms * entropy.jitter()))


class Reply(Value, frozen=True):
    """An answer as it goes over the reply channel, its members in this order. `presence` knows how it begins."""

    v: int
    request_id: str
    server_now_ms: int
    """Broker time, Unix milliseconds."""
    answer: Word
    reason: Reason | None
    retry: Retry
    retry_after_ms: int | UnsetType
    body: Mapping[str, Any]


def wire(answer: Answer, request_id: str, now_ms: int) -> Reply:
    """The reply as it goes over the reply channel."""
    retry = answer.retry
    after_ms = answer.later_ms if retry is LATER else UNSET
    return Reply(1, request_id, now_ms, answer.word, answer.reason, retry, after_ms, answer.body)


def plain(answer: Answer) -> dict[str, Any]:
    """One answer of several that go in one reply: the word and what belongs to it, side by side."""
    if (retry := answer.retry) is not LATER:
        return {"answer": answer.word, "reason": answer.reason, "retry": retry, **answer.body}
    later_ms = answer.later_ms
    return {"answer": answer.word, "reason": answer.reason, "retry": retry, "retry_after_ms": later_ms, **answer.body}
