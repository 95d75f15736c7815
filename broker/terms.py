"""What a schedule is for a time: its expression, its job, from when on and until when. Pure rules of what is due."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import structlog
from msgspec import structs

from broker import cron
from broker.clock import SET_BACK_MS
from broker.documents import Frozen
from broker.messages import CatchUp

log = structlog.get_logger(__name__)

FIRES_MAX = 100
"""Jobs of one schedule that one sweep makes, of all its terms; what is left of a long outage, the next ones do."""
ALL_WITHIN_MS = 31 * 86_400_000
"""Missed fires older than this are not made up for, even where all are wanted."""
ON_TIME_MS = 60_000
"""A fire is missed once it is later than this, or than two ttls: a sweep comes four times a ttl."""


class Term(Frozen, frozen=True, kw_only=True):
    """What is to be submitted when, as it was said last, or before it was replaced or paused."""

    cron: str
    tz: str
    catch_up: CatchUp
    job: dict[str, Any]
    secret: str
    since_ms: int
    """Fires up to here are done with."""
    until_ms: int | None = None
    """The last moment at which it fires; None: it goes on."""

    def ends_others(self) -> bool:
        """Whether a job of it ends those with its key that were made before, whichever fires they are of."""
        unique = self.job.get("unique")
        replaces = isinstance(unique, Mapping) and unique.get("policy") == "replace"
        return replaces or self.job.get("supersedes") is not None


@dataclass(frozen=True, slots=True)
class Due:
    """The fires of a term to carry out now, and what is left of it then; None: nothing."""

    term: Term
    fires: tuple[int, ...]
    left: Term | None
    failed: bool = False
    """It can't be told here: of such a zone this process does not know the times. Another one may."""

    def cut(self, count: int) -> "Due":
        """Only the first `count` of its fires."""
        if count >= len(self.fires):
            return self
        left = structs.replace(self.term, since_ms=self.fires[count - 1]) if count else self.term
        return replace(self, fires=self.fires[:count], left=left)


def due(term: Term, *, now_ms: int, ttl_ms: int) -> Due:
    """The fires of a term that are on time, and of those that were missed the ones its policy wants."""
    try:
        return _due(term, now_ms=now_ms, ttl_ms=ttl_ms)
    except cron.UNKNOWN as error:
        log.error("term_can_not_fire", cron=term.cron, tz=term.tz, error=str(error))
        return Due(term, (), term, failed=True)


def _due(term: Term, *, now_ms: int, ttl_ms: int) -> Due:
    if term.until_ms is not None and term.until_ms > now_ms + SET_BACK_MS:  # time was set back since: it ends now
        term = structs.replace(term, until_ms=now_ms)
    until_ms = now_ms if term.until_ms is None else term.until_ms
    now_ms = max(now_ms, until_ms)  # the clock it was ended by may be a little ahead
    on_time_ms = max(term.since_ms, now_ms - max(ON_TIME_MS, 2 * ttl_ms))
    after_ms = on_time_ms
    if term.catch_up is CatchUp.ALL:
        after_ms = max(term.since_ms, now_ms - ALL_WITHIN_MS)
    fires = cron.within(term.cron, term.tz, after_ms=after_ms, until_ms=until_ms, at_most=FIRES_MAX)
    if not fires and term.catch_up is CatchUp.LAST:
        last_ms = cron.last_until(term.cron, term.tz, min(on_time_ms, until_ms))
        fires = [last_ms] if last_ms is not None and last_ms > term.since_ms else []
    since_ms = fires[-1] if len(fires) == FIRES_MAX else until_ms
    is_over = term.until_ms is not None and since_ms >= term.until_ms
    return Due(term, tuple(fires), None if is_over else structs.replace(term, since_ms=since_ms))


def next_ms(terms: Iterable[Term]) -> int | None:
    """The first time at which one of them fires; None where there is none for fifty years."""
    times = (_next_ms(term) for term in terms)
    return min((time for time in times if time is not None), default=None)


def _next_ms(term: Term) -> int | None:
    try:
        return cron.next_after(term.cron, term.tz, term.since_ms)
    except cron.UNKNOWN:  # to be looked at by every sweep: another process may know that zone
        return term.since_ms
