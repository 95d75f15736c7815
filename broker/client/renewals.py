"""Which leases of one client are renewed together, and when. No I/O, no clock.

    kept --due--> in a round --answered--> kept, due a third of its ttl later
                             --lost------> dropped

One lease that is due takes along all whose time has half come, so that leases granted at different moments soon share
one message and one interval, and go on sharing it.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, TypeAlias

from broker.client.errors import BrokerUnavailable, ClientError
from broker.client.guard import Guard as AnyGuard
from broker.client.logger import Logger
from broker.client.reply import Reply
from broker.client.tenure import FIRST_RENEWAL_SHARE
from broker.failures import trace
from broker.lease_bodies import RENEW_MAX

Guard: TypeAlias = AnyGuard[Any]

log = Logger(__name__)

LOOK_MS = 1_000
"""How long a keeper waits without a look at the clock: while a machine is suspended its timers stand still."""


class Renewals:
    """The leases kept, by guard. Not safe under threads."""

    def __init__(self) -> None:
        self._kept: dict[Guard, int] = {}
        self._urgent: set[Guard] = set()
        self._on_their_way: set[Guard] = set()

    def keep(self, guard: Guard) -> int:
        """Renew this lease from now on. Returns its pace.

        Leases of one pace share a round: none of them has to wait for an answer much longer than it would by itself.
        """
        pace = guard.tenure.renewal_timeout_ms().bit_length()
        self._kept[guard] = pace
        return pace

    def drop(self, guard: Guard) -> None:
        """Don't renew this lease any more. A round it is in may still be on its way."""
        self._kept.pop(guard, None)
        self._urgent.discard(guard)

    def hurry(self, guard: Guard) -> None:
        """Renew this lease at once; where it is on its way, once more after that."""
        if guard in self._kept:
            self._urgent.add(guard)

    def due_ms(self, pace: int) -> int | None:
        """When the next round of this pace is due; None while there is nothing to renew."""
        return min((self._due_ms(guard) for guard in self._of(pace)), default=None)

    def next_round(self, pace: int, now_ms: int) -> Sequence[Guard]:
        """Leases to renew with one message now, the most urgent first; on their way until they have `landed`."""
        due_ms = self.due_ms(pace)
        if due_ms is None or due_ms > now_ms:
            return ()
        half_due = [
            guard
            for guard in self._of(pace)
            if self._due_ms(guard) - now_ms <= guard.tenure.ttl_ms // FIRST_RENEWAL_SHARE
        ]
        found = sorted(half_due, key=self._due_ms)[:RENEW_MAX]
        self._urgent.difference_update(found)
        self._on_their_way.update(found)
        return found

    def landed(self, guards: Iterable[Guard]) -> None:
        """Their round has been answered, or given up."""
        self._on_their_way.difference_update(guards)

    def on_its_way(self, guard: Guard) -> bool:
        """Whether a renewal of this lease is not answered yet."""
        return guard in self._on_their_way

    def deadline_ms(self) -> int | None:
        """The first moment at which one of the leases is over unless it is renewed."""
        return min((guard.tenure.deadline_ms for guard in self._kept), default=None)

    def overdue(self, now_ms: int) -> list[Guard]:
        """Leases past their holder's deadline, which are kept no more, also where they were lost before."""
        found = [guard for guard in self._kept if guard.tenure.over(now_ms)]
        for guard in found:
            self.drop(guard)
        return found

    @property
    def any(self) -> bool:
        """Whether one is kept."""
        return bool(self._kept)

    def everything(self) -> list[Guard]:
        """All that are kept."""
        return list(self._kept)

    def _of(self, pace: int) -> Iterable[Guard]:
        return (guard for guard, its in self._kept.items() if its == pace and guard not in self._on_their_way)

    def _due_ms(self, guard: Guard) -> int:
        return 0 if guard in self._urgent else guard.tenure.renewal_due_ms


def leases(guards: Sequence[Guard]) -> list[Mapping[str, Any]]:
    """What one message carries."""
    return [{"job_id": guard.job_id, **guard.tenure.fence} for guard in guards]


def timeout_ms(guards: Sequence[Guard]) -> int:
    """How long a round may take before it is tried again."""
    return min(guard.tenure.renewal_timeout_ms() for guard in guards)


def wait_s(moment_ms: int | None, now_ms: int) -> float | None:
    """How long to wait for a moment before the clock is looked at again; None: until something is to be kept."""
    return None if moment_ms is None else min(LOOK_MS, max(0, moment_ms - now_ms)) / 1000


def broken(error: Exception) -> BrokerUnavailable:
    """What a round that failed by a mistake of ours is worth: nothing, so that it is tried again."""
    log.error("renewals_broke", exception=trace())
    return BrokerUnavailable(f"{type(error).__name__}: {error}")


def tell(guards: Sequence[Guard], answer: Reply | ClientError, *, jitter: float) -> None:
    """Give each guard its own answer; where the message as a whole was refused or not answered, all the same one.

    One `jitter` for all: they are due together again.
    """
    try:
        results = answer.results if isinstance(answer, Reply) else ()
    except (KeyError, ValueError) as error:  # a broker of another version; what it says of one may not be lost on all
        results, answer = (), BrokerUnavailable(f"not an answer to renewals: {error!r}")
    each: Sequence[Reply | ClientError] = results if len(results) == len(guards) else [answer] * len(guards)
    for guard, its in zip(guards, each, strict=True):
        with apart(guard):
            guard.renewed(its, jitter=jitter)


@contextmanager
def apart(guard: Guard) -> Iterator[None]:
    """What goes wrong with one lease, such as a report that no thread can be had for, ends not what keeps others."""
    try:
        yield
    except Exception:
        log.error("lease_not_kept", job=guard.job_id, exception=trace())
